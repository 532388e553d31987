"""What a `RegisterWorkload` must be before the registry takes it in; the types have seen to the rest."""

import re

from discovery.names import Authority, canonical_address
from meshd.agent.registry import Unacceptable
from meshd.api.control import RegisterWorkload
from meshd.api.names import Address, InvalidName, WorkloadName

MAX_PORTS = 64
MAX_UPSTREAMS = 256
MAX_WAITING_FOR = 64

_INSTANCE = re.compile(r"[0-9a-f]{32,128}")


def check_registration(asked: RegisterWorkload) -> WorkloadName:
    """The workload that asked names; Unacceptable, saying what is wrong, when it cannot be registered."""
    try:
        if not _INSTANCE.fullmatch(asked.instance):
            raise Unacceptable("the instance is 32 to 128 hexadecimal digits")
        if len(asked.ports) > MAX_PORTS or len(asked.upstreams) > MAX_UPSTREAMS:
            raise Unacceptable(f"a workload has at most {MAX_PORTS} ports and {MAX_UPSTREAMS} upstreams")
        if len(asked.waiting_for) > MAX_WAITING_FOR:
            raise Unacceptable(f"a workload waits for at most {MAX_WAITING_FOR} things")
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


def _check_listener(text: str, what: str) -> None:
    address = Address.parse(text)
    if not canonical_address(address.host) or address.port == 0:
        raise Unacceptable(f"the {what} address {text!r} is not that of a listener: an IP address and a port above 0")
