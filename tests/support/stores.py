"""The stores of the CA, each made anew: what the suite of all of them runs over, and records for them."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from k8s.crds import records
from meshd.ca.consul.client import Client
from meshd.ca.keyed.store import KeyedStore
from meshd.ca.objects.client import Clash, ObjectKeys
from meshd.ca.objects.records import LABEL, PLURAL, Record
from meshd.ca.records import Entry, Issued, JoinToken, JwtKey, Node, hashed
from meshd.ca.settings import ConsulSettings
from meshd.ca.sqlite import SqliteStore
from meshd.ca.store import Store
from tests.support.consul import Consul
from tests.support.kubernetes.api import Api, Place
from tests.support.kubernetes.core import NAMESPACES
from tests.support.kubernetes.definitions import DEFINITIONS
from tests.support.kubernetes.refusals import Refused

NOW: Final = 1_800_000_000.0
DAY_S: Final = 86400.0

NAMESPACE: Final = "meshd"

T = TypeVar("T")


class InProcess:
    """The API server's objects (`meshd.ca.objects.client.Objects`) as its double has them, without HTTP between."""

    where, place, in_the_way = "Kubernetes here", f"Kubernetes here, namespace {NAMESPACE}", "see whose it is"

    def __init__(self, api: Api, page: int = 3) -> None:
        self._api, self._page = api, page
        self._kind = api.kinds["meshd.io", "v1", PLURAL]

    def get(self, name: str) -> Record | None:
        try:
            return self._asked(lambda: self._api.get(self._at(name)), Record)
        except _Gone:
            return None

    def pages(self, label: str) -> Iterator[list[Record]]:
        query = {"labelSelector": f"{LABEL}={label}", "limit": str(self._page)}
        while True:
            found = self._asked(lambda: self._api.list(self._at(""), query), dict[str, Any])
            yield msgspec.convert(found["items"], list[Record])
            if not (token := found["metadata"]["continue"]):
                return
            query["continue"] = token

    def create(self, record: Record) -> Record:
        content = msgspec.json.decode(msgspec.json.encode(record))
        return self._asked(lambda: self._api.create(self._at(""), content, "meshd", strict="Strict").body, Record)

    def replace(self, record: Record) -> Record:
        content, place = msgspec.json.decode(msgspec.json.encode(record)), self._at(record.name)
        return self._asked(lambda: self._api.update(place, content, "meshd", strict="Strict").body, Record)

    def delete(self, record: Record) -> None:
        options = {"preconditions": {"resourceVersion": record.metadata.resource_version}}
        with suppress(_Gone):
            self._asked(lambda: self._api.delete(self._at(record.name), options, "meshd").body, dict[str, Any])

    def now(self) -> float:
        return time.time()

    def close(self) -> None:
        pass

    def _at(self, name: str) -> Place:
        return Place(self._kind, NAMESPACE, name)

    def _asked(self, ask: Callable[[], Any], of: type[T]) -> T:
        """One at a time, as the server does what it is asked for."""
        try:
            with _TURN:
                return msgspec.convert(ask(), of)
        except Refused as refused:
            if refused.code not in {404, 409}:
                raise
            raise (Clash if refused.code == 409 else _Gone)(refused.message) from refused


_TURN: Final = threading.Lock()


class _Gone(Clash):
    pass


def objects_api() -> Api:
    """A cluster's that has the CAs' records, and none of them yet."""
    api = Api()
    api.create(Place(DEFINITIONS), records.DEFINITION, "meshd")
    api.create(Place(NAMESPACES), {"metadata": {"name": NAMESPACE}}, "meshd")
    return api


STORES: Final[dict[str, Callable[[Path], Store]]] = {
    "sqlite": lambda directory: SqliteStore.create(directory / "ca.db"),
    "objects": lambda _: KeyedStore.create(ObjectKeys(InProcess(objects_api())), "here", TRUST_DOMAIN),
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
