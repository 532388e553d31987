"""Documents in files: what is refused, what is said about it, and what stays in force."""

from pathlib import Path

import pytest

from discovery.documents import Placed, read_documents
from discovery.ledger import Ledger, Reading
from meshd.api.documents import Service
from meshd.api.loading import ConfigurationError, Finding


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "mesh.yaml"
    file.write_text(text)
    return file


def workload(spec: str, name: str = "web") -> str:
    return f"apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {{name: {name}}}\nspec: {spec}\n"


def tls(value: str) -> str:
    return workload(f"{{upstreams: [{{service: a, listen: '127.0.0.1:1', tls: {value}}}]}}")


def service(spec: str, name: str = "api") -> str:
    return f"apiVersion: meshd.io/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n"


EXAMPLE = """\
apiVersion: meshd.io/v1
kind: Workload
metadata: {name: web, namespace: default}
spec:
  ports: [{port: 8080, protocol: auto}]
  upstreams: [{service: api, listen: "127.0.0.1:9001"}]
---
apiVersion: meshd.io/v1
kind: Service
metadata: {name: api, namespace: default}
spec:
  port: 80
  endpoints: [{address: 192.0.2.5, port: 8080, workload: api, weight: 1, zone: a}]
"""


def test_the_example(tmp_path: Path) -> None:
    (web, _), (api, line) = read_documents(written(tmp_path, EXAMPLE))
    assert (web.metadata.name, api.metadata.name, line) == ("web", "api", 8)
    assert isinstance(api, Service)
    assert api.spec.endpoints
    assert api.spec.endpoints[0].inbound_port == 4143


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "line 1, column 5: expected the node content"),
        ("- 1", "a document is a mapping"),
        ("a: &x {}\nb: *x", "line 2, column 4: aliases (*name) are not used in meshd's files"),
        ("[" * 20_000, "not YAML: maximum recursion depth exceeded"),
        ("trustDomain: x.example", "no `kind`"),
        ("kind: Workload", "(Workload): missing the field `apiVersion`"),
        ("kind: Ingress", "(Ingress): kind: invalid value 'Ingress'"),
        (workload("{ports: [{port: x}]}"), "(Workload web): spec.ports[0].port: expected `int`, got `str`"),
        (workload("{ports: [{port: 0}]}"), "spec.ports[0].port: expected `int` >= 1"),
        (workload("{opaquePorts: [25, 65536, 0]}"), "(Workload web): spec.opaquePorts[1]: expected `int` <= 65535"),
        (workload("{opaquePorts: [25, 65536, 0]}"), "(Workload web): spec.opaquePorts[2]: expected `int` >= 1"),
        (service("{port: 1, opaquePorts: [x]}"), "(Service api): spec.opaquePorts[0]: expected `int`, got `str`"),
        (service("{port: 1, opaquePorts: 1}"), "(Service api): spec.opaquePorts: expected `array | null`, got `int`"),
        (workload("{port: [1]}"), "spec: unknown field `port`"),
        (workload("{ports: [{port: 1}, {port: 1}]}"), "the port 127.0.0.1:1 (of Workload default/web) is in"),
        (workload("{ports: [{port: 1, address: localhost}]}"), "ports[0].address: 'localhost' is not an IP address"),
        (workload("{upstreams: [{service: 'a b', listen: '127.0.0.1:1'}]}"), "upstreams[0].service: 'a b' is not HOST"),
        (workload("{upstreams: [{service: a, listen: '127.0.0.1'}]}"), "upstreams[0]: '127.0.0.1' is not HOST"),
        (workload("{upstreams: [{service: a, listen: '127.0.0.1:0'}]}"), "listen: port 0 cannot be listened on"),
        (workload("{upstreams: [{service: a, listen: 'localhost:1'}]}"), "listen: 'localhost' is not an IP address"),
        (tls("{certificate: /c, key: k}"), "upstreams[0].tls.key: 'k' is relative: the proxy reads it"),
        (tls("{certificate: /c, key: /k, clientCa: a}"), "upstreams[0].tls.clientCa: 'a' is relative"),
        (tls("{certificate: /c, key: /k, clientCa: ''}"), "upstreams[0].tls: `clientCa` is empty"),
        (tls("{certificate: /c}"), "upstreams[0].tls: missing the field `key`"),
        (workload("{selectors: [{}]}"), "spec.selectors[0]: a selector has at least one of"),
        (workload("{selectors: [{user: a, pid: 1}]}"), "spec.selectors[0]: unknown field `pid`"),
        (workload("{selectors: [{user: 33}]}"), "spec.selectors[0].user: expected `str | null`, got `int`"),
        (workload("{selectors: [{user: ''}]}"), "spec.selectors[0].user: '' is neither a user's name nor a uid"),
        (workload("{selectors: [{user: a}, {unit: web}]}"), "selectors[1].unit: 'web' is not the name of a unit"),
        (workload("{selectors: [{unit: meshed.slice}]}"), "[0].unit: 'meshed.slice' is not the name of a unit"),
        (workload("{selectors: [{executable: /bin/sh}]}"), "selectors[0]: `executable` alone says too little"),
        (workload("{selectors: [{user: a, executable: sh}]}"), "selectors[0].executable: 'sh' is not an absolute"),
        (workload("{selectors: [{user: a, executable: /a/*}]}"), "[0].executable: '/a/*': an executable is one"),
        (workload("{selectors: [{cgroup: /a/../b}]}"), "selectors[0].cgroup: '/a/../b' is not an absolute path"),
        (workload("{selectors: [{cgroup: /*}]}"), "selectors[0].cgroup: '/*' is where every process"),
        (workload("{}", name="Web"), "metadata: name 'Web' is not a DNS label"),
        (service("{port: 80, endpoints: [{address: 'a b', port: 1}]}"), "endpoints[0].address: 'a b' is neither"),
        (service("{port: 80, endpoints: [{address: a, port: 1, workload: A}]}"), "[0].workload: workload name 'A'"),
        (
            service("{port: 80, endpoints: [{address: a, port: 1}, {address: a, port: 1}]}"),
            "spec.endpoints[1]: a:1 is in this service twice",
        ),
        (service("{port: 80}") + "---\n" + service("{port: 81}"), "Service default/api is in this file twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        read_documents(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)


def test_all_documents_are_checked(tmp_path: Path) -> None:
    file = written(tmp_path, workload("{a: 1}") + "---\n" + service("{port: x}"))
    with pytest.raises(ConfigurationError) as caught:
        read_documents(file)
    assert [finding.path for finding in caught.value.findings] == ["spec", "spec.port"]


def test_settings_are_passed_over_where_they_may_be(tmp_path: Path) -> None:
    file = written(tmp_path, "trustDomain: x.example\n---\n" + EXAMPLE)
    assert len(read_documents(file, beside_settings=True)) == 2


def test_a_workload_and_a_service_may_share_a_name(tmp_path: Path) -> None:
    file = written(tmp_path, workload("{}") + "---\n" + service("{port: 80}", name="web"))
    assert len(read_documents(file)) == 2


# --- several files ------------------------------------------------------------------------------------------------


@pytest.fixture
def api(tmp_path: Path) -> tuple[Placed, ...]:
    return read_documents(written(tmp_path, service("{port: 80}")))


@pytest.fixture
def other(tmp_path: Path) -> tuple[Placed, ...]:
    return read_documents(written(tmp_path, service("{port: 80}", name="other")))


def held(ledger: Ledger) -> tuple[Placed, ...]:
    return tuple(placed for _, placed in ledger.placed())


def bad(message: str = "bad") -> Reading:
    return ConfigurationError([Finding("f", message)])


def test_a_file_that_turns_bad_keeps_its_last_good_content(api: tuple[Placed, ...]) -> None:
    ledger = Ledger()
    ledger.update({"a": api})
    ledger.update({"a": bad()})
    assert (held(ledger), [str(f) for f in ledger.findings]) == (api, ["f: bad"])
    ledger.update({"a": ()})
    assert (held(ledger), ledger.findings) == ((), ())


def test_a_file_that_was_never_good_has_nothing_in_force() -> None:
    ledger = Ledger()
    ledger.update({"a": bad()})
    assert (held(ledger), len(ledger.findings)) == ((), 1)


def test_a_file_that_is_gone_takes_its_documents_and_findings_with_it(api: tuple[Placed, ...]) -> None:
    ledger = Ledger()
    ledger.update({"a": api, "b": bad()})
    ledger.update({}, gone=["a", "b"])
    assert (held(ledger), ledger.findings) == ((), ())


def test_of_two_new_files_the_first_by_name_has_what_both_claim(api: tuple[Placed, ...]) -> None:
    ledger = Ledger()
    ledger.update({"b": api, "a": api})
    assert held(ledger) == api
    assert [str(f) for f in ledger.findings] == ["b: Service default/api is also in a: remove one of them"]


def test_what_is_in_force_keeps_its_claims(api: tuple[Placed, ...], other: tuple[Placed, ...]) -> None:
    ledger = Ledger()
    ledger.update({"b": api})
    ledger.update({"a": api + other})
    assert held(ledger) == api
    assert "is also in b" in str(ledger.findings[0])
    ledger.update({}, gone=["b"])
    assert (held(ledger), ledger.findings) == (api + other, ())


def test_last_good_content_keeps_its_claims_too(api: tuple[Placed, ...]) -> None:
    ledger = Ledger()
    ledger.update({"b": api})
    ledger.update({"b": bad(), "a": api})
    assert held(ledger) == api
    assert {f.file for f in ledger.findings} == {"a", "f"}


def test_a_line_more_above_a_document_is_no_change(api: tuple[Placed, ...], other: tuple[Placed, ...]) -> None:
    ledger = Ledger()
    ledger.update({"b": api})
    ledger.update({"a": api + other, "b": tuple(each._replace(line=each.line + 1) for each in api)})
    assert [file for file, _ in ledger.placed()] == ["b"]
    assert held(ledger)[0].line == api[0].line + 1


def test_a_document_may_move_from_one_file_to_another_at_once(api: tuple[Placed, ...]) -> None:
    ledger = Ledger()
    ledger.update({"b": api, "a": ()})
    ledger.update({"a": api, "b": ()})
    assert (held(ledger), ledger.findings) == (api, ())
