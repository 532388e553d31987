"""Consul as a registry of services, for `discovery.following`.

A service is followed by a blocking query for all its instances; which of them are meant, and well, is decided here
(`discovery.consul.places`), so that a service whose instances are all unwell is told from none. While a service has
none in its own datacenter, others are asked that the settings name. Prepared queries cannot block: they are run again
and again.
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

from discovery.backends import Place
from discovery.consul import index
from discovery.consul.answers import CatalogInstance, Instance
from discovery.consul.client import Client
from discovery.consul.names import Key, claim
from discovery.consul.places import IDENTITY, Read, Selection, namespace_of, place_of, read
from discovery.consul.publisher import Publisher
from discovery.consul.settings import ConsulDiscovery, ConsulService, is_consul_name
from discovery.names import Authority
from discovery.publish import Announcement
from discovery.registry import Away, Denied, Located
from meshd.api.complaints import Dam
from meshd.api.endpoints import EndpointSet
from meshd.api.names import canonical_address, is_label

log = logging.getLogger(__name__)
log.addFilter(Dam())

POLL_S: Final = 5.0
"""How often a prepared query is run, and another datacenter asked that stands in."""

MAX_SCANNED: Final = 256
"""Services that are looked through for an address which is no node's; a Consul that has more is not troubled so."""

SCAN_S: Final = 60.0
"""How often they are, at most."""

MAX_COMPLAINTS: Final = 5
"""Lines of the log about one reading of a service."""

MAX_REMEMBERED: Final = 1000
"""Complaints about a service that are not said again."""


class Wanted(NamedTuple):
    """What a key stands for in Consul. The first of `datacenters` is where it is; empty: the agent's own."""

    service: str
    chosen: Selection
    datacenters: tuple[str, ...]


