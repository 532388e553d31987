"""One text's documents: read, typed, and checked for what types cannot say.

    mesh.yaml: document 2 (Workload web): spec.upstreams[0].listen: port 0 cannot be listened on

The text is a file's, or whatever holds what a file would. It is good or refused as a whole. What concerns several files
at once (the same name twice) is `discovery.ledger`'s to see, by the claims that `claims` lists.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from discovery.names import Authority
from meshd.api.documents import Document, Selector, Service, Workload
from meshd.api.loading import ConfigurationError, Finding, Located, convert, located, read_text
from meshd.api.names import Address, InvalidName, WorkloadName, canonical_address

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@*-]{1,247}\.(?:service|scope|socket|mount|swap)")
_USER = re.compile(r"[0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.-]{0,254}\$?")


class Claim(NamedTuple):
    """Something that only one document may have; `text` names it to a person."""

    key: tuple[str, ...]
    text: str


class Placed(NamedTuple):
    """A document, and the line of its text where it begins; 0: it is not in lines."""

    document: Document
    line: int = 0


def read_documents(file: Path, *, beside_settings: bool = False) -> tuple[Placed, ...]:
    """The documents of file; ConfigurationError with every finding when one of them is not good.

    With beside_settings, a document without `kind` is the settings, which are somebody else's to read.
    """
    name = str(file)
    values = located(read_text(file), name)
    if beside_settings:
        values = (each for each in values if not isinstance(each.value, dict) or "kind" in each.value)
    return _read(values, name)


def documents_in(text: str, name: str) -> tuple[Placed, ...]:
    """The documents of text, which findings call `name`; otherwise as `read_documents`."""
    return _read(located(text, name), name)


def document_of(value: Any, name: str) -> tuple[Placed, ...]:
    """The one document that value is, as YAML or JSON would have it; otherwise as `read_documents`."""
    return _read([Located("", value, 0)], name)


def _read(values: Iterable[Located], name: str) -> tuple[Placed, ...]:
    placed: list[Placed] = []
    findings: list[Finding] = []
    for label, value, line in values:
        try:
            document: Document = _typed(value, name, label)
        except ConfigurationError as error:
            findings += error.findings
            continue
        findings += (Finding(name, message, path, label) for path, message in _wrong(document))
        placed.append(Placed(document, line))
    findings += _repeated(placed, name)
    if findings:
        raise ConfigurationError(findings)
    return tuple(placed)


def _typed(value: Any, file: str, label: str) -> Document:
    if not isinstance(value, dict):
        raise ConfigurationError([Finding(file, "a document is a mapping with apiVersion, kind, metadata", "", label)])
    if "kind" not in value:
        message = "no `kind`: a document has `kind: Workload` or `kind: Service` (settings belong in meshd.yaml)"
        raise ConfigurationError([Finding(file, message, "", label)])
    document: Document = convert(value, Document, file, label)
    return document


def claims(document: Document) -> Iterator[Claim]:
    """What no second document of this host may have: its name; a workload's addresses."""
    kind, metadata = type(document).__name__, document.metadata
    yield Claim((kind, metadata.namespace, metadata.name), f"{kind} {metadata.workload}")
    if isinstance(document, Workload):
        for port in document.spec.ports:
            address = Address(port.address, port.port)
            yield Claim(("port", str(address)), f"the port {address} (of Workload {metadata.workload})")
        for upstream in document.spec.upstreams:
            text = f"the upstream address {upstream.listen} (of Workload {metadata.workload})"
            yield Claim(("listen", upstream.listen), text)


def _repeated(placed: list[Placed], file: str) -> Iterator[Finding]:
    seen: set[tuple[str, ...]] = set()
    for document, _ in placed:
        for key, text in claims(document):
            if key in seen:
                yield Finding(file, f"{text} is in this file twice: remove one of them")
            seen.add(key)


def _wrong(document: Document) -> Iterator[tuple[str, str]]:
    """(path, message) of what the types let pass."""
    if isinstance(document, Service):
        return _wrong_service(document)
    return _wrong_workload(document)


def _wrong_workload(workload: Workload) -> Iterator[tuple[str, str]]:
    for number, port in enumerate(workload.spec.ports):
        if not canonical_address(port.address):
            yield f"spec.ports[{number}].address", f"{port.address!r} is not an IP address"
    for number, upstream in enumerate(workload.spec.upstreams):
        path = f"spec.upstreams[{number}]"
        try:
            Authority.parse(upstream.service, workload.metadata.namespace)
        except InvalidName as error:
            yield f"{path}.service", str(error)
        listen = Address.parse(upstream.listen)
        if not canonical_address(listen.host):
            yield f"{path}.listen", f"{listen.host!r} is not an IP address"
        if listen.port == 0:
            yield f"{path}.listen", "port 0 cannot be listened on: name the port that the application connects to"
        for name, file in upstream.tls.files if upstream.tls else ():
            if not file.startswith("/"):
                yield f"{path}.tls.{name}", f"{file!r} is relative: the proxy reads it, so it must begin with /"
    for number, selector in enumerate(workload.spec.selectors):
        yield from ((f"spec.selectors[{number}].{field}", message) for field, message in _wrong_selector(selector))


def _wrong_selector(selector: Selector) -> Iterator[tuple[str, str]]:
    if selector.unit is not None and not _UNIT.fullmatch(selector.unit):
        yield "unit", f"{selector.unit!r} is not the name of a unit that has processes, as in web.service"
    if selector.user is not None and not _USER.fullmatch(selector.user):
        yield "user", f"{selector.user!r} is neither a user's name nor a uid"
    for field, path in (("cgroup", selector.cgroup), ("executable", selector.executable)):
        if path is not None and not (path.startswith("/") and path == posixpath.normpath(path)):
            yield field, f"{path!r} is not an absolute path in its shortest form, as in /meshed.slice or /usr/bin/web"
    if selector.cgroup is not None and not selector.cgroup.strip("/*"):
        yield "cgroup", f"{selector.cgroup!r} is where every process of this host is: name a slice or a unit"
    if selector.executable is not None and "*" in selector.executable:
        yield "executable", f"{selector.executable!r}: an executable is one file, and not a pattern"


def _wrong_service(service: Service) -> Iterator[tuple[str, str]]:
    seen: set[tuple[str, int]] = set()
    for number, endpoint in enumerate(service.spec.endpoints or ()):
        path = f"spec.endpoints[{number}]"
        if not (canonical_address(endpoint.address) or _HOST.fullmatch(endpoint.address)):
            yield f"{path}.address", f"{endpoint.address!r} is neither an IP address nor a host name"
        if (endpoint.address, endpoint.port) in seen:
            yield path, f"{Address(endpoint.address, endpoint.port)} is in this service twice: use `weight`"
        seen.add((endpoint.address, endpoint.port))
        try:
            if endpoint.workload:
                WorkloadName.parse(endpoint.workload)
        except InvalidName as error:
            yield f"{path}.workload", str(error)
