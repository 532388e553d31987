"""The documents that configure the mesh: `Workload` and `Service`.

A document has the same form wherever it lives (a file in `conf.d`, and whatever back end comes later):

    apiVersion: meshd.io/v1
    kind: Workload | Service
    metadata: {name: web, namespace: default}
    spec: …

These are the types alone; `meshd.api.loading` reads them and says what is wrong with them.
"""

import ipaddress
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from meshd.api.detection import OpaquePorts
from meshd.api.health import PortHealth, UnitHealth
from meshd.api.names import DEFAULT_NAMESPACE, Address, WorkloadName, check_label, is_another_hosts
from meshd.api.policy import FailureAccrual, Limits, Policy, Retries, Timeouts

GROUP, VERSION = "meshd.io", "v1"
API_VERSION = f"{GROUP}/{VERSION}"

MAX_EXTERNAL_ADDRESSES = 256
"""Of one workload; of hosts that are more, each has a document of its own."""

Port = Annotated[int, Meta(ge=1, le=65535)]

Protocol = Literal["auto", "http", "http1", "http2", "grpc", "tcp"]
"""What a port speaks. `auto` decides by the first bytes of each connection; `http` is HTTP of either version, told
apart by them, `http1` and `http2` just that version, whatever the caller speaks; `grpc` is gRPC over HTTP/2."""


