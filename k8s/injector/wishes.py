"""What a pod is to get: the annotations of the pod, else of its namespace, else the installation's settings.

Each annotation has a reader here, which takes the text to a value or raises ValueError with what was found and what was
expected. A value that cannot be meant is a reason not to inject, never a default in its place: a port that somebody
wanted skipped is not to be captured because of a slip.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

from msgspec import Struct
from msgspec.structs import replace

from k8s.injector import annotations as called
from k8s.injector.annotations import Found
from k8s.settings import Installation, Level, ProxySettings, PullPolicy, check_image
from k8s.values import LEVELS, MAX_TEXT, check_request, port_ranges, quantity, split_ports, written

T = TypeVar("T")


_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*", re.ASCII)
"""Of a port (RFC 6335, section 5.1)."""


class Wishes(Struct, frozen=True):
    """One pod's. `opaque_ports` is the list as the pod is to carry it; empty where it says nothing."""

    image: str
    pull_policy: str
    native: bool
    proxy: ProxySettings
    opaque_ports: str = ""


class Unmeant(ValueError):
    """Annotations that cannot be meant; `reasons` has each of them."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


def wishes(
    pod: Mapping[str, str], namespace: Mapping[str, str], ports: Mapping[str, int], settings: Installation, *,
    native: bool,
) -> Wishes:  # fmt: skip
    """By the annotations of pod and namespace. `ports`: the numbers of the pod's ports that have names. `native`: where
    no annotation says. Unmeant with every reason."""
    reader = _Reader(pod, namespace)
    base = settings.proxy
    image = reader.read(called.IMAGE, _image, settings.image)
    pull_policy = reader.read(called.PULL_POLICY, _pull_policy, settings.image_pull_policy)
    is_native = reader.read(called.NATIVE_SIDECAR, _switch, native)
    opaque = reader.read(called.OPAQUE_PORTS, lambda found: _opaque(found, ports), "")
    fields: dict[str, Any] = {
        "log_level": reader.read(called.LOG_LEVEL, _level, base.log_level),
        "cpu_request": reader.read(called.CPU_REQUEST, _quantity, base.cpu_request),
        "cpu_limit": reader.read(called.CPU_LIMIT, _quantity, base.cpu_limit),
        "memory_request": reader.read(called.MEMORY_REQUEST, _quantity, base.memory_request),
        "memory_limit": reader.read(called.MEMORY_LIMIT, _quantity, base.memory_limit),
        "uid": reader.read(called.UID, _number("a user's number", 1, 2**31 - 1), base.uid),
        "inbound_port": reader.read(called.INBOUND_PORT, _number("a port", 1, 65535), base.inbound_port),
        "skip_inbound_ports": reader.read(called.SKIP_INBOUND_PORTS, _ports, base.skip_inbound_ports),
        "skip_outbound_ports": reader.read(called.SKIP_OUTBOUND_PORTS, _ports, base.skip_outbound_ports),
        "await_": reader.read(called.AWAIT, _switch, base.await_),
        "wait_before_exit_seconds": reader.read(
            called.WAIT_BEFORE_EXIT, _number("whole seconds", 0, 3600), base.wait_before_exit_seconds
        ),
    }
    if not reader.reasons:
        try:
            check_request(fields["cpu_request"], fields["cpu_limit"], "CPU")
            check_request(fields["memory_request"], fields["memory_limit"], "memory")
            return Wishes(image, pull_policy, is_native, replace(base, **fields), opaque)
        except ValueError as error:  # what is good by itself, and not together
            reader.reasons.append(f"the sidecar's annotations: {error}")
    raise Unmeant(tuple(reader.reasons))


class _Reader:
    """The annotations of one pod, and what is wrong with them."""

    def __init__(self, pod: Mapping[str, str], namespace: Mapping[str, str]) -> None:
        self._pod, self._namespace = pod, namespace
        self.reasons: list[str] = []

    def read(self, word: str, reads: Callable[[Found], T], default: T) -> T:
        found = called.find(word, self._pod, self._namespace)
        if found is None:
            return default
        where = " of the namespace" if found.place else ""
        try:
            return reads(found)
        except ValueError as error:
            self.reasons.append(f"annotation {found.name}{where}: {error}")
            return default


# --- one reader for each form


def _image(found: Found) -> str:
    try:
        return check_image(found.value)
    except ValueError as error:
        raise ValueError(str(error).removeprefix("image: ")) from error


def _pull_policy(found: Found) -> PullPolicy:
    _one_of(found.value, get_args(PullPolicy))
    return found.value  # type: ignore[return-value]  # one of them


def _one_of(value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"found {value[:64]!r}; expected {', '.join(known[:-1])} or {known[-1]}")
    return value


def _switch(found: Found) -> bool:
    """Linkerd writes some of these enabled and disabled, and others true and false."""
    return _one_of(found.value, ("true", "enabled", "false", "disabled")) in ("true", "enabled")


def _level(found: Found) -> Level:
    """Linkerd's is a list of filters, `warn,linkerd=info`: the one that is for everything counts."""
    value = found.value
    if found.is_linkerds:
        whole = next((each.strip() for each in value.lower().split(",") if "=" not in each), "info")
        value = {"warn": "warning", "trace": "debug", "off": "error"}.get(whole, whole)
    _one_of(value, LEVELS)
    return value  # type: ignore[return-value]  # one of them


def _quantity(found: Found) -> str:
    if found.value:  # empty is none
        quantity(found.value)
    return found.value


def _ports(found: Found) -> str:
    return written(port_ranges(found.value))


def _opaque(found: Found, names: Mapping[str, int]) -> str:
    """Ports may be called by the names that containers give them; discovery knows those too, so the names stay. One
    that no container has is a slip in meshd's annotation of the pod itself; for Linkerd, and for all pods of a
    namespace, it is nothing."""
    if len(found.value) > MAX_TEXT:
        port_ranges(found.value)
    for part in split_ports(found.value):
        lenient = found.is_linkerds or found.place > 0
        if part not in names and not (lenient and _NAME.fullmatch(part)):
            port_ranges(part)
    return found.value


def _number(what: str, least: int, most: int) -> Callable[[Found], int]:
    def read(found: Found) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", found.value, re.ASCII) or not least <= int(found.value) <= most:
            raise ValueError(f"found {found.value[:64]!r}; expected {what}, from {least} to {most}")
        return int(found.value)

    return read
