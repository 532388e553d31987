"""Where services are, for many sidecars: each authority is followed once, and what is said of it is encoded once.

A thousand sidecars that follow a service hear of a change in the same bytes: all of it, or what differs from the last
(`meshd.api.differences`) for those who have heard the last. Who has not read what came before hears all of it.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from discovery.chain import Chain
from discovery.names import Authority
from meshd.agent.connection import Outbox
from meshd.agent.registry import Unacceptable
from meshd.agent.saying import Saying
from meshd.api.control import Destination, DestinationChange
from meshd.api.endpoints import EndpointSet
from meshd.api.names import WorkloadName

MAX_DESTINATIONS: Final = 50_000
"""Authorities that are followed at a time; sidecars choose them."""

MAX_OF_A_WORKLOAD: Final = 2_048
"""Different ones of all sidecars of a workload together, so that one workload does not use up what discovery follows. A
proxy follows 1,000."""


class Destinations:
    """Those of `discovery`."""

    def __init__(
        self, discovery: Chain, max_destinations: int = MAX_DESTINATIONS, max_of_a_workload: int = MAX_OF_A_WORKLOAD
    ) -> None:
        self._discovery, self._max, self._max_of_a_workload = discovery, max_destinations, max_of_a_workload
        self._followed: dict[Authority, _Followed] = {}
        self._wanted: dict[WorkloadName, Counter[Authority]] = {}
        """What each workload's sidecars watch, and in how many watches."""
        self.watches = 0
        """How many are open."""

    def __len__(self) -> int:
        return len(self._followed)

    def watch(
        self, workload: WorkloadName, authority: Authority, outbox: Outbox, call_id: int, *, differences: bool
    ) -> Callable[[], None]:
        """Tell outbox, which is of a sidecar of workload, where authority leads, now and whenever that changes, until
        what is returned is called. Unacceptable."""
        wanted = self._wanted.get(workload, ())
        if authority not in wanted and len(wanted) >= self._max_of_a_workload:
            most = self._max_of_a_workload
            raise Unacceptable(f"sidecars of {workload} ask for {most} services already, which is the most", retry=True)
        followed = self._followed.get(authority)
        if followed is None:
            if len(self._followed) >= self._max:
                raise Unacceptable(f"{self._max} services are asked for already, which is the most", retry=True)
            followed = self._followed[authority] = _Followed()
            followed.close = self._discovery.watch(authority, followed.hear)
        watch = _Watch(followed, outbox, call_id, differences=differences)
        followed.watches[watch] = None
        self.watches += 1
        self._wanted.setdefault(workload, Counter())[authority] += 1
        if followed.version:
            watch.tell()

        def unwatch() -> None:
            if followed.watches.pop(watch, watch) is watch:
                return  # it was ended before
            self.watches -= 1
            self._unwanted(workload, authority)
            if not followed.watches and self._followed.get(authority) is followed:
                del self._followed[authority]
                followed.close()

        return unwatch

    def _unwanted(self, workload: WorkloadName, authority: Authority) -> None:
        wanted = self._wanted[workload]
        wanted[authority] -= 1
        if not wanted[authority]:
            del wanted[authority]
        if not wanted:
            del self._wanted[workload]


class _Followed:
    """One authority. `version` counts what was heard of it, 0 for nothing yet."""

    __slots__ = ("_change", "_change_said", "_saying", "_whole", "close", "version", "watches")

    def __init__(self) -> None:
        self.close: Callable[[], None] = lambda: None
        self.watches: dict[_Watch, None] = {}
        self.version = 0
        self._saying = Saying(differences=True)
        self._change: DestinationChange | None = None
        self._change_said: msgspec.Raw | None = None
        self._whole: msgspec.Raw | None = None

    def hear(self, found: EndpointSet | None) -> None:
        body = self._saying.next(found)
        self._change = body if isinstance(body, DestinationChange) else None
        self._change_said = self._whole = None
        self.version += 1
        for watch in tuple(self.watches):
            watch.tell()

    def said(self, since: int) -> msgspec.Raw:
        """What one is to be told who heard the version `since`."""
        if self._change is not None and since == self.version - 1:
            if self._change_said is None:
                self._change_said = msgspec.Raw(msgspec.json.encode(self._change))
            return self._change_said
        if self._whole is None:
            self._whole = msgspec.Raw(msgspec.json.encode(Destination(self._saying.known)))
        return self._whole


class _Watch:
    """One sidecar's interest in an authority."""

    __slots__ = ("_call_id", "_differences", "_followed", "_heard", "_outbox")

    def __init__(self, followed: _Followed, outbox: Outbox, call_id: int, *, differences: bool) -> None:
        self._followed, self._outbox, self._call_id = followed, outbox, call_id
        self._differences, self._heard = differences, 0

    def tell(self) -> None:
        self._outbox.update(self._call_id, self._say)

    def _say(self) -> msgspec.Raw:
        since = self._heard if self._differences and self._heard else -1
        self._heard = self._followed.version
        return self._followed.said(since)
