"""Several places of documents: what of two that claim the same is in force, and what is said of the other."""

from collections.abc import Iterator, Mapping

import pytest

from discovery.chain import Chain, Named
from discovery.declaring import Declared, DocumentSource
from discovery.documents import documents_in
from discovery.ledger import Reading
from discovery.names import Authority
from discovery.overlap import overlaps, shadows, unknown
from meshd.agent.configuration import build_configuration
from meshd.agent.documents import Documents
from meshd.api.endpoints import EndpointSet
from meshd.api.loading import ConfigurationError


def workload(name: str, port: int = 0, listen: str = "") -> str:
    ports = f"ports: [{{port: {port}}}]" if port else ""
    upstreams = f"upstreams: [{{service: api, listen: '{listen}'}}]" if listen else ""
    spec = ", ".join(filter(None, (ports, upstreams)))
    return f"apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"


def service(name: str, address: str = "", port: int = 80) -> str:
    endpoints = f", endpoints: [{{address: {address}, port: 1}}]" if address else ""
    return f"apiVersion: meshd.io/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{port: {port}{endpoints}}}\n"


def declared(place: str, *texts: str) -> tuple[Declared, ...]:
    placed = documents_in("---\n".join(texts), place)
    return tuple(Declared(document, f"{place}:{line}", 0.0) for document, line in placed)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([service("api")], [service("api", "192.0.2.1")], "b:1: Service default/api is also in a:1, which goes first"),
        ([workload("web")], [workload("web", 80)], "b:1: Workload default/web is also in a:1"),
        ([workload("x"), workload("web", 80)], [workload("api", 80)],
         "b:1: the port 127.0.0.1:80 (of Workload default/api) is also in a:6"),
        ([workload("web", listen="127.0.0.1:9001")], [service("x"), workload("api", listen="127.0.0.1:9001")],
         "b:6: the upstream address 127.0.0.1:9001 (of Workload default/api) is also in a:1"),
    ],
)  # fmt: skip
def test_what_the_first_place_has_is_not_in_force_in_another(first: list[str], second: list[str], said: str) -> None:
    found = shadows([declared("a", *first), declared("b", *second)])
    assert [len(shadowed) for shadowed in found] == [0, 1]
    (finding,) = overlaps(found)
    assert str(finding).startswith(said)


def test_what_is_shadowed_claims_nothing() -> None:
    """The workload of the second place is not in force, so the port that it would have is free for the third."""
    found = shadows(
        [declared("a", workload("web", 80)), declared("b", workload("web", 81)), declared("c", workload("api", 81))]
    )
    assert [len(shadowed) for shadowed in found] == [0, 1, 0]


def test_a_workload_and_a_service_of_one_name_claim_different_things() -> None:
    assert shadows([declared("a", workload("web")), declared("b", service("web"))]) == [{}, {}]


# --- the places that are followed ---------------------------------------------------------------------------------


class Place(DocumentSource):
    """A place that says what it is told to."""

    def __init__(self, name: str) -> None:
        self.now = 1000.0
        super().__init__(name, name, "mesh.local", lambda: self.now)

    def load(self) -> None: ...

    def start(self) -> None: ...

    async def close(self) -> None: ...

    def says(self, **parts: str) -> None:
        gone = {file for file, _ in self._ledger.placed()} - parts.keys()
        self._take(dict(self._readings(parts)), gone)

    def _readings(self, parts: Mapping[str, str]) -> Iterator[tuple[str, Reading]]:
        for part, text in parts.items():
            try:
                yield part, documents_in(text, part)
            except ConfigurationError as error:
                yield part, error

    def loses(self, reason: str) -> None:
        self._lose(reason)


@pytest.fixture
def places() -> list[Place]:
    return [Place("first"), Place("second")]


@pytest.fixture
def documents(places: list[Place]) -> Documents:
    found = Documents([Named(each.place, each) for each in places])
    found.start(found.settle)
    return found


