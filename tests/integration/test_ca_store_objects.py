"""The store in objects of a cluster, over HTTP and TLS: the suites of all stores, and what can go wrong there."""

import asyncio
import inspect
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from aiohttp import web

from k8s.crds import records
from meshd.api.problems import Problem
from meshd.ca.keyed.store import KeyedStore
from meshd.ca.objects.api import PAGE, ApiServer
from meshd.ca.objects.client import ObjectKeys
from meshd.ca.objects.records import PLURAL
from meshd.ca.settings import ObjectSettings
from meshd.ca.source import Unreachable
from meshd.ca.store import Store
from tests.support.kubernetes import ADMIN, POWERLESS, Cluster
from tests.support.kubernetes.api import Place
from tests.support.kubernetes.cluster import Interfere
from tests.support.kubernetes.core import NAMESPACES
from tests.support.kubernetes.definitions import DEFINITIONS
from tests.support.stores import NOW, TRUST_DOMAIN, issued
from tests.unit import test_ca_shared_stores, test_ca_stores

for _name, _test in (vars(test_ca_stores) | vars(test_ca_shared_stores)).items():
    if _name.startswith("test_") and {"store", "stores"} & inspect.signature(_test).parameters.keys():
        globals()[_name] = _test  # each asks for the stores below


class Served:
    """A cluster that answers in a thread of its own."""

    def __init__(self, directory: Path) -> None:
        self.cluster = Cluster(directory)
        self.cluster.api.create(Place(DEFINITIONS), records.DEFINITION, "meshd")
        self.cluster.interfere = self._heard
        self.interfere: Interfere | None = None
        """As `Cluster.interfere`."""
        self._connections: set[asyncio.Transport] = set()
        self._is_served, self._ended = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    async def _serve(self) -> None:
        async with self.cluster.serves():
            self._is_served.set()
            await self._ended.wait()
            for each in self._connections:  # a client that is done with one says nothing, and the server would wait
                each.abort()
            await asyncio.sleep(0)

    async def _heard(self, request: web.Request) -> web.StreamResponse | None:
        assert request.transport is not None
        self._connections.add(request.transport)
        return None if self.interfere is None else await self.interfere(request)

    def __enter__(self) -> "Served":
        self._thread.start()
        assert self._is_served.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._loop.close()

    async def _make(self, namespace: str) -> None:
        self.cluster.api.create(Place(NAMESPACES), {"metadata": {"name": namespace}}, "meshd")

    def settings(self, namespace: str = "", token: str = ADMIN) -> ObjectSettings:
        """Of a namespace there: a new one, if none is given."""
        if not namespace:
            namespace = f"meshd-{uuid.uuid4().hex[:8]}"
            asyncio.run_coroutine_threadsafe(self._make(namespace), self._loop).result(60)
        file = self.cluster.directory / f"{uuid.uuid4().hex}.token"
        file.write_text(token)
        return ObjectSettings(self.cluster.url, str(self.cluster.ca), str(file), namespace)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("cluster")) as started, _opened:
        yield started


@pytest.fixture
def interfere(served: Served) -> Iterator[Served]:
    """The cluster, which does again as it should after the test."""
    yield served
    served.interfere = None


@pytest.fixture
def store(served: Served) -> Iterator[Store]:
    with closing(shared(served.settings(), "here")) as made:
        yield made


@pytest.fixture
def stores(served: Served) -> Iterator[list[KeyedStore]]:
    """One store as three CAs have it."""
    settings = served.settings()
    with ExitStack() as opened:
        yield [opened.enter_context(closing(shared(settings, name))) for name in test_ca_shared_stores.NAMES]


def keys(settings: ObjectSettings) -> ObjectKeys:
    """Closed with the cluster at the latest: where no store comes of it, nobody else does."""
    return ObjectKeys(_opened.enter_context(closing(ApiServer(settings, settings.namespace))))


_opened = ExitStack()


def shared(settings: ObjectSettings, name: str) -> KeyedStore:
    return KeyedStore.share(keys(settings), name, TRUST_DOMAIN)


def answering(status: int, content: object, path: str = "") -> Interfere:
    async def answer(request: web.Request) -> web.Response | None:
        return web.json_response(content, status=status) if path in request.path else None

    return answer


