"""Consul's JSON, as types: only the fields that matter, each as Consul documents it. Anything else is no answer of
Consul's, and `Away`."""

from enum import Enum
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from discovery.registry import MAX_ENDPOINTS, Away

T = TypeVar("T")


class Status(Enum):
    """How a check is; `maintenance` is a way of being critical."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    MAINTENANCE = "maintenance"


class Locality(Struct, frozen=True, rename="pascal"):
    """Where something stands, as Consul 1.17 and later may know."""

    zone: str = ""


class Node(Struct, frozen=True, rename="pascal"):
    node: str
    address: str
    meta: dict[str, str] | None = None
    locality: Locality | None = None


class Weights(Struct, frozen=True, rename="pascal"):
    passing: int = 1
    warning: int = 1


class Service(Struct, frozen=True, rename="pascal"):
    id: str = msgspec.field(name="ID")
    service: str
    address: str = ""
    port: int = 0
    tags: tuple[str, ...] | None = None
    meta: dict[str, str] | None = None
    weights: Weights | None = None
    locality: Locality | None = None


class Check(Struct, frozen=True, rename="pascal"):
    status: Status


class Instance(Struct, frozen=True, rename="pascal"):
    """One registration of a service, with its node and the checks of both."""

    node: Node
    service: Service
    checks: tuple[Check, ...] | None = None


class QueryResult(Struct, frozen=True, rename="pascal"):
    """What a prepared query chose: instances that it takes for well, of a service of a datacenter."""

    service: str
    datacenter: str
    nodes: tuple[Instance, ...] | None = None


class NodeServices(Struct, frozen=True, rename="pascal"):
    services: dict[str, Service]


class CatalogInstance(Struct, frozen=True, rename="pascal"):
    """A registration as the catalogue has it."""

    address: str
    service_address: str = ""
    service_port: int = 0
    service_meta: dict[str, str] | None = None


class Registered(Struct, frozen=True, rename="pascal"):
    """A registration as the agent that holds it has it."""

    id: str = msgspec.field(name="ID")
    service: str
    address: str = ""
    port: int = 0
    tags: tuple[str, ...] | None = None
    meta: dict[str, str] | None = None
    weights: Weights | None = None


class Pair(Struct, frozen=True, rename="pascal"):
    """A key of the KV store, and what it holds."""

    key: str
    value: bytes | None = None


MAX_SHOWN_BYTES: Final = 200


def decoded(body: bytes, kind: type[T], what: str) -> T:
    """The JSON in body as kind; Away, which says what was asked, when it is something else or too much."""
    try:
        value = msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Away(f"{what}: not an answer of Consul's: {error}") from error
    if isinstance(value, tuple | dict) and len(value) > MAX_ENDPOINTS:
        raise Away(f"{what}: {len(value)} entries, more than {MAX_ENDPOINTS}")
    return value


def shown(said: bytes) -> str:
    """What a server said when it refused, fit for a line of a log."""
    text = said[:MAX_SHOWN_BYTES].decode("ascii", "replace").replace("\ufffd", "?")
    return "".join(each if each.isprintable() else "?" for each in text.strip())
