"""This host's workloads, registered with the Consul agent of this host and kept so.

What is wanted is compared with what the agent has, again and again: an agent that began anew, or that lost a
registration, has it again soon. Each has a check that the agent takes for critical when nobody says any more that the
workload is well (`TTL_S`), and what nobody takes back goes by itself in the end (`GONE_AFTER_S`).

    id      meshd-NODE.NAMESPACE.NAME.PORT.INBOUND     no two alike, since no part has a dot in it
    meta    as `discovery.consul.places` reads it, and `meshd-node`, by which it is ours

A registration that is not ours is never touched. Where one is of the same address and port, it is the application's
own, and takes the place for one that is reached in plain text: so ours stays when it is withdrawn, unwell, and goes by
itself. Callers would otherwise fall back to plain text whenever an agent is started again.
"""

import asyncio
import logging
import random
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from discovery.consul import places
from discovery.consul.answers import Registered, Weights
from discovery.consul.client import Client, Refused
from discovery.publish import Announcement
from discovery.registry import Away
from meshd.api.names import DEFAULT_NAMESPACE, canonical_address
from meshd.api.tasks import Tasks

log = logging.getLogger(__name__)

TTL_S: Final = 30.0
EVERY_S: Final = 10.0
GONE_AFTER_S: Final = 86400.0
WITHDRAWN_WITHIN_S: Final = 5.0

NODE: Final = "meshd-node"
WITHDRAWN: Final = "meshd withdrew it"
MAX_NOTE: Final = 200
MAX_META: Final = 64
"""Pairs of a registration's meta, which is Consul's own bound."""

_META_KEY: Final = re.compile(r"(?!meshd-|consul-)[A-Za-z0-9_-]{1,128}")


class Publication(NamedTuple):
    """A registration as it is to be, and how the workload is."""

    registered: Registered
    healthy: bool
    note: str