def test_a_place_is_taken_once_and_by_one_trust_domain(served: Served) -> None:
    settings = served.settings()
    with pytest.raises(Problem, match="the CA's records are missing"):
        KeyedStore.open(keys(settings), "first", TRUST_DOMAIN)
    KeyedStore.create(keys(settings), "first", TRUST_DOMAIN).close()
    with pytest.raises(Problem, match=r"there is a CA already, of prod\.example: .*kubectl delete carecords --all"):
        KeyedStore.create(keys(settings), "second", TRUST_DOMAIN)
    with pytest.raises(Problem, match=r"is of the trust domain prod\.example, and this CA of b\.example"):
        KeyedStore.share(keys(settings), "second", "b.example")


@pytest.mark.parametrize(
    ("token", "advice"),
    [
        (POWERLESS, r"\(status 403\): this CA needs get, list, create, update and delete for carecords"),
        ("a token of nobody", r"\(status 401\): it does not know this CA's account"),
    ],
)
def test_who_may_not_is_told_what_it_takes(served: Served, token: str, advice: str) -> None:
    store = KeyedStore(keys(served.settings(token=token)), "first")
    with closing(store), pytest.raises(Unreachable, match=advice) as refused:
        store.nodes()
    assert token not in str(refused.value)


def test_a_cluster_without_the_kind_is_said(interfere: Served, served: Served) -> None:
    interfere.interfere = answering(404, {"message": "the server could not find the requested resource"})
    with pytest.raises(Problem, match="there is no custom resource carecords"):
        shared(served.settings(), "first")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_while_the_api_server_is_away_nothing_is_stored_and_it_goes_on_by_itself(
    interfere: Served, store: KeyedStore, status: int
) -> None:
    first = store.add(issued("01"))
    interfere.interfere = answering(status, {"message": "etcd has no leader"})
    with pytest.raises(Unreachable, match="etcd has no leader"):
        store.add(issued("02"))
    assert (store.errors, "etcd has no leader" in store.trouble) == (1, True)
    interfere.interfere = None
    assert store.add(issued("03")) == first + 1
    assert [each.serial for each in store.issued()] == ["03", "01"]
    assert store.trouble == ""


def test_an_answer_that_is_none_is_not_taken_for_one(interfere: Served, store: KeyedStore) -> None:
    interfere.interfere = answering(200, {"kind": "Status"}, "/carecords")
    with pytest.raises(Unreachable, match="gives an answer that is none of the CA's records"):
        store.nodes()


def test_a_list_that_became_too_old_is_begun_anew(interfere: Served, served: Served) -> None:
    settings, count = served.settings(), PAGE + 5
    with closing(shared(settings, "first")) as store, closing(ApiServer(settings, settings.namespace)) as api:
        for number in range(count):
            store.add_token(f"token {number}", NOW)
        asked: list[str] = []

        async def compacts(request: web.Request) -> None:
            if "continue" in request.query and not asked:
                asked.append(request.query["continue"])
                interfere.cluster.api.store.version += 1  # something was changed, too long ago to be known
                interfere.cluster.compact()

        interfere.interfere = compacts
        names = [record.name for page in api.pages("shared") for record in page]
        assert len(asked) == 1
        assert len(set(names)) == len(names) == count


def test_an_api_server_that_cannot_be_reached_is_said(served: Served, tmp_path: Path) -> None:
    good = served.settings()
    bad = ObjectSettings("https://127.0.0.1:1", good.ca, good.token_file, good.namespace)
    with pytest.raises(Problem, match=r"Kubernetes at https://127\.0\.0\.1:1 cannot be used: Connection refused"):
        shared(bad, "first")
    missing = ObjectSettings(good.url, good.ca, str(tmp_path / "none"), good.namespace)
    with pytest.raises(Problem, match="none: the CA's own token cannot be read"):
        shared(missing, "first")


def test_no_token_is_in_what_the_cluster_keeps(served: Served) -> None:
    with closing(shared(served.settings(), "first")) as store:
        store.add_token("a secret of agents", NOW)
        kept = [*served.cluster.api.store.all(f"{PLURAL}.meshd.io").values()]
    assert "a secret of agents" not in json.dumps(kept)
