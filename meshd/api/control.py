"""The control API: what proxies, `meshd run` and the command line say to the agent, and what it answers.

One connection carries many calls. A client sends `Call`s, each with an id of its choosing that is new on the
connection; the agent sends `Answer`s with the id of the call. A call is answered once, except the two that watch
(`Attach`, `WatchDestination`): these are answered again whenever the answer changes, until the client sends `Cancel`
with their id or closes; each answer replaces the last, or says what differs from it (`DestinationChange`).
`ReportState` and `ReportStats` are not answered. What the agent does not do is answered with `Refused`.

What a connection registered (`RegisterWorkload`) lives as long as the connection: nothing is left behind by a client
that dies. The agent trusts what the kernel says of the peer (SO_PEERCRED), never what a message says.

In a cluster the same is said over TLS 1.3 to its controller (CONTROL_ALPN), which knows a sidecar by its certificate;
before it has one, by its service account's token, and then it is answered `Attach` and `SignCertificate` alone.

The framing is in `meshd.api.frames`. Times are seconds since the epoch, latencies milliseconds.
"""

from typing import Any, Literal

from msgspec import Struct

from meshd.api.detection import Detection
from meshd.api.documents import Protocol, Upstream, WorkloadPort
from meshd.api.endpoints import EndpointSet
from meshd.api.names import DEFAULT_NAMESPACE

CONTROL_ALPN = "meshd-control/1"
"""What is agreed on in TLS to speak the control API to a cluster's controller."""

# --- what a client says -----------------------------------------------------------------------------------------


class Attach(Struct, frozen=True, tag="attach"):
    """A proxy asks for its configuration, and follows it: answered with `ProxyConfiguration`.

    `instance` is the secret that it shares with the `meshd run` that registered its workload; empty for the host's
    proxy, which serves the workloads that the host's `Workload` documents declare.

    A sidecar says in which `pod` (NAMESPACE/NAME) it is, and proves that by the service account's `token`, or by its
    certificate once it has one.
    """

    version: str
    instance: str = ""
    token: str = ""
    pod: str = ""

    def __repr__(self) -> str:
        return f"Attach({self.version}, {self.pod})"  # secrets are for no message


class WatchDestination(Struct, frozen=True, tag="watch-destination"):
    """Where `authority` (NAME[.NAMESPACE…][:PORT], as the application wrote it) leads for a caller in
    `namespace`: answered with `Destination`, and with `DestinationChange` where that is less, to a client that knows
    `differences`. Without a port it is the service's own (first) port."""

    authority: str
    namespace: str
    differences: bool = False


class SignCertificate(Struct, frozen=True, tag="sign-certificate"):
    """A certificate for one of the attached proxy's workloads (NAMESPACE/NAME) and the key that signed the CSR
    (PEM): answered with `Certificate`. In a cluster it is the CA that believes the service account's `token`."""

    workload: str
    csr_pem: str
    token: str = ""

    def __repr__(self) -> str:
        return f"SignCertificate({self.workload})"  # the token is for no message


class IdentifyCaller(Struct, frozen=True, tag="identify-caller"):
    """Which workload the processes of user uid in a control group (version 2, by its id) are: answered with `Caller`.
    The host's proxy asks, of connections that were redirected to it."""

    cgroup: int
    uid: int


class FindSource(Struct, frozen=True, tag="find-source"):
    """From which port the connection was made that the host's proxy accepted at `here`, from `peer` (HOST:PORT), where
    the kernel has given it another: answered with `Source`."""

    here: str
    peer: str


class RegisterWorkload(Struct, frozen=True, tag="register-workload"):
    """`meshd run` declares its process: answered with `Registered`. It becomes an endpoint of the service
    NAME.NAMESPACE on every port once `waiting_for` is empty and its proxy has reported itself ready.

    `instance` is made by the client, at least 32 hexadecimal digits from a secure source: it is what the workload's
    proxy attaches with, and it stays the same when the agent restarts and the workload registers again.
    `waiting_for` names what keeps the process from serving (a port that nothing listens on yet); when that changes
    the workload is registered anew, with the same instance: the last registration replaces those before.
    """

    instance: str
    namespace: str
    name: str
    ports: tuple[WorkloadPort, ...]
    upstreams: tuple[Upstream, ...]
    outbound: str
    inbound: str
    admin: str
    pid: int
    waiting_for: tuple[str, ...] = ()