def addresses(places: list[Place], documents: Documents) -> list[str] | None:
    """Where callers of `api` are sent; None: there is no such service."""
    told: list[EndpointSet | None] = []
    chain = Chain([Named(each.place, each) for each in places])
    chain.use(documents.rules())
    chain.watch(Authority.parse("api", "default"), told.append)
    (found,) = told
    return None if found is None else [each.address for each in found.endpoints]


def test_a_service_of_the_second_place_serves_when_that_of_the_first_is_gone(
    places: list[Place], documents: Documents
) -> None:
    first, second = places
    second.says(b=service("api", "192.0.2.2"))
    assert addresses(places, documents) == ["192.0.2.2"]
    first.says(a=service("api", "192.0.2.1"))
    assert addresses(places, documents) == ["192.0.2.1"]
    assert (len(first.documents), len(second.documents)) == (1, 0)
    first.says()
    assert addresses(places, documents) == ["192.0.2.2"]
    assert documents.findings == ()


def test_endpoints_of_the_second_place_are_shadowed_by_a_document_without(
    places: list[Place], documents: Documents
) -> None:
    """Its document is not in force, and so are not the endpoints in it."""
    first, second = places
    second.says(b=service("api", "192.0.2.2"))
    first.says(a=service("api"))
    assert addresses(places, documents) is None
    assert [str(each) for each in documents.findings] == [
        "b:1: Service default/api is also in a:1, which goes first: remove one of them"
    ]


def test_the_first_place_goes_first_though_it_came_later(places: list[Place], documents: Documents) -> None:
    first, second = places
    second.says(b=workload("web", 2))
    assert [port.port for each in documents.workloads() for port in each.ports] == [2]
    first.says(a=workload("web", 1))
    assert [port.port for each in documents.workloads() for port in each.ports] == [1]


def test_what_was_last_good_of_a_place_goes_on_shadowing(places: list[Place], documents: Documents) -> None:
    first, second = places
    first.says(a=service("api", "192.0.2.1"))
    second.says(b=service("api", "192.0.2.2"))
    first.says(a="kind: Servise")
    assert addresses(places, documents) == ["192.0.2.1"]
    first.loses("cannot be read")
    assert addresses(places, documents) == ["192.0.2.1"]
    assert first.known().stale
    assert [each.file for each in documents.findings] == ["first", "a", "b:1"]


def test_a_document_is_as_old_as_what_it_says() -> None:
    place = Place("first")
    place.says(a=service("api"), b=service("web"))
    place.now += 60
    place.says(a="# a comment\n" + service("api"), b=service("web", port=81))
    assert [(each.origin, each.since) for each in place.declared] == [("a:2", 1000.0), ("b:1", 1060.0)]


def test_what_an_answer_has_no_room_for_is_counted(places: list[Place], documents: Documents) -> None:
    places[0].says(a=service("api"), b=service("db"), c=service("web"))
    assert [each.name for each in build_configuration(documents, whole=False).documents] == ["api", "db", "web"]
    found = build_configuration(documents, whole=False, bytes_left=250)
    assert ([each.name for each in found.documents], found.left_out) == (["api"], 2)
    assert build_configuration(documents, whole=True, bytes_left=250).left_out == 3


def test_what_shadows_is_said_once_in_the_log(
    places: list[Place], documents: Documents, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = places
    first.says(a=service("api"))
    second.says(b=service("api"))
    first.says(a=service("api"), c=service("web"))
    assert [record.message for record in caplog.records if "goes first" in record.message] == [
        "b:1: Service default/api is also in a:1, which goes first: remove one of them"
    ]


def test_a_service_that_is_to_be_asked_of_nobody_is_said() -> None:
    text = service("api").replace("port: 80", "port: 80, discovery: [consul, dns, file]")
    (finding,) = unknown(declared("a", workload("web"), text), ("file", "dns", "local", "file"))
    assert str(finding) == ("a:6: Service api: spec.discovery[0]: expected one of `dns`, `file`, `local`, got `consul`")
    assert not list(unknown(declared("a", text), ("file", "dns", "consul")))
