"""Where a service can be reached: what discovery yields and what a proxy balances over."""

from typing import NamedTuple

from msgspec import Struct

from meshd.api.documents import Protocol, ServiceEndpoint
from meshd.api.names import Identity, WorkloadName, canonical_address
from meshd.api.policy import Policy


class ServiceName(NamedTuple):
    """A service as callers mean it; written NAME.NAMESPACE:PORT."""

    name: str
    namespace: str
    port: int

    def __str__(self) -> str:
        return f"{self.name}.{self.namespace}:{self.port}"


class Endpoint(Struct, frozen=True):
    """One place that serves, at `address`:`port`.

    With an `identity` it is meshed: connections go to the proxy at `address`:`inbound_port`, which must prove that
    SPIFFE ID and is told `port` in the transport header. Without one they go straight to the port, in plain text.
    """

    address: str
    port: int
    identity: str = ""
    inbound_port: int = 0
    protocol: Protocol = "auto"
    weight: int = 1
    zone: str = ""
    labels: dict[str, str] = {}


def endpoint_of(declared: ServiceEndpoint, protocol: Protocol, namespace: str, trust_domain: str) -> Endpoint:
    """An endpoint as a document declares it, of a service that speaks `protocol`. Its workload is in `namespace` unless
    it names another; InvalidName where that is no name."""
    identity, inbound_port = "", 0
    if declared.workload:
        workload = WorkloadName.parse(declared.workload, namespace)
        identity, inbound_port = str(Identity.of(trust_domain, workload)), declared.inbound_port
    return Endpoint(
        canonical_address(declared.address) or declared.address,
        declared.port,
        identity,
        inbound_port,
        protocol,
        declared.weight,
        declared.zone,
        declared.labels,
    )


class EndpointSet(Struct, frozen=True):
    """All that is known of a service at one moment, and how it is to be treated. `stale`: its back end is away and this
    is the last it said. `opaque`: whether it is, where `protocol` is `auto`; None: its port's
    number decides (`meshd.api.detection`). `source`: which back end knows it, empty where it does not say."""

    service: ServiceName
    endpoints: tuple[Endpoint, ...] = ()
    protocol: Protocol = "auto"
    stale: bool = False
    policy: Policy = Policy()
    opaque: bool | None = None
    source: str = ""
