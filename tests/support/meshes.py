"""A mesh in this process: proxies put together as the program does it, on loopback, with real TLS between them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from discovery.catalogue import Catalogue
from discovery.documents import read_documents
from discovery.names import Authority
from meshd.api.control import ProxyConfiguration, ProxyWorkload
from meshd.api.detection import Detection
from meshd.api.documents import Protocol, Upstream, WorkloadPort
from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName
from meshd.api.policy import Policy, Timeouts
from proxy.mesh.tls import Held
from proxy.runtime import Proxy
from proxy.sockets import Sockets
from proxy.static import StaticResolver
from tests.support.certificates import TRUST_DOMAIN, Root, identity
from tests.support.ports import free_port, free_ports
from tests.support.waiting import eventually

Services = dict[tuple[str, str], EndpointSet]

PATIENT = Policy(timeouts=Timeouts(connect="60s"))
"""A machine that does something else for a second makes no endpoint one that is away."""


def service(
    name: str, *endpoints: Endpoint, port: int = 80, protocol: Protocol = "auto", policy: Policy = PATIENT
) -> Services:
    return {("default", name): EndpointSet(ServiceName(name, "default", port), endpoints, protocol, policy=policy)}


def declared(text: str, directory: Path) -> Services:
    """The services of documents, as discovery makes them."""
    file = directory / "documents.yaml"
    file.write_text(text)
    documents = [each.document for each in read_documents(file)]
    catalogue = Catalogue.of(documents, TRUST_DOMAIN)
    found: Services = {}
    for document in documents:
        name = document.metadata
        answer = catalogue.find(Authority.parse(name.name, name.namespace))
        assert answer is not None  # it is among them
        found[name.namespace, name.name] = answer
    return found


@dataclass
class Node:
    """One proxy, for one workload. `held`: what it presents; None: nothing."""

    name: str
    root: Root
    held: Held | None
    ports: tuple[WorkloadPort, ...] = ()
    upstreams: tuple[Upstream, ...] = ()
    resolver: StaticResolver = field(default_factory=lambda: StaticResolver({}))
    trust_domain: str = TRUST_DOMAIN
    zone: str = ""
    outbound: int = field(default_factory=free_port)
    inbound: int = field(default_factory=free_port)
    admin: str = ""
    opaque_ports: tuple[int, ...] | None = None
    detection: Detection = field(default_factory=Detection)
    denied: tuple[str, ...] = ()
    proxy: Proxy = field(init=False)

    def configuration(self) -> ProxyConfiguration:
        return ProxyConfiguration(
            self.trust_domain,
            self.root.bundle_pem,
            f"127.0.0.1:{self.outbound}",
            f"127.0.0.1:{self.inbound}" if self.held is not None else "",
            self.admin,
            (ProxyWorkload("default", self.name, self.ports, self.upstreams, self.opaque_ports),),
            self.zone,
            detection=self.detection,
            denied=self.denied,
        )

    async def apply(self) -> None:
        """Bring the proxy to what this says, and wait until it is so."""
        held = {f"default/{self.name}": self.held} if self.held is not None else {}
        await self.proxy.apply(self.configuration(), self.resolver, held=held)
        await eventually(lambda: not self.proxy.waiting_for(), f"{self.name}'s proxy is ready")

    def endpoint(self, port: int, **changes: object) -> Endpoint:
        """Its workload's port, as others reach it."""
        found = Endpoint("127.0.0.1", port, identity(self.name), self.inbound)
        return Endpoint(**{each: changes.get(each, getattr(found, each)) for each in found.__struct_fields__})  # type: ignore[arg-type]

    async def close(self) -> None:
        await self.proxy.close()


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    """The nodes' proxies, ready; ended at the end."""
    for node in nodes:
        node.proxy = Proxy(Sockets([]))
    try:
        for node in nodes:
            await node.apply()
        yield
    finally:
        for node in nodes:
            await node.close()
        await asyncio.sleep(0)


def taken(node: Node, peer: str, which: str) -> int:
    """Bytes that a proxy has read from its callers (src) or endpoints (dst), or `written` to them."""
    return sum(getattr(each, f"{which}_bytes") for each in node.proxy.stats.tcp_series if each.peer == peer)


@dataclass
class Mesh:
    """`web` calls `api`, whose application is at `port`; the upstream `upstream` of web leads there too."""

    web: Node
    api: Node
    upstream: int
    root: Root

    @property
    def outbound(self) -> int:
        return self.web.outbound


def mesh(port: int, protocol: Protocol = "auto", upstream_protocol: Protocol = "auto") -> Mesh:
    """See `Mesh`; not running yet."""
    root = Root()
    api = Node("api", root, root.held(identity("api")), (WorkloadPort(port, protocol),))
    (upstream,) = free_ports(1)
    web = Node(
        "web",
        root,
        root.held(identity("web")),
        upstreams=(Upstream("api", f"127.0.0.1:{upstream}", upstream_protocol),),
        resolver=StaticResolver(service("api", api.endpoint(port))),
    )
    return Mesh(web, api, upstream, root)