class Metadata(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What a document is called; (kind, namespace, name) is unique in the mesh."""

    name: str
    namespace: str = DEFAULT_NAMESPACE
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    def __post_init__(self) -> None:
        check_label(self.name, "name")
        check_label(self.namespace, "namespace")

    @property
    def workload(self) -> WorkloadName:
        return WorkloadName(self.namespace, self.name)


class WorkloadPort(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A port that the process listens on, at 127.0.0.1 unless `address` says otherwise."""

    port: Port
    protocol: Protocol = "auto"
    address: str = "127.0.0.1"


class CheckedPort(WorkloadPort, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The same, as documents have it: `health` is how the agent finds out whether the port serves."""

    health: PortHealth | None = None


class ListenerTls(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """TLS for an upstream's callers, who are outside the mesh: files (PEM) that the proxy reads, and reads again when
    they change. `certificate` holds the leaf first, then what is between it and the root. With `clientCa`, callers must
    show a certificate that chains to one of the roots in it."""

    certificate: str
    key: str
    client_ca: str | None = None

    def __post_init__(self) -> None:
        for name, file in self.files:
            if not file:
                raise ValueError(f"`{name}` is empty: it is the path of a file")

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """(field, path) of each."""
        fields = (("certificate", self.certificate), ("key", self.key), ("clientCa", self.client_ca))
        return tuple((name, file) for name, file in fields if file is not None)


class Upstream(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A local address that leads to a service: connections to `listen` are balanced over `service`. With `tls`, it is
    for callers outside the mesh, who speak TLS to it."""

    service: str
    listen: str
    protocol: Protocol = "auto"
    tls: ListenerTls | None = None

    def __post_init__(self) -> None:
        Address.parse(self.listen)


class Selector(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Which processes of this host are the workload, by what the kernel says of them; all that is given must hold.

    unit         systemd's name of the system unit, as in web.service; `*` is any part of it
    user         a user's name, or a uid in digits
    cgroup       a path, as in /meshed.slice/*; `*` is any part of a name; what is below belongs to it
    executable   the file that runs, with links resolved; never alone, for anybody may run it, with code of their own
    """

    unit: str | None = None
    user: str | None = None
    cgroup: str | None = None
    executable: str | None = None

    def __post_init__(self) -> None:
        others = (self.unit, self.user, self.cgroup)
        if self.executable is not None and all(each is None for each in others):
            raise ValueError(
                "`executable` alone says too little: any user may run that file, with code of their own in it "
                "(LD_PRELOAD): add `unit`, `user` or `cgroup`"
            )
        if self.executable is None and all(each is None for each in others):
            raise ValueError("a selector has at least one of `unit`, `user` and `cgroup`")


class WorkloadCapture(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The workload's processes are captured, by the slice that they are in. `inbound`: so is what comes for its ports
    past the mesh. Connections that it begins to `skipOutboundPorts` or `skipOutboundCidrs` are left alone, where its
    unit is in the slice of its own that `meshd inject` puts it into."""

    inbound: bool = True
    skip_outbound_ports: tuple[Port, ...] = ()
    skip_outbound_cidrs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for index, text in enumerate(self.skip_outbound_cidrs):
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                raise ValueError(f"`skipOutboundCidrs[{index}]`: {text!r} is not a network: {error}") from error


class WorkloadExternal(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Where pods of a cluster reach the workload, which is on hosts outside: at these IP addresses, through the proxy
    at `inboundPort` there. It is an endpoint of the Services of its namespace that select its labels."""

    addresses: tuple[str, ...]
    inbound_port: Port = 4143
    zone: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.addresses) <= MAX_EXTERNAL_ADDRESSES:
            raise ValueError(f"`addresses`: found {len(self.addresses)}; expected 1 to {MAX_EXTERNAL_ADDRESSES}")
        for index, text in enumerate(self.addresses):
            if not is_another_hosts(text):
                raise ValueError(f"`addresses[{index}]`: {text!r} is not the IP address of a host that others reach")


class WorkloadSpec(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """`opaquePorts`: those of its ports of protocol `auto` that are opaque, whatever the proxies' own lists say.
    `selectors`: a process for which one of them holds gets this identity from the Workload API. `health`: how the agent
    finds out whether the process is well, beside what its ports say. `capture`: its connections are led to the proxy
    without its knowing. `external`: how a cluster's pods reach it."""

    ports: tuple[CheckedPort, ...] = ()
    upstreams: tuple[Upstream, ...] = ()
    opaque_ports: OpaquePorts | None = None
    selectors: tuple[Selector, ...] = ()
    health: UnitHealth | None = None
    capture: WorkloadCapture | None = None
    external: WorkloadExternal | None = None


class ServiceEndpoint(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One place that serves. With `workload` it is meshed, under that identity (NAME or NAMESPACE/NAME), and
    reached through the proxy at `inboundPort` of the same address; without, it is reached in plain text."""

    address: str
    port: Port
    workload: str = ""
    inbound_port: Port = 4143
    weight: Annotated[int, Meta(ge=1, le=65535)] = 1
    zone: str = ""
    labels: dict[str, str] = {}


class ServiceSpec(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A service as callers know it: its `port`, the endpoints behind it, and how callers treat it. `opaquePorts`: as of
    a workload; it says whether `port`, of protocol `auto`, is opaque.

    Without `endpoints`, they are what discovery knows of the service: the back ends that `discovery` names, in that
    order, or all of them in the order of the settings; the first that knows the service, or with `merge` all of them.
    """

    port: Port
    protocol: Protocol = "auto"
    opaque_ports: OpaquePorts | None = None
    endpoints: tuple[ServiceEndpoint, ...] | None = None
    discovery: tuple[str, ...] = ()
    merge: bool = False
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    failure_accrual: FailureAccrual = FailureAccrual()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if self.endpoints is not None and (self.discovery or self.merge):
            raise ValueError("`endpoints` are given, so nobody else is asked: remove `discovery` and `merge`, or them")
        if len(set(self.discovery)) < len(self.discovery):
            raise ValueError("`discovery` names a back end twice")

    @property
    def policy(self) -> Policy:
        return Policy(self.timeouts, self.retries, self.failure_accrual, self.limits)


class Workload(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", tag_field="kind", tag="Workload"):
    """A process of this host that is meshed."""

    api_version: Literal["meshd.io/v1"] = field(name="apiVersion")
    metadata: Metadata
    spec: WorkloadSpec = WorkloadSpec()


class Service(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", tag_field="kind", tag="Service"):
    """A service: with endpoints written by hand, or how one that is known from elsewhere is treated."""

    api_version: Literal["meshd.io/v1"] = field(name="apiVersion")
    metadata: Metadata
    spec: ServiceSpec


Document = Workload | Service
