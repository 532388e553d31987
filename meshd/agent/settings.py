"""The agent's own settings: `/etc/meshd/meshd.yaml`, as types.

    trustDomain: prod.example
    node: vm1
    ca: {url: "https://ca.example:4180", bundle: /etc/meshd/bundle.pem}

Every field has a type, a default, a unit where it is a quantity, and a sentence; `docs/settings.md` is made from them
(`meshd.agent.settings_page`). What reads the file, and what types cannot check, is in `meshd.agent.settings_file`.
"""

import math
import socket
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from discovery.backends import RemoteSettings
from discovery.consul.settings import ConsulDiscovery
from discovery.dns.settings import DnsSettings
from discovery.kubernetes.settings import KubernetesDiscovery
from meshd.agent.names.settings import NamesSettings
from meshd.api.control import MAX_MAX_CONNECTIONS, MAX_WORKERS, Workers
from meshd.api.detection import (
    DEFAULT_DETECT_TIMEOUT,
    DEFAULT_OPAQUE_PORTS,
    Detection,
    OpaquePorts,
    parse_detect_timeout,
)
from meshd.api.documents import Port
from meshd.api.durations import parse_duration
from meshd.api.names import Address, InvalidName, canonical_address, is_label, is_trust_domain
from meshd.capture.plan import Network, networks
from meshd.capture.slices import check_slice

SETTINGS_FILE = "/etc/meshd/meshd.yaml"

RESERVED = ("file", "local")
"""Sources that every agent has are called so: documents in files, and its own workloads."""

LOCAL_CA = "https://localhost:4180"


class CaSettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The certificate authority that signs for this host's workloads."""

    url: Annotated[str, Meta(description="Where the CA answers: an https URL, as in `https://ca.example:4180`.")] = (
        LOCAL_CA
    )
    urls: Annotated[
        tuple[str, ...],
        Meta(
            description="In place of `url`, where several CAs of one mesh answer: when one is away, another is asked."
        ),
    ] = ()
    bundle: Annotated[
        str,
        Meta(description="File with the trust bundle (PEM): the roots that the CA and every peer must chain to."),
    ] = "/etc/meshd/bundle.pem"
    token_file: Annotated[
        str,
        Meta(
            description="File with the token that agents share. When empty, this host proves itself with the "
            "certificate that it joined with (`node.key` in `stateDir`), or, when it has not joined, with the token in "
            "`ca.token` there."
        ),
    ] = ""

    def __post_init__(self) -> None:
        if self.urls and self.url != LOCAL_CA:
            raise ValueError("url and urls are both given: put all of them into urls")
        for field, url in (("url", self.url), *((f"urls[{index}]", url) for index, url in enumerate(self.urls))):
            if not url.startswith("https://"):
                raise ValueError(f"{field}: {url!r} is not an https URL, as in https://ca.example:4180")

    @property
    def all_urls(self) -> tuple[str, ...]:
        """Where CAs answer, in the order they are asked at first."""
        return self.urls or (self.url,)


