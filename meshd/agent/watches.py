"""The watches that one connection of the control API has open, by the calls that opened them.

The same for a host's proxies and a cluster's sidecars: an id is one watch's, there are no more than a bound, `Cancel`
ends one, and the connection's end all. What is watched is the session's affair (`meshd.agent.session`,
`k8s.controller.session`).
"""

from collections.abc import Callable
from typing import Final

import msgspec

from discovery.names import Authority
from discovery.source import Close
from meshd.agent.connection import Outbox
from meshd.agent.registry import Unacceptable
from meshd.api.control import Destination, WatchDestination
from meshd.api.names import InvalidName

NOWHERE: Final = msgspec.Raw(msgspec.json.encode(Destination(None)))


class OpenWatches:
    """Those of the connection behind `outbox`, at most `most` at a time."""

    def __init__(self, outbox: Outbox, most: int) -> None:
        self._outbox, self._most = outbox, most
        self._open: dict[int, Close] = {}

    def check(self, call_id: int) -> None:
        """Unacceptable where that call cannot open a watch."""
        if call_id in self._open:
            raise Unacceptable(f"the id {call_id} is that of an open watch")
        if len(self._open) >= self._most:
            raise Unacceptable(f"this connection has {self._most} watches open already", retry=True)

    def add(self, call_id: int, close: Close) -> None:
        """The call opened one, after `check`; `close` ends it."""
        self._open[call_id] = close

    def destination(self, call_id: int, asked: WatchDestination, watch: Callable[[Authority], Close]) -> None:
        """Open what `watch` makes of the name that is asked for. One that can be no service's leads nowhere, for good.
        Unacceptable."""
        self.check(call_id)
        try:
            authority = Authority.parse(asked.authority, asked.namespace)
        except InvalidName:
            self._outbox.update(call_id, lambda: NOWHERE)
            self.add(call_id, lambda: None)
        else:
            self.add(call_id, watch(authority))

    def cancel(self, call_id: int) -> None:
        """End one. What was not yet said of it is not wanted any more; one that is not open is none."""
        close = self._open.pop(call_id, None)
        if close is not None:
            close()
            self._outbox.forget(call_id)

    def close(self) -> None:
        """The connection ended."""
        for close in self._open.values():
            close()
        self._open.clear()
