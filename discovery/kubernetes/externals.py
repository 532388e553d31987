"""Workloads outside the cluster that are endpoints of its Services: `Workload` objects with `spec.external`.

A virtual machine is no pod, and no controller of Kubernetes puts it into a slice. Here it is an endpoint of every
Service of its namespace whose selector its labels match, at each of its addresses, under its own identity; as Linkerd's
`ExternalWorkload`, but for the slices. Who may write in a namespace says nothing of the identities of another.

All of them are read, once, in one list that is kept up to date. A cluster that has no such objects, or does not let
them be read, has none; what was read stays while the API server is away. One that has just started may have Services to
tell before it has these: nothing is said of any until they were read, or cannot be for a while.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

import msgspec

from discovery.documents import document_of
from discovery.kubernetes.access import Absent, Access, Unreached
from discovery.kubernetes.customs import Customs
from discovery.kubernetes.documents import resource_of
from discovery.kubernetes.lists import Query
from discovery.kubernetes.objects import Custom, Service
from discovery.registry import Denied
from meshd.api.backoff import Backoff
from meshd.api.documents import API_VERSION, Workload
from meshd.api.loading import ConfigurationError
from meshd.api.names import WorkloadName
from meshd.api.tasks import Tasks

log = logging.getLogger(__name__)

RETRY_MIN_S, RETRY_MAX_S = 1.0, 30.0
UNREAD_RETRY_S: Final = 3.0
"""How soon they are asked for again as long as they were never read."""

PATIENT_TRIES: Final = 10
"""So often they are asked for until others wait for them no longer."""

SETTLE_S: Final = 0.2


class External(NamedTuple):
    """One workload as an endpoint: its addresses, and its ports, where all is served when there are none."""

    workload: WorkloadName
    labels: Mapping[str, str]
    addresses: tuple[str, ...]
    ports: frozenset[int]
    inbound_port: int
    zone: str

    def serves(self, port: int) -> bool:
        return not self.ports or port in self.ports


class Externals:
    """Those of a cluster; not `wanted`, there are none. `listeners` are called when others are there."""

    def __init__(self, access: Access, complain: Callable[[str], None], *, wanted: bool) -> None:
        self._access, self._complain = access, complain
        self._tasks = Tasks("external workloads")
        self._begun = False
        self._first = asyncio.Event()
        self._by_namespace: dict[str, tuple[External, ...]] = {}
        self._read: dict[tuple[str, str], tuple[Custom, External | None]] = {}
        self.listeners: set[Callable[[], None]] = set()
        self.settled = not wanted
        """Whether they were read, or cannot be."""

    def begin(self) -> None:
        """Follow them, from now on; calling it again does nothing."""
        if not self._begun and not self.settled:
            self._begun = True
            self._tasks.start(self._follow(), "follow")

    async def wait(self) -> None:
        """Returns when they were read, or cannot be."""
        self.begin()
        if not self.settled:
            await self._first.wait()

    async def close(self) -> None:
        await self._tasks.cancel()

    def behind(self, service: Service) -> tuple[External, ...]:
        """Those that a Service selects."""
        selector = service.spec.selector
        if not selector:
            return ()
        here = self._by_namespace.get(service.metadata.namespace, ())
        return tuple(each for each in here if all(each.labels.get(name) == value for name, value in selector.items()))

    def at(self, address: str, port: int) -> Iterable[External]:
        """Those with that address that serve that port."""
        return (
            each
            for there in self._by_namespace.values()
            for each in there
            if address in each.addresses and each.serves(port)
        )

    # --- following ------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        backoff = Backoff(RETRY_MIN_S, RETRY_MAX_S)
        said = ""
        failures, was_read = 0, False
        while True:
            news = asyncio.Event()
            feed = Customs(self._access, resource_of("Workload"), Query(), news.set)
            task = self._tasks.start(feed.run(), "read")
            try:
                while not feed.away:
                    await news.wait()
                    news.clear()
                    if feed.synced:
                        backoff.reset()
                        was_read = True
                        said = ""
                        self._take(feed.objects)
                    await asyncio.sleep(SETTLE_S)
            finally:
                task.cancel()
            if feed.away != said:
                said = feed.away
                log.warning("workloads outside the cluster are as they were read last: %s", said)
            is_refused = isinstance(feed.failed, Absent | Denied)
            if not isinstance(feed.failed, Unreached):  # else nobody has an answer, to these Services or to others
                failures += 1
            if self.settled or is_refused or failures >= PATIENT_TRIES:
                self._settle()
            pause_s = backoff.next_s()
            await asyncio.sleep(pause_s if was_read or is_refused else min(pause_s, UNREAD_RETRY_S))

    def _take(self, objects: Mapping[tuple[str, str], Custom]) -> None:
        before, self._read = self._read, {}
        for place, found in objects.items():
            had = before.get(place)
            self._read[place] = had if had is not None and had[0] is found else (found, self._external(place, found))
        grouped: dict[str, list[External]] = {}
        for (namespace, _), (_, external) in sorted(self._read.items()):
            if external is not None:
                grouped.setdefault(namespace, []).append(external)
        now = {namespace: tuple(there) for namespace, there in grouped.items()}
        if now != self._by_namespace or not self.settled:
            self._by_namespace = now
            self._settle()

    def _settle(self) -> None:
        self.settled = True
        self._first.set()
        for listener in tuple(self.listeners):
            listener()

    def _external(self, place: tuple[str, str], found: Custom) -> External | None:
        """What an object says; None where it is of no interest, with a complaint where it is not good."""
        namespace, name = place
        spec = {} if found.spec is msgspec.UNSET else msgspec.json.decode(found.spec)
        if not isinstance(spec, dict) or not spec.get("external"):
            return None
        meta = {"name": name, "namespace": namespace, "labels": found.metadata.labels}
        document = {"apiVersion": API_VERSION, "kind": "Workload", "metadata": meta, "spec": spec}
        try:
            (placed,) = document_of(document, f"workload {namespace}/{name}")
        except ConfigurationError as error:
            self._complain(str(error))
            return None
        workload = placed.document
        if not isinstance(workload, Workload) or workload.spec.external is None:
            return None
        external = workload.spec.external
        return External(
            workload.metadata.workload,
            workload.metadata.labels,
            tuple(str(ip_address(each)) for each in external.addresses),
            frozenset(port.port for port in workload.spec.ports),
            external.inbound_port,
            external.zone,
        )