class FileDiscovery(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Services and workloads from documents in files."""

    path: Annotated[
        str,
        Meta(description="A directory whose `*.yaml` and `*.yml` files hold the documents, or one such file."),
    ] = "/etc/meshd/conf.d"


FOR_EVER = "forever"


class Discovery(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """One back end; the first in the list that knows a service answers for it."""

    name: Annotated[
        str,
        Meta(
            description="How documents (`spec.discovery`), the status and metrics call it, a DNS label; when empty, "
            "the back end's own name, as in `file`."
        ),
    ] = ""
    keep: Annotated[
        str,
        Meta(
            description="How long what was last good is served, marked stale, when the registry is away or says that "
            "nothing is left: `forever`, or a time as in `10m`. Not for files, which are at hand."
        ),
    ] = FOR_EVER
    file: Annotated[FileDiscovery | None, Meta(description="Documents in files, watched for changes.")] = None
    consul: Annotated[ConsulDiscovery | None, Meta(description="Services that are registered in HashiCorp Consul.")] = (
        None
    )
    dns: Annotated[DnsSettings | None, Meta(description="Services whose endpoints are DNS records.")] = None
    kubernetes: Annotated[
        KubernetesDiscovery | None, Meta(description="The Services of a Kubernetes cluster, by its API.")
    ] = None

    def __post_init__(self) -> None:
        kinds = [field for field in self.__struct_fields__ if field not in ("name", "keep")]
        given = [field for field in kinds if getattr(self, field) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"a back end is exactly one of {', '.join(kinds)}; found {found}")
        if self.name and not is_label(self.name):
            raise ValueError(f"name: {self.name!r} is not a DNS label, as in consul-east")
        try:
            self.keep_s  # noqa: B018 - that it can be read is all that is asked
        except ValueError as error:
            raise ValueError(f"keep: {error}, or `{FOR_EVER}`") from error

    @property
    def kind(self) -> str:
        """Which back end it is: `file` or the name of another."""
        return next(
            field
            for field in self.__struct_fields__
            if field not in ("name", "keep") and getattr(self, field) is not None
        )

    @property
    def called(self) -> str:
        """`name`, or what stands for it."""
        return self.name or self.kind

    @property
    def keep_s(self) -> float:
        return math.inf if self.keep == FOR_EVER else parse_duration(self.keep)

    @property
    def remote(self) -> RemoteSettings | None:
        """The settings of a back end across the network; None for files."""
        return None if self.file is not None else getattr(self, self.kind)


class ProxySettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The host's proxy (`meshd-proxy --control SOCKET`)."""

    outbound: Annotated[
        str, Meta(description="HOST:PORT on which it takes the applications' outgoing traffic; empty for none.")
    ] = "127.0.0.1:4140"
    inbound: Annotated[str, Meta(description="HOST:PORT on which it takes traffic from other proxies.")] = (
        "0.0.0.0:4143"
    )
    admin: Annotated[
        str,
        Meta(
            description="HOST:PORT of `/metrics`, `/ready`, `/live` and `/endpoints`; empty for none. Of 0.0.0.0, by "
            "IPv6 too."
        ),
    ] = "127.0.0.1:4191"
    opaque_ports: Annotated[
        OpaquePorts,
        Meta(
            description="Ports that carry opaque bytes where their protocol is `auto`, with nothing waited for; for "
            "every proxy on this host. The list replaces the usual one."
        ),
    ] = DEFAULT_OPAQUE_PORTS
    detect_timeout: Annotated[
        str,
        Meta(
            description="How long a caller's first bytes are waited for, to tell what it speaks, before the connection "
            "is opaque: 100ms to 10m, and a second more at worst. For every proxy on this host."
        ),
    ] = DEFAULT_DETECT_TIMEOUT
    max_connections: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_MAX_CONNECTIONS,
            description="Connections of all kinds, from callers and to endpoints, that a proxy's process may have; "
            "beyond it callers wait in the kernel. 0: nine tenths of the descriptors that the process may open, "
            "100,000 at most. For every proxy on this host.",
        ),
    ] = 0
    workers: Annotated[
        Workers,
        Meta(
            description="Processes that share its work, 1 to 64, or `auto`: one for each core that it may use. It is "
            "what `meshd-proxy` takes that is started without `--workers`; a change is in force when the proxy is "
            "started again, or on SIGUSR2."
        ),
    ] = 1

    def __post_init__(self) -> None:
        for field, text in (("outbound", self.outbound), ("inbound", self.inbound), ("admin", self.admin)):
            if text or field == "inbound":
                try:
                    Address.parse(text)
                except InvalidName as error:
                    raise ValueError(f"{field}: {error}") from error
        parse_detect_timeout(self.detect_timeout)
        if self.workers != "auto" and not 0 < self.workers <= MAX_WORKERS:
            raise ValueError(f"workers: expected a number from 1 to {MAX_WORKERS} or `auto`, found {self.workers}")

    @property
    def detection(self) -> Detection:
        return Detection(self.opaque_ports, parse_detect_timeout(self.detect_timeout))


MAX_START_TIMEOUT_S: Final = 600.0


class CaptureSettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Connections of this host's processes that the kernel leads to its proxy."""

    enabled: Annotated[
        bool,
        Meta(
            description="Whether the agent captures, by the nftables table `inet meshd`, and the proxy takes what is "
            "captured. There is no table while there is nobody to capture: no control group of `slice`, no `users`, no "
            "port."
        ),
    ] = True
    slice: Annotated[
        str, Meta(description="The systemd slice whose units are captured; `meshd inject UNIT` puts them into it.")
    ] = "meshed.slice"
    users: Annotated[
        tuple[str, ...],
        Meta(description="Users, by name or by uid in digits, whose processes are captured wherever they run."),
    ] = ()
    exempt_users: Annotated[
        tuple[str, ...],
        Meta(
            description="Users whose processes never are, the proxy's and the agent's. One of them at least must be "
            "there: a proxy that is captured itself calls itself."
        ),
    ] = ("meshd-proxy", "meshd")
    skip_outbound_ports: Annotated[
        tuple[Port, ...], Meta(description="Ports to which nobody's connections are captured.")
    ] = ()
    skip_outbound_cidrs: Annotated[
        tuple[str, ...],
        Meta(
            description="Networks, as in `10.0.0.0/8`, to which nobody's connections are captured. Loopback never is, "
            "addresses of services (240.0.0.0/4) always."
        ),
    ] = ()
    fail_open: Annotated[
        bool,
        Meta(
            description="What becomes of captured connections while the proxy is away for more than 5 seconds: `true`: "
            "they go where they were going, in plain text; `false`: they wait or are refused."
        ),
    ] = False
    start_timeout: Annotated[
        str,
        Meta(
            description="How long a unit that `meshd inject` put into the mesh waits, before it starts, for capture "
            "and for its certificate: 0s to 10m, and less than its own `TimeoutStartSec=`. After it the unit fails, "
            "and its journal says what is missing; with `failOpen` it starts all the same."
        ),
    ] = "30s"
    unknown: Annotated[
        Literal["refuse", "pass"],
        Meta(
            description="What becomes of a redirected connection whose process is no workload of this host: `refuse`, "
            "or `pass`: it goes on to the address that it was for, in plain text, with no identity."
        ),
    ] = "refuse"
    unmeshed: Annotated[
        Literal["allow", "deny"],
        Meta(
            description="What becomes of connections to a workload's port that come from outside the mesh, with no "
            "identity: `allow` has them go on to the application, unless it would not have heard them without meshd."
        ),
    ] = "allow"
    remove_on_stop: Annotated[
        bool,
        Meta(
            description="Whether capture ends when the agent is stopped. Otherwise it goes on, and an agent that is "
            "restarted leaves no gap."
        ),
    ] = False

    def __post_init__(self) -> None:
        try:
            check_slice(self.slice)
        except ValueError as error:
            raise ValueError(f"slice: {error}") from error
        self.skip_networks  # noqa: B018 - that they can be read is all that is asked
        try:
            is_sane = parse_duration(self.start_timeout) <= MAX_START_TIMEOUT_S
        except ValueError as error:
            raise ValueError(f"startTimeout: {error}") from error
        if not is_sane:
            raise ValueError(f"startTimeout: {self.start_timeout} is more than {MAX_START_TIMEOUT_S / 60:g}m")
        if self.enabled and not self.exempt_users:
            raise ValueError("exemptUsers: there is nobody in it, and the proxy's user must be: as in [meshd-proxy]")

    @property
    def skip_networks(self) -> tuple[Network, ...]:
        return networks(self.skip_outbound_cidrs, "skipOutboundCidrs")


class ControlSettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The control API on the Unix socket."""

    users: Annotated[
        tuple[str, ...],
        Meta(
            description="Unix users, besides root and the agent's own, who may declare workloads (`meshd run`) in any "
            "namespace and get certificates for them. Every local user may read the status."
        ),
    ] = ()


class WorkloadApiSettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The SPIFFE Workload API on a Unix socket of its own."""

    enabled: Annotated[bool, Meta(description="Whether processes can get their identities from it.")] = True
    socket: Annotated[
        str,
        Meta(
            description="Its Unix socket, a path of at most 107 bytes; when empty, `workload.sock` beside `socket`: "
            "`/run/meshd/workload.sock`."
        ),
    ] = ""

    def __post_init__(self) -> None:
        if self.socket and not self.socket.startswith("/"):
            raise ValueError(
                f"socket: {self.socket!r} is not a path that begins with /; a socket with an abstract name could be "
                "taken by any user while the agent is away"
            )