class WithdrawWorkload(Struct, frozen=True, tag="withdraw-workload"):
    """The connection's workload is about to end: no more callers are sent to it. Answered with `Done`."""


class GetStatus(Struct, frozen=True, tag="get-status"):
    """Answered with `Status`; rates and quantiles are over the last `window_s` seconds (1 to 60)."""

    window_s: float = 60.0


class GetConfiguration(Struct, frozen=True, tag="get-configuration"):
    """The mesh's documents as this agent has them: answered with `Configuration`. Those who may declare workloads get
    them `whole`, with what they say."""

    whole: bool = False


class GetEndpoints(Struct, frozen=True, tag="get-endpoints"):
    """What is known of where `authority` leads for a caller in `namespace` (as in `WatchDestination`): answered once
    with `Endpoints`, when every source has said what it can or `within_s` seconds (5 at most) are over."""

    authority: str
    namespace: str = DEFAULT_NAMESPACE
    within_s: float = 3.0


class GetServices(Struct, frozen=True, tag="get-services"):
    """The services that sources know, or are asked for on this host: answered once with `Services`."""


class ReportState(Struct, frozen=True, tag="report-state"):
    """How the attached proxy is: `waiting_for` names what keeps it from being ready; empty when it is."""

    pid: int
    waiting_for: tuple[str, ...]
    certificates: tuple["CertificateState", ...] = ()


class CertificateState(Struct, frozen=True):
    """The certificate that a proxy presents for a workload (NAMESPACE/NAME) now; 0 where it has none yet."""

    workload: str
    not_after: float
    error: str = ""
    not_before: float = 0.0


class ReportStats(Struct, frozen=True, tag="report-stats"):
    """What the attached proxy counted since it started, a row for each kind of traffic it saw.
    `proxy` changes when the proxy restarts, so that counters that begin anew are not taken for a loss."""

    proxy: str
    rows: tuple["Traffic", ...]


LATENCY_BOUNDS_MS = (
    0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0,
    70.0, 100.0, 150.0, 200.0, 300.0, 400.0, 500.0, 700.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0, 10000.0, 20000.0,
    30000.0, 40000.0, 50000.0,
)  # fmt: skip
"""Upper bounds of the latency buckets, in ms. All of Linkerd's are among them, so that its histogram is a sum of
these; those between are there because a hop on one host takes less than the lowest of Linkerd's."""


class Traffic(Struct, frozen=True):
    """Counters of one edge as one end of it saw it.

    `workload` (NAMESPACE/NAME) is this end. `peer` is the other end's verified SPIFFE ID, empty where it has none.
    `service` is the service asked for (NAME.NAMESPACE:PORT, or HOST:PORT outside the mesh); on the inbound side the
    port. `tls`: whether the connection was mutual TLS. For `protocol` tcp, `requests` counts connections, and
    a success is one that ended without an error. `latency_buckets[i]` counts responses within
    LATENCY_BOUNDS_MS[i] and above the bound before; the last of them (one more than bounds) the rest.
    """

    direction: Literal["inbound", "outbound"]
    workload: str
    peer: str
    service: str
    protocol: Literal["http", "tcp"]
    tls: bool
    requests: int
    successes: int
    failures: int
    latency_buckets: tuple[int, ...]
    latency_sum_ms: float
    open_connections: int
    read_bytes: int
    write_bytes: int


class Cancel(Struct, frozen=True, tag="cancel"):
    """The watch with the same id is no longer wanted."""


Request = (
    Attach | WatchDestination | SignCertificate | IdentifyCaller | FindSource | RegisterWorkload
    | WithdrawWorkload | GetStatus | GetConfiguration | GetEndpoints | GetServices | ReportState | ReportStats | Cancel
)  # fmt: skip


