"""What registrations and reports must be before the registry takes them in; the types have seen to the rest."""

import re

from discovery.names import Authority
from meshd.agent.registry import Unacceptable
from meshd.api.control import RegisterWorkload, ReportState
from meshd.api.names import Address, InvalidName, WorkloadName, canonical_address

MAX_PORTS = 64
MAX_UPSTREAMS = 256
MAX_CERTIFICATES = 4096
MAX_TEXTS = 64
MAX_TEXT = 1024
"""Characters in what is waited for, or in an error."""

_INSTANCE = re.compile(r"[0-9a-f]{32,128}")


def check_registration(asked: RegisterWorkload) -> WorkloadName:
    """The workload that asked names; Unacceptable, saying what is wrong, when it cannot be registered."""
    try:
        if not _INSTANCE.fullmatch(asked.instance):
            raise Unacceptable("the instance is 32 to 128 hexadecimal digits")
        if len(asked.ports) > MAX_PORTS or len(asked.upstreams) > MAX_UPSTREAMS:
            raise Unacceptable(f"a workload has at most {MAX_PORTS} ports and {MAX_UPSTREAMS} upstreams")
        _check_texts(asked.waiting_for)
        if len({port.port for port in asked.ports}) < len(asked.ports):
            raise Unacceptable("a port is listed twice")
        for port in asked.ports:
            if not canonical_address(port.address):
                raise Unacceptable(f"{port.address!r}, where port {port.port} listens, is not an IP address")
        for upstream in asked.upstreams:
            Authority.parse(upstream.service, asked.namespace)
        _check_listener(asked.inbound, "inbound")
        for listen, what in ((asked.outbound, "outbound"), (asked.admin, "admin")):
            if listen:
                _check_listener(listen, what)
        return WorkloadName.parse(f"{asked.namespace}/{asked.name}")
    except InvalidName as error:
        raise Unacceptable(str(error)) from error


def check_report(report: ReportState) -> None:
    """Unacceptable when a proxy's report is larger than any proxy's."""
    _check_texts(report.waiting_for)
    if len(report.certificates) > MAX_CERTIFICATES:
        raise Unacceptable(f"a proxy has at most {MAX_CERTIFICATES} certificates")
    _check_texts(tuple(state.error for state in report.certificates), MAX_CERTIFICATES)


def _check_texts(texts: tuple[str, ...], most: int = MAX_TEXTS) -> None:
    if len(texts) > most or any(len(text) > MAX_TEXT for text in texts):
        raise Unacceptable(f"what is waited for is at most {most} texts of {MAX_TEXT} characters")


def _check_listener(text: str, what: str) -> None:
    address = Address.parse(text)
    if not canonical_address(address.host) or address.port == 0:
        raise Unacceptable(f"the {what} address {text!r} is not that of a listener: an IP address and a port above 0")
