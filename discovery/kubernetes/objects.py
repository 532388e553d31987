"""What the API server says, as types: the objects of the API as far as they matter here, and nothing else of them.

What is left out is not even kept in memory: a pod's JSON has 10 kB, of which 200 bytes are of use.
"""

from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

Port = Annotated[int, Meta(ge=1, le=65535)]

T = TypeVar("T")


class Labelled(Struct, frozen=True, rename="camel"):
    """The metadata of an object whose annotations do not matter."""

    name: Annotated[str, Meta(min_length=1, max_length=253)]
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] = {}


class Marked(Labelled, frozen=True, rename="camel"):
    """The metadata of an object whose annotations do."""

    annotations: dict[str, str] = {}


class ServicePort(Struct, frozen=True, rename="camel"):
    port: Port
    name: str = ""
    protocol: str = "TCP"
    app_protocol: str = ""
    target_port: int | str = 0


class ServiceSpec(Struct, frozen=True, rename="camel"):
    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    ports: tuple[ServicePort, ...] | None = None
    selector: dict[str, str] | None = None
    external_name: str = ""
    publish_not_ready_addresses: bool = False
    ip_families: tuple[str, ...] | None = None
    cluster_ips: tuple[str, ...] | None = msgspec.field(default=None, name="clusterIPs")


class Service(Struct, frozen=True, rename="camel"):
    metadata: Marked
    spec: ServiceSpec = ServiceSpec()

    @property
    def headless(self) -> bool:
        return self.spec.cluster_ip == "None"


class Conditions(Struct, frozen=True, rename="camel"):
    """Null is what the endpoint's controller does not know: then it is taken for ready, and for serving where ready."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None

    @property
    def is_ready(self) -> bool:
        return self.ready is not False

    @property
    def is_last_resort(self) -> bool:
        """Whether it still serves while it ends: what is used when nothing is ready, as kube-proxy does."""
        return bool(self.terminating) and (self.is_ready if self.serving is None else self.serving)


class ForZone(Struct, frozen=True):
    name: str


class Hints(Struct, frozen=True, rename="camel"):
    for_zones: tuple[ForZone, ...] | None = None


class Reference(Struct, frozen=True, rename="camel"):
    kind: str = ""
    name: str = ""
    namespace: str = ""
    uid: str = ""


class SliceEndpoint(Struct, frozen=True, rename="camel"):
    addresses: Annotated[tuple[str, ...], Meta(min_length=1, max_length=100)]
    conditions: Conditions = Conditions()
    hostname: str = ""
    target_ref: Reference | None = None
    zone: str = ""
    hints: Hints | None = None


class SlicePort(Struct, frozen=True, rename="camel"):
    """A port without a number stands for all, which says nothing of where to connect to."""

    name: str | None = ""
    protocol: str | None = "TCP"
    port: Port | None = None
    app_protocol: str | None = None


class EndpointSlice(Struct, frozen=True, rename="camel"):
    metadata: Labelled
    address_type: str = ""
    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None


class ContainerPort(Struct, frozen=True, rename="camel"):
    container_port: Port
    name: str = ""
    protocol: str = "TCP"


class Container(Struct, frozen=True, rename="camel"):
    name: str = ""
    ports: tuple[ContainerPort, ...] | None = None


class PodSpec(Struct, frozen=True, rename="camel"):
    service_account_name: str = ""
    node_name: str = ""
    host_network: bool = False
    containers: tuple[Container, ...] | None = None
    init_containers: tuple[Container, ...] | None = None


class PodAddress(Struct, frozen=True):
    ip: str = ""


class PodStatus(Struct, frozen=True, rename="camel"):
    phase: str = ""
    pod_ips: tuple[PodAddress, ...] | None = msgspec.field(default=None, name="podIPs")


class Pod(Struct, frozen=True, rename="camel"):
    metadata: Marked
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def has_own_address(self) -> bool:
        """Whether its addresses are its own: not the host's, and not given up by a pod that has ended."""
        return not self.spec.host_network and self.status.phase not in ("Succeeded", "Failed")


class Custom(Struct, frozen=True, rename="camel"):
    """A custom resource; what its spec says is somebody else's to know."""

    metadata: Labelled
    spec: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Namespace(Struct, frozen=True):
    metadata: Marked


class ListMeta(Struct, frozen=True, rename="camel"):
    resource_version: Annotated[str, Meta(min_length=1, max_length=128)]
    continue_: str = msgspec.field(default="", name="continue")


class Listed(Struct, Generic[T], frozen=True):
    """A page of a list; `kind` is that of the list, as in ServiceList."""

    kind: str
    metadata: ListMeta
    items: tuple[T, ...] | None


class Versioned(Struct, frozen=True, rename="camel"):
    """The metadata of an object of which it is to be seen first whether it matters; a bookmark's has no name."""

    resource_version: Annotated[str, Meta(min_length=1, max_length=128)]
    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}


class Met(Struct, frozen=True):
    metadata: Versioned


class Event(Struct, frozen=True):
    """A line of a watch."""

    type: str
    object: msgspec.Raw


class Status(Struct, frozen=True, rename="camel"):
    """Why the API server refuses; all of it may be missing."""

    kind: str = ""
    message: str = ""
    reason: str = ""
    code: int = 0