# --- what the agent answers --------------------------------------------------------------------------------------


class Refused(Struct, frozen=True, tag="refused"):
    """Not done, and why, for a person to read. `retry`: whether asking again later may succeed."""

    reason: str
    retry: bool = False


class Done(Struct, frozen=True, tag="done"):
    """Done; there is nothing to say."""


class ProxyWorkload(Struct, frozen=True):
    """A workload that a proxy serves: the ports it accepts for it, and the upstreams it listens on for it.
    `opaque_ports`: its document's, None where it has none. `any_port`: the proxy is alone with it, in a pod, and takes
    every port for it but its own, at the address that it was asked for at; `ports` says what those in it speak."""

    namespace: str
    name: str
    ports: tuple[WorkloadPort, ...] = ()
    upstreams: tuple[Upstream, ...] = ()
    opaque_ports: tuple[int, ...] | None = None
    any_port: bool = False


MAX_WORKERS = 64

Workers = int | Literal["auto"]
"""Processes of one proxy: 1 to MAX_WORKERS, or as many as there are cores that it may use."""


MAX_MAX_CONNECTIONS = 10_000_000
"""What is asked for beyond this is a slip of the pen."""


class Capture(Struct, frozen=True):
    """Connections are redirected to the proxy's listeners. What a process does that is no workload is refused, or
    passed on in plain text to where it was going; what comes for a workload's port from outside the mesh is allowed, or
    denied. The addresses (HOST:PORT) are where IPv6 is redirected to; empty where it is not. `caller` is the workload
    (NAMESPACE/NAME) whose all captured connections are: nobody is asked then whose process made them, and `unknown`
    says nothing. Empty where the kernel and the agent are to say it of each. `idle`: nobody is captured at present, so
    that connections need not be told apart, which is what capture costs those that are made to the listeners."""

    unknown: Literal["refuse", "pass"] = "refuse"
    unmeshed: Literal["allow", "deny"] = "allow"
    outbound6: str = ""
    inbound6: str = ""
    caller: str = ""
    idle: bool = False


class ProxyConfiguration(Struct, frozen=True, tag="proxy-configuration"):
    """All that a proxy is to be. Addresses are HOST:PORT; an empty one means no such listener. `zone` is where it runs:
    endpoints of the same zone are preferred. `ca_healthy` is whether the CA answers the agent, for the metrics.
    `workers` is for a proxy whose command line does not say; None: nor does the agent. None of its processes has more
    connections than `max_connections`, of all kinds; 0: as many as its descriptors allow. `denied`: peers that are not
    to be believed whatever their certificates say, by serial number (lower-case hexadecimal) or by SPIFFE ID.
    Certificates that are good from before `renew_issued_before` on are to be renewed at some time within
    `renew_within_s`: the CA is about to change its root. `capture`: None where nothing is redirected.
    `admin6` is where the admin port is by IPv6, beside `admin`; empty where that is all."""

    trust_domain: str
    trust_bundle_pem: str
    outbound: str
    inbound: str
    admin: str
    workloads: tuple[ProxyWorkload, ...]
    zone: str = ""
    ca_healthy: bool = True
    detection: Detection = Detection()
    workers: Workers | None = None
    max_connections: int = 0
    denied: tuple[str, ...] = ()
    renew_issued_before: float = 0.0
    renew_within_s: float = 0.0
    capture: Capture | None = None
    admin6: str = ""


class Destination(Struct, frozen=True, tag="destination"):
    """Where an authority leads: an endpoint set, or None where no back end knows a service of that name."""

    found: EndpointSet | None


class DestinationChange(Struct, frozen=True, tag="destination-change"):
    """What differs from the last answer to the same watch, where that is less than all. `now` has, of the endpoints,
    those alone that are new or other than they were; `removed` are the addresses and ports of those that are no more
    (`meshd.api.differences`)."""

    now: EndpointSet
    removed: tuple[tuple[str, int], ...] = ()