class Settings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The whole file."""

    trust_domain: Annotated[
        str,
        Meta(description="The trust domain that every identity here is in, as in `prod.example`; the CA's own."),
    ]
    node: Annotated[
        str, Meta(description="This host's name in the mesh, a DNS label; when empty, the host name's first label.")
    ] = ""
    zone: Annotated[
        str, Meta(description="Where this host stands, as in `a`: endpoints of the same zone are preferred.")
    ] = ""
    advertise: Annotated[
        str,
        Meta(
            description="The IP address at which other hosts reach this host's proxy, for registries that take "
            "workloads; when empty, the one from which this host reaches others."
        ),
    ] = ""
    state_dir: Annotated[
        str, Meta(description="Directory for what the agent keeps: its lock, the node's key, the CA's token.")
    ] = "/var/lib/meshd"
    socket: Annotated[str, Meta(description="The Unix socket of the control API; its path has at most 107 bytes.")] = (
        "/run/meshd/meshd.sock"
    )
    admin: Annotated[
        str,
        Meta(
            description="HOST:PORT of the agent's own `/metrics`, `/ready` and `/live`; empty for none. Of 0.0.0.0, by "
            "IPv6 too."
        ),
    ] = "127.0.0.1:4192"
    ca: Annotated[CaSettings, Meta(description="The certificate authority.")] = CaSettings()
    discovery: Annotated[
        tuple[Discovery, ...], Meta(description="Where services are learned from, in the order they are believed.")
    ] = (Discovery(file=FileDiscovery()),)
    proxy: Annotated[ProxySettings, Meta(description="The host's proxy.")] = ProxySettings()
    capture: Annotated[CaptureSettings, Meta(description="Connections that are led to the proxy.")] = CaptureSettings()
    names: Annotated[NamesSettings, Meta(description="The name server.")] = NamesSettings()
    control: Annotated[ControlSettings, Meta(description="Who may use the control API.")] = ControlSettings()
    workload_api: Annotated[
        WorkloadApiSettings, Meta(description="The SPIFFE Workload API, for processes that have no proxy.")
    ] = WorkloadApiSettings()

    def __post_init__(self) -> None:
        if not is_trust_domain(self.trust_domain):
            raise ValueError(f"trustDomain {self.trust_domain!r} is not DNS labels joined by dots, as in prod.example")
        names = [each.called for each in self.discovery if each.file is None or each.name]
        if repeated := next((name for name in names if names.count(name) > 1 or name in RESERVED), None):
            raise ValueError(f"discovery: a back end needs a name of its own, and {repeated!r} is taken: set `name`")
        if not is_label(self.node_name):
            raise ValueError(f"the node name {self.node_name!r} is not a DNS label: set `node`")
        if self.advertise and not canonical_address(self.advertise):
            raise ValueError(f"advertise: {self.advertise!r} is not an IP address")
        try:
            self.admin_address  # noqa: B018 - that it can be read is all that is asked
        except InvalidName as error:
            raise ValueError(f"admin: {error}") from error

    @property
    def node_name(self) -> str:
        """`node`, or what stands for it when it is not set."""
        return self.node or host_label()

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that the name server answers for."""
        consul = [f"service.{each.consul.domain}" for each in self.discovery if each.consul is not None]
        return tuple(dict.fromkeys((*self.names.domains, *consul)))

    @property
    def admin_address(self) -> Address | None:
        """Where the agent's own metrics are; None when they are not."""
        return Address.parse(self.admin) if self.admin else None

    @property
    def workload_socket(self) -> Path | None:
        """Where the Workload API is served; None when it is not."""
        if not self.workload_api.enabled:
            return None
        return Path(self.workload_api.socket or Path(self.socket).with_name("workload.sock"))


def host_label() -> str:
    """The first label of the host name."""
    return socket.gethostname().split(".")[0].lower()
