"""The caller's end of a relay. It looks at what its caller says first, and holds nothing back for it.

    application's own TLS   the server name of its ClientHello is recorded, as the label `sni` (`proxy.hello`)
    HTTP after all          the relay is given up, and whoever can speak HTTP has the connection (`turned`)
    anything else           no such label

A connection is counted as opened once it is known under which labels: with the caller's ClientHello or its first bytes
that are none, when the server speaks first, or at its end. Until then it is `undecided` (`proxy.stats.TcpTraffic`).

Callers choose the names, so a listener tells few of them apart.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from proxy.detect import Detected, detect
from proxy.hello import HelloReader
from proxy.mesh.records import RecordReader
from proxy.stats import Labels, Stats, TcpTraffic
from proxy.tcp import RelayEnd

MAX_NAMES: Final = 100
"""Server names that the metrics tell apart for a listener (on the way in: for a port of a workload)."""
OTHER: Final = "other"
"""What all further ones are called."""


class ServerNames:
    """The server names that a listener's callers asked for, the first `MAX_NAMES` of them."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def label(self, name: str) -> str:
        """name itself, or `OTHER`."""
        if name not in self._known:
            if len(self._known) >= MAX_NAMES:
                return OTHER
            self._known.add(name)
        return name


class CallerTraffic:
    """The series in which relays from callers are counted; `labels` are those of one without TLS of its own."""

    __slots__ = ("_labels", "_names", "_stats", "plain")

    def __init__(self, stats: Stats, labels: Labels, names: ServerNames) -> None:
        self._stats = stats
        self._labels = labels
        self._names = names
        self.plain = stats.tcp(labels, "src", relays=True)

    def of(self, name: str | None) -> TcpTraffic:
        """The series of connections whose ClientHello asks for name; None: there is none."""
        if name is None:
            return self.plain
        labels = self._labels._replace(sni=self._names.label(name) if name else "")
        return self._stats.tcp(labels, "src", relays=True)


Turned = Callable[[asyncio.Transport, Detected, bytes], None]
Again = Callable[[asyncio.Transport, bytes], bool]


class CallerEnd(RelayEnd):
    """See the module. `turned` takes over where the first that is said on the connection, by either side, is a request
    of HTTP: it is given where nobody knows yet what the connection is for. A request whose first line comes in pieces
    is passed on; nothing is held back to find it. Where the caller is another proxy, `again` may have the connection
    when the relay is over, with what came behind it."""

    def __init__(self, traffic: CallerTraffic, *, again: Again | None = None, turned: Turned | None = None) -> None:
        super().__init__(TcpTraffic(traffic.plain.labels, "src", relays=True), records=again is not None)
        self._again = again
        self._traffic = traffic
        self._turned = turned
        self._given_up = False
        self._hello: HelloReader | None = HelloReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._traffic.plain.undecided += 1
        super().connection_made(transport)

    def _decide(self, name: str | None) -> None:
        """Count the connection, and what it has carried, where it belongs."""
        self._hello = None
        self._traffic.plain.undecided -= 1
        before, self._tcp = self._tcp, self._traffic.of(name)
        self._tcp.opened += 1
        self._tcp.read_bytes += before.read_bytes
        self._tcp.written_bytes += before.written_bytes

    def _pass_on(self, data: bytes) -> None:
        if self._turned is not None:
            turned, self._turned = self._turned, None
            found = detect(data)
            if found is not None and found != "tcp":
                self._give_up()
                turned(self.transport, found, data)
                return
        if self._hello is not None and self._hello.feed(data):
            self._decide(self._hello.name)
        super()._pass_on(data)

    def join(self, other: RelayEnd) -> None:
        if self._given_up:
            other.leave()
        else:
            super().join(other)

    def _give_up(self) -> None:
        """Be no end of a relay any more, and never have been one. What was opened for it is closed; what is being
        opened will be."""
        self._given_up = self.lost = True
        self._hello = None
        self._traffic.plain.undecided -= 1
        other, self._other = self._other, None
        if other is not None:
            other.leave()

    def give_back(self, reader: RecordReader) -> bool:
        return self._again is not None and self._again(self.transport, reader.rest)

    def abort(self, error: BaseException | None) -> None:
        if not self._given_up:  # the connection is another's
            super().abort(error)

    def write(self, data: bytes) -> None:
        if self._hello is not None:
            self._turned = None
            self._decide(None)  # the server speaks first
        super().write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._hello is not None:
            self._decide(None)
        super().connection_lost(exc)