class Certificate(Struct, frozen=True, tag="certificate"):
    """The leaf and the intermediates below the trust bundle's roots (PEM, leaf first), and the leaf's life."""

    chain_pem: str
    not_before: float
    not_after: float


class Caller(Struct, frozen=True, tag="caller"):
    """The workload (NAMESPACE/NAME); empty where it is none, and why."""

    workload: str
    reason: str = ""


class Source(Struct, frozen=True, tag="source"):
    """The port, 0 where that is not known, and why."""

    port: int
    reason: str = ""


class Registered(Struct, frozen=True, tag="registered"):
    """The workload is known, under this SPIFFE ID."""

    identity: str


class Health(Struct, frozen=True):
    """How something the agent depends on is: the CA, a discovery back end. `since`: since when, 0 unknown."""

    name: str
    healthy: bool
    message: str = ""
    since: float = 0.0


class Golden(Struct, frozen=True):
    """The golden metrics of a window, and the counts since the start. None where nothing was seen to compute from."""

    success_rate: float | None = None
    rps: float = 0.0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    open_connections: int = 0
    read_bytes_per_s: float = 0.0
    write_bytes_per_s: float = 0.0
    requests: int = 0
    successes: int = 0
    mtls_requests: int = 0


class WorkloadStatus(Struct, frozen=True):
    """A workload of this host. `golden` is its inbound side. `waiting_for`: what keeps it from being ready."""

    namespace: str
    name: str
    identity: str
    ports: tuple[int, ...]
    pid: int
    outbound: str
    inbound: str
    admin: str
    waiting_for: tuple[str, ...]
    certificate_not_after: float
    certificate_error: str
    golden: Golden


class ProxyStatus(Struct, frozen=True):
    """The host's proxy: how many `workloads` it is to serve, how many of its processes are `attached`, and of which
    versions these are; and what the one of them that counts waits for."""

    workloads: int
    attached: int
    versions: tuple[str, ...]
    waiting_for: tuple[str, ...]


class EdgeStatus(Struct, frozen=True):
    """Traffic from a workload of this host to a service, as the calling side saw it."""

    source: str
    source_identity: str
    service: str
    server_identity: str
    protocol: Literal["http", "tcp"]
    tls: bool
    golden: Golden


Standing = Literal["known", "unknown", "cannot say"]
"""Whether a service is known, or known not to be; or neither."""


class ServiceStatus(Struct, frozen=True):
    """A service as one source knows it. Where it is not known, `name` is how its registry was asked, and there is no
    `namespace` and no `port`. Of its `endpoints` so many are `meshed`. `watchers` ask for it: proxies, each of their
    workers. Times are 0 where there is none, as in `SourceSays`."""

    source: str
    name: str
    standing: Standing
    namespace: str = ""
    port: int = 0
    protocol: Protocol = "auto"
    endpoints: int = 0
    meshed: int = 0
    watchers: int = 0
    read_at: float = 0.0
    changed_at: float = 0.0
    stale_since: float = 0.0
    trouble: str = ""


class SourceStatus(Struct, frozen=True):
    """A source of services: how settings call it, and its `Health`'s name. `stale`: it cannot be read now, or something
    of it; of its `services` so many are served stale. `denied`: it does not let the agent read; None where there is
    nobody to let it. `oldest_read_at`: when that service was read that was not for the longest time; `updates` counts
    what has changed since the start."""

    source: str
    health: str
    stale: bool
    denied: bool | None
    services: int
    stale_services: int
    read_at: float
    oldest_read_at: float
    updates: int


class Status(Struct, frozen=True, tag="status"):
    """This host, as its agent sees it, or the mesh in a cluster, as one of its controllers does. `mode`: the host's
    agent, the one that `meshd run` embeds, or a controller. `sources` are in
    the order of `discovery`; `stale` are services that are served stale, or of which nothing can be said because their
    registry is away, those for the longest time first, 100 at most. `proxy` is the host's, None where it has none."""

    node: str
    trust_domain: str
    version: str
    mode: Literal["host", "embedded", "controller"]
    pid: int
    started_at: float
    ca: Health
    discovery: tuple[Health, ...]
    configuration: tuple[str, ...]
    workloads: tuple[WorkloadStatus, ...]
    edges: tuple[EdgeStatus, ...]
    sources: tuple[SourceStatus, ...] = ()
    stale: tuple[ServiceStatus, ...] = ()
    proxy: ProxyStatus | None = None