class ConsulRegistry:
    """The Consul of `settings`; identities in it are believed if they are in the trust domain of `place`."""

    key = Key

    def __init__(self, settings: ConsulDiscovery, place: Place) -> None:
        self.name = place.name
        self._settings, self._trust_domain = settings, place.trust_domain
        self._client = Client(settings)
        self._services = settings.mapped
        self._following = 0
        self._complained: dict[Key, set[str]] = {}
        self._scan = _Scan(self._client)

    async def close(self) -> None:
        await self._client.close()

    # --- names ----------------------------------------------------------------------------------------------------

    def claim(self, authority: Authority) -> Key | None:
        return claim(authority, self._settings.domain)

    def wanted(self, key: Key) -> Wanted:
        """What is asked of Consul for a key that is no query."""
        settings = self._settings
        mapped = self._services.get((key.name, key.namespace)) if key.kind == "mesh" else None
        said = mapped or ConsulService()
        chosen = Selection(
            namespace=key.namespace if mapped is None else "",  # what is mapped is meant, whatever it says of itself
            port=key.port,
            tags=said.tags + ((key.tag,) if key.tag else ()),
            meta=tuple(sorted(said.meta.items())),
            only_passing=settings.only_passing if said.only_passing is None else said.only_passing,
            meshed_only=settings.meshed_only if said.meshed_only is None else said.meshed_only,
        )
        first = key.datacenter or said.datacenter or settings.datacenter
        return Wanted(said.service or key.name, chosen, (first, *said.failover))

    # --- following ------------------------------------------------------------------------------------------------

    async def follow(self, key: Key) -> AsyncGenerator[EndpointSet | None, None]:
        self._following += 1
        try:
            if key.kind == "query":
                while True:
                    yield await self._run(key)
                    await asyncio.sleep(_jittered(POLL_S))
            reader = _Reader(self, self._client, key, self.wanted(key))
            while True:
                found = await reader.next(index.wait_s(self._following, self._client.slots))
                yield found
                await asyncio.sleep(reader.space_s)
        finally:
            self._following -= 1
            self._complained.pop(key, None)

    async def _run(self, key: Key) -> EndpointSet | None:
        """What a prepared query gives now. It leaves out what is unwell, and with it perhaps the registration that says
        that a place is meshed: so the whole service is read, too."""
        ran = await self._client.run_query(key.name, key.datacenter or self._settings.datacenter)
        if ran is None:
            return None
        if not is_consul_name(ran.service):
            raise Away(f"the prepared query {key.name} is for {ran.service[:100]!r}, of which Consul cannot be asked")
        body, _ = await self._client.instances(ran.service, ran.datacenter)
        instances = await self._client.parse_instances(body, ran.service)
        among = {place for each in ran.nodes or () if (place := place_of(each)) is not None}
        chosen = Selection(port=key.port, only_passing=False, meshed_only=self._settings.meshed_only)
        return self._told(key, read(instances, (key.name, ""), chosen, self._trust_domain, among))

    def judge(self, key: Key, wanted: Wanted, instances: tuple[Instance, ...]) -> EndpointSet | None:
        """What is to be made of all the instances of the service that is wanted."""
        return self._told(key, read(instances, (key.name, key.namespace), wanted.chosen, self._trust_domain))

    def _told(self, key: Key, reading: Read) -> EndpointSet | None:
        """What was found; what is wrong is logged once for as long as the service is followed."""
        seen = self._complained.setdefault(key, set())
        new = [complaint for complaint in dict.fromkeys(reading.complaints) if complaint not in seen]
        for complaint in new[:MAX_COMPLAINTS]:
            log.error("%s: %s: %s", self.name, key.name, complaint)
        if len(new) > MAX_COMPLAINTS:
            log.error("%s: %s: and %d more of these", self.name, key.name, len(new) - MAX_COMPLAINTS)
        if len(seen) < MAX_REMEMBERED:
            seen.update(new)
        return reading.found

    # --- by address -----------------------------------------------------------------------------------------------

    async def locate(self, address: str, port: int) -> Located[Key] | None:
        """A node with that address is asked for what it has at the port. What is registered under another address than
        its node's takes looking through all services, which is done where they are few."""
        for node in await self._client.nodes_at(address):
            found = await self._client.services_of(node, port) if is_consul_name(node) else None
            there = [] if found is None else [
                (each.service, each.meta) for each in found.services.values()
                if each.port == port and (canonical_address(each.address) or each.address) in ("", address)
            ]  # fmt: skip
            if there:
                return Located(self._key_of(*min(there, key=_meshed_first), port))
        scanned = (await self._scan.places()).get((address, port))
        return None if scanned is None else Located(self._key_of(*scanned, port))

    def _key_of(self, service: str, meta: dict[str, str] | None, port: int) -> Key:
        """The key of a service of Consul by the name that callers in the mesh have for it, where it has one."""
        namespace = namespace_of(meta)
        for (name, space), mapped in self._services.items():
            if mapped.service == service and not mapped.tags and not mapped.meta:
                return Key("mesh", name, space, port=port)
        plain = is_label(service) and is_label(namespace) and (service, namespace) not in self._services
        return Key("mesh", service, namespace, port=port) if plain else Key("service", service, port=port)

    # --- whether it is there --------------------------------------------------------------------------------------

    async def probe(self) -> None:
        """Consul is in its own catalogue, so that who may read anything finds something there."""
        body, _ = await self._client.instances("consul", self._settings.datacenter)
        if await self._client.parse_instances(body, "consul"):
            return
        if not await self._client.services(self._settings.datacenter):
            raise Denied(
                f"{self._client.url}: Consul shows nothing at all: the token may not see it: it needs service:read and "
                "node:read (set consul.tokenFile)"
            )


class PublishingConsulRegistry(ConsulRegistry):
    """And this host's workloads are registered with it (`discovery.publish`)."""

    def __init__(self, settings: ConsulDiscovery, place: Place) -> None:
        super().__init__(settings, place)
        names = {name: mapped.service for name, mapped in self._services.items() if mapped.service}
        self._publisher = Publisher(self._client, place.node, names)

    def publish(self, announcements: tuple[Announcement, ...]) -> None:
        self._publisher.publish(announcements)

    async def withdraw(self) -> None:
        await self._publisher.withdraw()

    @property
    def trouble(self) -> str:
        trouble = self._publisher.trouble
        return f"{self.name}: this host's workloads cannot be registered: {trouble}" if trouble else ""

    async def close(self) -> None:
        await self._publisher.end()
        await super().close()


