"""The stores of the CA, each made anew: what the suite of all of them runs over, and records for them."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from meshd.ca.consul.client import Client
from meshd.ca.keyed.store import KeyedStore
from meshd.ca.records import Entry, Issued, JoinToken, JwtKey, Node, hashed
from meshd.ca.settings import ConsulSettings
from meshd.ca.sqlite import SqliteStore
from meshd.ca.store import Store
from tests.support.consul import Consul

NOW: Final = 1_800_000_000.0
DAY_S: Final = 86400.0

STORES: Final[dict[str, Callable[[Path], Store]]] = {
    "sqlite": lambda directory: SqliteStore.create(directory / "ca.db"),
}
"""Name → what makes an empty one, whose files may be in a directory of the test's. Consul's is `consul_store`."""

TRUST_DOMAIN: Final = "prod.example"


def consul_settings(consul: Consul, prefix: str = "", token: str = "") -> ConsulSettings:
    """For a place there: a new one, if none is given."""
    return ConsulSettings(address=consul.url, prefix=prefix or f"test/{uuid.uuid4().hex}", token=token)


def consul_store(consul: Consul, name: str = "here") -> KeyedStore:
    """An empty one."""
    return KeyedStore.create(Client(consul_settings(consul)), name, TRUST_DOMAIN)


def issued(
    serial: str, node: str = "", workload: str = "default/web", at: float = NOW, life_s: float = DAY_S
) -> Issued:
    namespace, _, name = workload.partition("/")
    path = f"ns/{namespace}/sa/{name}" if workload else f"node/{node}"
    return Issued(serial, f"spiffe://prod.example/{path}", "someone", at - 60, at + life_s, at, node, workload)


def node(name: str, key: str = "its key", origin: str = "token t1", at: float = NOW) -> Node:
    return Node(name, hashed(key.encode()), origin, at, at, at + 7 * DAY_S)


def entry(number: int, pattern: str, workload: str, origin: str = "operator") -> Entry:
    return Entry(f"e{number}", pattern, workload, origin, NOW)


def join_token(
    token_id: str = "t1", pattern: str = "vm*", uses: int = 1, workloads: tuple[str, ...] = ("default/web",)
) -> JoinToken:
    return JoinToken(token_id, hashed(b"secret"), pattern, workloads, uses, 0, NOW, NOW + 3600)


def jwt_key(kid: str, at: float = NOW) -> JwtKey:
    return JwtKey(kid, "x", "y", "ca1", at, at, at + 31 * DAY_S, at + 29 * DAY_S, DAY_S)
