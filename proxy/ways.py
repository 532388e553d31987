"""Ways to whoever says what the proxy is to be: the seam of `proxy.control`, and the way over a Unix socket.

The other way, to a cluster's controller over TLS, is `proxy.controller`. A way knows how a connection is made and as
whom the proxy is known at its other end; what is said on the connection is not its affair.
"""

import asyncio
from typing import Final, NamedTuple, Protocol

from meshd.api.control import Attach, ProxyConfiguration, SignCertificate

READ_BYTES: Final = 256 << 10


class NoWay(Exception):
    """There is no connection now; the message says why."""


class Ending(NamedTuple):
    """How a connection ended: whether anything was heard on it, and whether the other end did not take who connected,
    as it said."""

    spoken: bool
    rejected: bool = False


class Way(Protocol):
    """One way. `kind` and `place` are who is there and where, for messages: an agent, at its socket. Tries are
    `retry_max_s` apart at most."""

    kind: str
    place: str
    retry_max_s: float

    @property
    def proven(self) -> bool:
        """Whether the connection that was made last shows who the proxy is. One that does not is for getting what
        does: attaching and signing."""

    @property
    def can_prove(self) -> bool:
        """Whether a connection that is made now would."""

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection. NoWay."""

    def attach(self, version: str) -> Attach:
        """What the proxy attaches with on that connection. NoWay where it cannot be had."""

    def sign(self, workload: str, csr_pem: str) -> SignCertificate:
        """What it asks for a certificate with. NoWay where it cannot be had."""

    def use(self, configuration: ProxyConfiguration) -> None:
        """It was said by this way."""

    def ended(self, how: Ending) -> None:
        """The connection is over."""


class UnixSocket:
    """The agent of this host, which knows by the kernel who connects, and by the secret `instance` for whom."""

    kind = "agent"
    proven = can_prove = True
    retry_max_s = 1.5
    """With its jitter, at least three quarters of a second between two tries: an agent that was away has all its
    proxies again within two seconds. To try a Unix socket that nobody listens on costs microseconds."""

    def __init__(self, path: str, instance: str = "") -> None:
        self.place, self._instance = path, instance

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_unix_connection(self.place, limit=READ_BYTES)
        except OSError as error:
            raise NoWay(error.strerror or str(error)) from error

    def attach(self, version: str) -> Attach:
        return Attach(version, self._instance)

    def sign(self, workload: str, csr_pem: str) -> SignCertificate:
        return SignCertificate(workload, csr_pem)

    def use(self, configuration: ProxyConfiguration) -> None:
        """Nothing of it is for this way."""

    def ended(self, how: Ending) -> None:
        """The next connection is made as this one was."""