class ConfigurationPlace(Struct, frozen=True):
    """Where documents are read: `source` is how the settings call it. `stale`: it cannot be read now, and what was last
    good of it is in force; `read_at` is when it was read last, 0 for never."""

    source: str
    place: str
    read_at: float
    stale: bool


class ConfiguredDocument(Struct, frozen=True):
    """A good document. `origin` is where it is: FILE:LINE, a key, an object; it says what it says `since`, on this
    agent. It is in force unless `shadowed_by` names the origin of one that goes first. `document` is all of it."""

    kind: str
    namespace: str
    name: str
    source: str
    origin: str
    since: float
    stale: bool
    shadowed_by: str
    document: dict[str, Any] | None = None


class ConfigurationFinding(Struct, frozen=True):
    """What is refused, and why: where it is, down to the path in the document."""

    source: str
    origin: str
    document: str
    path: str
    message: str


class Configuration(Struct, frozen=True, tag="configuration"):
    """All places in the order in which they are believed, what is good in them, and what is refused. `left_out`:
    documents that an answer had no room for."""

    places: tuple[ConfigurationPlace, ...]
    documents: tuple[ConfiguredDocument, ...]
    refused: tuple[ConfigurationFinding, ...]
    left_out: int = 0


class SourceSays(Struct, frozen=True):
    """What one source says of a service: `found` where it is known. Times are 0 where there is none: when its registry
    was read last for it, when something new was read, and since when what it says is not what is there now. `trouble`:
    why that is so, or why it cannot say. `left_off`: endpoints that were too many to be said."""

    source: str
    standing: Standing
    found: EndpointSet | None = None
    read_at: float = 0.0
    changed_at: float = 0.0
    stale_since: float = 0.0
    trouble: str = ""
    left_off: int = 0


class Endpoints(Struct, frozen=True, tag="endpoints"):
    """What callers get for an authority, and what each source that answers for it says, the first believed first."""

    standing: Standing
    found: EndpointSet | None
    sources: tuple[SourceSays, ...]
    left_off: int = 0


class Services(Struct, frozen=True, tag="services"):
    """What sources know, the first believed first. `left_off`: services that were too many to be said."""

    services: tuple[ServiceStatus, ...]
    left_off: int = 0


Response = (
    Refused | Done | ProxyConfiguration | Destination | DestinationChange | Certificate | Caller | Source | Registered
    | Status | Configuration | Endpoints | Services
)  # fmt: skip


class Call(Struct, frozen=True):
    id: int
    body: Request


class Answer(Struct, frozen=True):
    id: int
    body: Response


__all__ = [
    "CONTROL_ALPN", "LATENCY_BOUNDS_MS", "MAX_WORKERS", "Answer", "Attach", "Call", "Caller", "Cancel", "Capture",
    "Certificate", "CertificateState", "Configuration", "ConfigurationFinding", "ConfigurationPlace",
    "ConfiguredDocument", "Destination", "DestinationChange", "Done", "EdgeStatus", "Endpoints", "FindSource",
    "GetConfiguration", "GetEndpoints", "GetServices", "GetStatus", "Golden", "Health", "IdentifyCaller", "Protocol",
    "ProxyConfiguration", "ProxyStatus", "ProxyWorkload", "Refused", "RegisterWorkload", "Registered", "ReportState",
    "ReportStats",
    "Request", "Response", "ServiceStatus", "Services", "SignCertificate", "Source", "SourceSays", "SourceStatus",
    "Standing", "Status", "Traffic", "WatchDestination", "WithdrawWorkload", "Workers", "WorkloadStatus",
]  # fmt: skip