class Publisher:
    """What is published through `client` for the host `node`. `names` are what services are called in Consul, by (name,
    namespace), where not as in the mesh. `trouble` says why the agent has not what it should; empty when it has."""

    def __init__(
        self,
        client: Client,
        node: str,
        names: Mapping[tuple[str, str], str],
        every_s: float = EVERY_S,
        ttl_s: float = TTL_S,
    ) -> None:
        self._client, self._node, self._names = client, node, names
        self._every_s, self._ttl_s = every_s, ttl_s
        self._prefix = f"meshd-{node}."
        self._wanted: dict[str, Publication] = {}
        self._news = asyncio.Event()
        self._tasks = Tasks("consul")
        self._running = False
        self._complained: set[str] = set()
        self.trouble = ""

    def publish(self, announcements: Iterable[Announcement]) -> None:
        """These are all there are now."""
        wanted: dict[str, Publication] = {}
        first: set[tuple[str, str, int]] = set()
        for each in announcements:
            place = (each.service.namespace, each.service.name, each.endpoint.inbound_port)
            publication = self._publication(each, place in first)
            first.add(place)
            wanted[publication.registered.id] = publication
        if wanted != self._wanted or not self._running:
            self._wanted = wanted
            self._news.set()
        if not self._running:
            self._running = True
            self._tasks.start(self._run(), "publish")

    async def withdraw(self) -> None:
        """Take all of it back, and end. What cannot be taken back now is critical after TTL_S."""
        await self.end()
        if self._running:
            self._wanted, self._running = {}, False
            try:
                async with asyncio.timeout(WITHDRAWN_WITHIN_S):
                    await self._agree()
            except (Away, TimeoutError) as error:
                log.warning("consul: what was published is not withdrawn, and critical in %g s: %s", self._ttl_s, error)

    async def end(self) -> None:
        """Say no more."""
        await self._tasks.cancel()

    async def _run(self) -> None:
        while True:
            self._news.clear()
            try:
                await self._agree()
            except Away as error:
                if not self.trouble:
                    log.error("consul: this host's workloads cannot be published: %s", error)
                self.trouble = str(error)
            else:
                if self.trouble:
                    log.info("consul: this host's workloads are published")
                self.trouble = ""
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s * random.uniform(0.8, 1.0)):  # noqa: S311 - to spread load
                    await self._news.wait()

    # --- making the agent agree -----------------------------------------------------------------------------------

    async def _agree(self) -> None:
        """Away when some of it cannot be done. What Consul refuses of one service (by its ACLs, say) keeps no other
        from being kept up."""
        there = await self._client.registered()
        wanted = self._wanted
        refused: Refused | None = None
        for service_id, found in there.items():
            if self._is_ours(service_id, found) and service_id not in wanted:
                try:
                    await self._take_back(found, there)
                except Refused as error:
                    refused = refused or error
        for service_id, publication in wanted.items():
            found_there = there.get(service_id)
            if found_there is not None and not self._is_ours(service_id, found_there):
                self._complain(f"{service_id} is registered by somebody else, and is left alone")
                continue
            try:
                await self._keep(publication, found_there)
            except Refused as error:
                refused = refused or error
        if refused is not None:
            raise refused

    async def _keep(self, publication: Publication, found: Registered | None) -> None:
        wanted = publication.registered
        if found is None or not _agrees(found, wanted):
            await self._register(publication)
        try:
            await self._client.check(wanted.id, publication.healthy, publication.note)
        except Refused:  # somebody took its check away
            await self._register(publication)
            await self._client.check(wanted.id, publication.healthy, publication.note)

    async def _register(self, publication: Publication) -> None:
        status = "passing" if publication.healthy else "critical"
        await self._client.register(publication.registered, self._ttl_s, GONE_AFTER_S, status)

    async def _take_back(self, ours: Registered, there: Mapping[str, Registered]) -> None:
        others = (each for service_id, each in there.items() if not self._is_ours(service_id, each))
        if any(_same_place(ours, each) for each in others):
            with suppress(Refused):  # it has no check any more, and somebody wants it so
                await self._client.check(ours.id, passing=False, note=WITHDRAWN)
        else:
            await self._client.deregister(ours.id)

    def _is_ours(self, service_id: str, found: Registered) -> bool:
        return service_id.startswith(self._prefix) and (found.meta or {}).get(NODE) == self._node

    def _complain(self, complaint: str) -> None:
        if complaint not in self._complained:
            if len(self._complained) >= 1000:
                self._complained.clear()
            self._complained.add(complaint)
            log.error("consul: %s", complaint)

    # --- what is to be there ---------------------------------------------------------------------------------------

    def _publication(self, announcement: Announcement, secondary: bool) -> Publication:
        """What is to be registered. All ports of a workload but the first are `secondary`: callers name them."""
        service, endpoint = announcement.service, announcement.endpoint
        parts = (service.namespace, service.name, str(endpoint.port), str(endpoint.inbound_port))
        meta = {
            NODE: self._node,
            places.NAMESPACE: "" if service.namespace == DEFAULT_NAMESPACE else service.namespace,
            places.IDENTITY: endpoint.identity,
            places.INBOUND_PORT: str(endpoint.inbound_port) if endpoint.identity else "",
            places.PROTOCOL: "" if endpoint.protocol == "auto" else endpoint.protocol,
            places.SECONDARY: "true" if secondary else "",
            places.ZONE: endpoint.zone,
            places.WEIGHT: "" if endpoint.weight == 1 else str(endpoint.weight),
        }
        registered = Registered(
            id=self._prefix + ".".join(parts),
            service=self._names.get((service.name, service.namespace), service.name),
            address=endpoint.address,
            port=endpoint.port,
            tags=(),
            meta=self._with_labels({key: value for key, value in meta.items() if value}, endpoint.labels),
            weights=Weights(endpoint.weight, endpoint.weight),
        )
        note = "".join(each if each.isprintable() else "?" for each in announcement.message[:MAX_NOTE])
        return Publication(registered, announcement.healthy, note)

    def _with_labels(self, meta: dict[str, str], labels: Mapping[str, str]) -> dict[str, str]:
        for key, value in labels.items():
            if _META_KEY.fullmatch(key) and len(value.encode()) <= 512 and len(meta) < MAX_META:
                meta[key] = value
            else:
                self._complain(f"the label {key[:100]!r} is not published: Consul would not take it as meta")
        return meta


def _agrees(found: Registered, wanted: Registered) -> bool:
    """Whether the agent has what is wanted. Tags may be somebody's who enabled them to be overridden."""
    return (
        (found.service, found.address, found.port) == (wanted.service, wanted.address, wanted.port)
        and (found.meta or {}) == (wanted.meta or {})
        and (found.weights or Weights()) == wanted.weights
    )


def _same_place(ours: Registered, other: Registered) -> bool:
    """Whether both can be the same process; an address that is left out is the node's, which ours may be."""

    def address(each: Registered) -> str:
        return canonical_address(each.address) or each.address.lower()

    return ours.port == other.port and address(other) in ("", address(ours))
