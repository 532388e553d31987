"""A proxy with no agent: its configuration, services and certificates from one file (`meshd-proxy --config FILE`).

    trustDomain: prod.example
    zone: a                            # endpoints of the same zone are preferred
    trustBundle: bundle.pem            # needed with inbound, or with services whose endpoints are meshed
    outbound: "127.0.0.1:4140"         # the forward proxy; leave out for none
    inbound: "0.0.0.0:4143"
    admin: "127.0.0.1:4191"
    opaquePorts: [3306, 5432]          # instead of the usual ones
    detectTimeout: 10s
    workloads:
      - name: web
        namespace: default
        certificate: web.pem           # leaf first, then intermediates
        key: web.key
        ports: [{port: 8080, protocol: auto}]
        upstreams: [{service: api, listen: "127.0.0.1:9001"}]
    services:
      - name: api
        namespace: default
        port: 80
        endpoints: [{address: 192.0.2.5, port: 8080, workload: api, inboundPort: 4143, weight: 1, zone: a}]

Paths are relative to the file. SIGHUP reads it all again; what is wrong then is logged, and the old stays in force.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from meshd.api.control import MAX_MAX_CONNECTIONS, Certificate, ProxyConfiguration, ProxyWorkload
from meshd.api.detection import (
    DEFAULT_DETECT_TIMEOUT,
    DEFAULT_OPAQUE_PORTS,
    Detection,
    OpaquePorts,
    listed,
    parse_detect_timeout,
)
from meshd.api.documents import ListenerTls, ServiceSpec, Upstream, WorkloadPort
from meshd.api.endpoints import EndpointSet, ServiceName, endpoint_of
from meshd.api.loading import ConfigurationError, Finding, convert, parse, read_text
from meshd.api.names import (
    DEFAULT_NAMESPACE,
    Address,
    InvalidName,
    check_label,
    is_trust_domain,
)
from proxy.edge import BadFile, read
from proxy.mesh.identity import life
from proxy.mesh.tls import Held, check_bundle
from proxy.resolve import Found


class StaticWorkload(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A workload, and the files of its certificate (PEM, leaf first) and key (PEM); empty: it has none."""

    name: str
    namespace: str = DEFAULT_NAMESPACE
    certificate: str = ""
    key: str = ""
    ports: tuple[WorkloadPort, ...] = ()
    upstreams: tuple[Upstream, ...] = ()
    opaque_ports: OpaquePorts | None = None

    def __post_init__(self) -> None:
        check_label(self.name, "name")
        check_label(self.namespace, "namespace")
        if bool(self.certificate) != bool(self.key):
            raise ValueError("`certificate` and `key` go together")