class _Reader:
    """Follows one service. `space_s`: how long to wait before the next reading."""

    def __init__(self, registry: ConsulRegistry, client: Client, key: Key, wanted: Wanted) -> None:
        self._registry, self._client, self._key, self._wanted = registry, client, key, wanted
        self._cursor = index.Cursor()
        self._digest = b""
        self._found: EndpointSet | None = None
        self.space_s = 0.0

    async def next(self, wait_s: float) -> EndpointSet | None:
        """What Consul says, when that is something new, or after wait_s, more or less."""
        wanted, clock = self._wanted, asyncio.get_running_loop().time
        wait_s = _jittered(wait_s if self._is_here or len(wanted.datacenters) == 1 else min(wait_s, POLL_S))
        waits_s = wait_s if self._cursor.index else 0.0
        asked_at = clock()
        body, heard = await self._client.instances(wanted.service, wanted.datacenters[0], self._cursor.index, wait_s)
        digest = hashlib.blake2b(body, digest_size=16).digest()
        changed = digest != self._digest
        self.space_s = _jittered(self._cursor.heard(heard, clock() - asked_at, waits_s, changed=changed))
        if changed:
            instances = await self._client.parse_instances(body, wanted.service)
            if not instances:
                await self._be_sure()
            self._found, self._digest = self._registry.judge(self._key, wanted, instances), digest
        return self._found if self._is_here or len(wanted.datacenters) == 1 else await self._elsewhere()

    @property
    def _is_here(self) -> bool:
        return self._found is not None and bool(self._found.endpoints)

    async def _be_sure(self) -> None:
        """Old Consuls do not tell one who may not see a service from one for whom there is none; `probe` tells one who
        may see nothing."""
        await self._registry.probe()

    async def _elsewhere(self) -> EndpointSet | None:
        """What the first of the other datacenters has that has any; Away when none has, and one could not be asked."""
        away: Away | None = None
        for datacenter in self._wanted.datacenters[1:]:
            try:
                body, _ = await self._client.instances(self._wanted.service, datacenter)
                instances = await self._client.parse_instances(body, self._wanted.service)
            except Away as error:
                away = error
                continue
            found = self._registry.judge(self._key, self._wanted, instances)
            if found is not None and found.endpoints:
                return found
        if away is not None:
            raise away
        return self._found


class _Scan:
    """Where all services are, looked through at times: (service, meta) by address and port."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._places: dict[tuple[str, int], tuple[str, dict[str, str] | None]] = {}
        self._at = -SCAN_S
        self._lock = asyncio.Lock()

    async def places(self) -> dict[tuple[str, int], tuple[str, dict[str, str] | None]]:
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if now - self._at >= SCAN_S:
                self._places = await self._look()
                self._at = now
            return self._places

    async def _look(self) -> dict[tuple[str, int], tuple[str, dict[str, str] | None]]:
        services = sorted(filter(is_consul_name, await self._client.services()))
        if len(services) > MAX_SCANNED:
            log.warning(
                "consul: %d services are too many to look through for an address that is not of a node", len(services)
            )
            return {}
        read = await asyncio.gather(*map(self._client.catalogue_of, services))
        found: dict[tuple[str, int], tuple[str, dict[str, str] | None]] = {}
        for service, instances in zip(services, read, strict=True):
            for each in instances:
                place = _place(each)
                if place not in found or (IDENTITY in (each.service_meta or {})):
                    found[place] = (service, each.service_meta)
        return found


def _place(instance: CatalogInstance) -> tuple[str, int]:
    address = instance.service_address or instance.address
    return canonical_address(address) or address, instance.service_port


def _meshed_first(there: tuple[str, dict[str, str] | None]) -> tuple[bool, str]:
    return IDENTITY not in (there[1] or {}), there[0]


def _jittered(seconds: float) -> float:
    """A little more, so that hosts which began together do not go on together."""
    return seconds * random.uniform(1.0, 1.1)  # noqa: S311 - to spread load