class StaticService(ServiceSpec, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A service: its name, and what a `Service` document's spec says."""

    name: str
    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        check_label(self.name, "name")
        check_label(self.namespace, "namespace")


class ProxyFile(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The file; see the module."""

    trust_domain: str
    trust_bundle: str = ""
    zone: str = ""
    outbound: str = ""
    inbound: str = ""
    admin: str = ""
    opaque_ports: OpaquePorts = DEFAULT_OPAQUE_PORTS
    detect_timeout: str = DEFAULT_DETECT_TIMEOUT
    max_connections: Annotated[int, Meta(ge=0, le=MAX_MAX_CONNECTIONS)] = 0
    workloads: tuple[StaticWorkload, ...] = ()
    services: tuple[StaticService, ...] = ()

    def __post_init__(self) -> None:
        if not is_trust_domain(self.trust_domain):
            raise ValueError(f"{self.trust_domain!r} is not a trust domain, as in prod.example")
        for address in (self.outbound, self.inbound, self.admin):
            if address:
                Address.parse(address)
        parse_detect_timeout(self.detect_timeout)

    @property
    def detection(self) -> Detection:
        return Detection(self.opaque_ports, parse_detect_timeout(self.detect_timeout))


class StaticWorld(Struct, frozen=True):
    """What the file says, read and checked: the configuration, what each workload holds, and the services; and what the
    operator is to be warned of. (Who uses the files of `tls` says so again: they may change without this one.)"""

    configuration: ProxyConfiguration
    held: dict[str, Held]
    services: dict[tuple[str, str], EndpointSet]
    warnings: tuple[str, ...] = ()


def load(file: Path) -> StaticWorld:
    """Read the file and what it names. ConfigurationError."""
    values = list(parse(read_text(file), str(file)))
    if len(values) != 1:
        raise ConfigurationError([Finding(str(file), f"expected one document, found {len(values)}")])
    found: ProxyFile = convert(values[0][1], ProxyFile, str(file))
    findings = _duplicates(found, file)
    beside = file.parent
    bundle = _bundle(beside, found.trust_bundle, file) if found.trust_bundle else ""
    meshed = found.inbound or any(
        endpoint.workload for service in found.services for endpoint in service.endpoints or ()
    )
    if meshed and not bundle:
        findings.append(Finding(str(file), "needed with `inbound` or meshed endpoints, and not there", "trustBundle"))
    if findings:
        raise ConfigurationError(findings)
    warnings: list[str] = []
    return StaticWorld(
        ProxyConfiguration(
            found.trust_domain,
            bundle,
            found.outbound,
            found.inbound,
            found.admin,
            tuple(_workload(one, index, beside, file, warnings) for index, one in enumerate(found.workloads)),
            found.zone,
            detection=found.detection,
            max_connections=found.max_connections,
        ),
        {
            f"{one.namespace}/{one.name}": _held(one, index, beside, file)
            for index, one in enumerate(found.workloads)
            if one.certificate
        },
        {(one.namespace, one.name): _endpoints(one, index, found.trust_domain, file)
         for index, one in enumerate(found.services)},
        tuple(warnings),
    )  # fmt: skip


def _duplicates(found: ProxyFile, file: Path) -> list[Finding]:
    """What is there more than once and may be there once: names of a kind, and addresses to listen at."""
    workloads = [(f"workloads[{index}]", f"{one.namespace}/{one.name}") for index, one in enumerate(found.workloads)]
    services = [(f"services[{index}]", f"{one.name}.{one.namespace}") for index, one in enumerate(found.services)]
    fixed = (("outbound", found.outbound), ("inbound", found.inbound), ("admin", found.admin))
    addresses = [(path, address) for path, address in fixed if address]
    for path, workload in zip((path for path, _ in workloads), found.workloads, strict=True):
        addresses += [(f"{path}.upstreams[{n}].listen", each.listen) for n, each in enumerate(workload.upstreams)]
    findings = []
    for kind in (workloads, services, addresses):
        seen: set[str] = set()
        for path, name in kind:
            if name in seen:
                findings.append(Finding(str(file), f"{name} is there twice", path))
            seen.add(name)
    return findings


def _pem(beside: Path, name: str, file: Path, path: str) -> str:
    try:
        return read_text(beside / name)
    except ConfigurationError as error:
        message = "; ".join(finding.message for finding in error.findings)
        raise ConfigurationError([Finding(str(file), f"{beside / name}: {message}", path)]) from error


def _bundle(beside: Path, name: str, file: Path) -> str:
    bundle = _pem(beside, name, file, "trustBundle")
    try:
        check_bundle(bundle)
    except ValueError as error:
        raise ConfigurationError([Finding(str(file), f"{beside / name}: {error}", "trustBundle")]) from error
    return bundle


def _held(workload: StaticWorkload, index: int, beside: Path, file: Path) -> Held:
    path = f"workloads[{index}]"
    chain = _pem(beside, workload.certificate, file, f"{path}.certificate")
    key = _pem(beside, workload.key, file, f"{path}.key")
    try:
        not_before, not_after = life(chain)
    except ValueError as error:
        raise ConfigurationError([Finding(str(file), str(error), f"{path}.certificate")]) from error
    if not_after < time.time():
        ended = time.strftime("%FT%TZ", time.gmtime(not_after))
        raise ConfigurationError([Finding(str(file), f"expired at {ended}", f"{path}.certificate")])
    return Held(Certificate(chain, not_before, not_after), key.encode())


def _workload(workload: StaticWorkload, index: int, beside: Path, file: Path, warnings: list[str]) -> ProxyWorkload:
    path = f"workloads[{index}].upstreams"
    upstreams = (_upstream(one, f"{path}[{n}]", beside, file, warnings) for n, one in enumerate(workload.upstreams))
    return ProxyWorkload(workload.namespace, workload.name, workload.ports, tuple(upstreams), workload.opaque_ports)


def _upstream(upstream: Upstream, path: str, beside: Path, file: Path, warnings: list[str]) -> Upstream:
    """The upstream with the paths of its TLS made absolute, and what they lead to found good."""
    if upstream.tls is None:
        return upstream
    files = {name: str((beside / each).absolute()) for name, each in upstream.tls.files}
    tls = ListenerTls(files["certificate"], files["key"], files.get("clientCa"))
    try:
        warnings += read(tls, opaque=upstream.protocol == "tcp").warnings
    except BadFile as error:
        raise ConfigurationError([Finding(str(file), str(error), f"{path}.tls.{error.field}")]) from error
    return replace(upstream, tls=tls)


def _endpoints(service: StaticService, index: int, trust_domain: str, file: Path) -> EndpointSet:
    endpoints = []
    for number, one in enumerate(service.endpoints or ()):
        try:
            endpoints.append(endpoint_of(one, service.protocol, service.namespace, trust_domain))
        except InvalidName as error:
            path = f"services[{index}].endpoints[{number}].workload"
            raise ConfigurationError([Finding(str(file), str(error), path)]) from error
    name = ServiceName(service.name, service.namespace, service.port)
    opaque = listed(service.port, service.opaque_ports)
    return EndpointSet(name, tuple(endpoints), service.protocol, policy=service.policy, opaque=opaque)


class StaticResolver:
    """The services of a file, a `proxy.resolve.Resolver`. Names are NAME or NAME.NAMESPACE, with or without port."""

    def __init__(self, services: dict[tuple[str, str], EndpointSet]) -> None:
        self._services = services
        self._watches: dict[object, tuple[str, str, Found]] = {}

    def watch(self, authority: str, namespace: str, found: Found) -> Callable[[], None]:
        """See `Resolver.watch`."""
        mark = object()
        self._watches[mark] = (authority, namespace, found)
        found(self._find(authority, namespace))
        return lambda: self._watches.pop(mark) and None

    def _find(self, authority: str, namespace: str) -> EndpointSet | None:
        host, _, port = authority.partition(":")
        name, _, space = host.partition(".")
        service = self._services.get((space or namespace, name))
        return service if service is not None and port in ("", str(service.service.port)) else None

    def replace(self, services: dict[tuple[str, str], EndpointSet]) -> None:
        """The file was read again."""
        self._services = services
        for authority, namespace, found in tuple(self._watches.values()):
            found(self._find(authority, namespace))
