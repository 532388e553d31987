"""What a run of the demo came to."""

import io
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from meshd.api.control import EdgeStatus, Golden, Health, Status, WorkloadStatus
from meshd.cli.demo import summary
from meshd.demo.report import Report, document, is_well, mtls_rate, quantile
from meshd.demo.screen import tables

GOOD = Golden(1.0, 100.0, 2.0, 4.0, 9.0, 3, 0.0, 0.0, 1000, 1000, 1000)
IDLE = Golden()
REPORT = Report(1000, 0, {}, 10.0, 3.5, 6.0, 12.0)


def workload(name: str, golden: Golden = GOOD) -> WorkloadStatus:
    identity = f"spiffe://demo.example/ns/default/sa/{name}"
    return WorkloadStatus("default", name, identity, (), 1, "", "", "", (), 0.0, "", golden)


def edge(source: str, service: str, golden: Golden = GOOD, tls: bool = True) -> EdgeStatus:
    return EdgeStatus(f"default/{source}", "", service, "spiffe://demo.example/ns/default/sa/x", "http", tls, golden)


def status(*workloads: WorkloadStatus, edges: tuple[EdgeStatus, ...] = (edge("load", "web.default:80"),)) -> Status:
    ca = Health("ca", True)
    return Status("vm1", "demo.example", "0.1.0", "host", 1, 0.0, ca, (), (), workloads or (workload("web"),), edges)


def worse(**changed: float) -> Golden:
    return msgspec.structs.replace(GOOD, **changed)


@pytest.mark.parametrize(
    ("report", "seen", "well"),
    [
        (REPORT, status(), True),
        (REPORT, status(workload("web"), workload("load", IDLE)), True),
        (REPORT, status(edges=(edge("load", "web"), edge("api", "store", IDLE))), True),
        (msgspec.structs.replace(REPORT, requests=0), status(), False),
        (msgspec.structs.replace(REPORT, failures=1), status(), False),
        (REPORT, status(workload("web", IDLE)), False),
        (REPORT, status(workload("web", worse(mtls_requests=999))), False),
        (REPORT, status(workload("web"), workload("api", worse(success_rate=0.999))), False),
        (REPORT, status(edges=(edge("load", "web"), edge("api", "store", tls=False))), False),
        (REPORT, status(edges=(edge("load", "web", worse(success_rate=0.5)),)), False),
    ],
)
def test_it_is_well_only_if_every_account_of_it_is(report: Report, seen: Status, well: bool) -> None:
    assert is_well(report, seen) is well


def test_the_mtls_rate_is_of_what_serving_workloads_were_asked() -> None:
    plain = worse(requests=1000, mtls_requests=500)
    assert mtls_rate(status(workload("web"), workload("api", plain), workload("load", plain))) == 0.75
    assert mtls_rate(status(workload("web", IDLE))) is None


def test_the_document_has_what_scripts_look_for() -> None:
    made = json.loads(json.dumps(document(REPORT, status(workload("web"), workload("load", IDLE)))))
    assert made["requests"] == 1000
    assert made["success_rate"] == 1.0
    assert made["mtls_rate"] == 1.0
    assert (made["p50_ms"], made["p99_ms"]) == (3.5, 12.0)
    assert [each["name"] for each in made["workloads"]] == ["web"]
    assert made["workloads"][0]["p95_ms"] == 4.0
    assert made["edges"][0]["service"] == "web.default:80"
    assert made["edges"][0]["mtls_rate"] == 1.0


def test_no_request_is_no_success_rate() -> None:
    none = Report(0, 0, {}, 1.0, None, None, None)
    assert document(none, status())["success_rate"] is None
    assert "0 requests in 1.0 s, each through web, api and store: - succeeded." in summary(none, status())


def test_the_summary_says_what_failed_and_what_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    text = summary(Report(1000, 3, {"502: api": 3}, 10.0, 3.5, 6.0, 12.0), status())
    assert "1000 requests in 10.0 s, each through web, api and store: 99.70% succeeded." in text
    assert "failed, 3 times: 502: api" in text
    assert "  meshd run --name web" in text
    monkeypatch.setattr("shutil.which", lambda program: None)
    monkeypatch.setattr("sys.argv", [".venv/bin/meshd"])
    assert "  .venv/bin/meshd run --name web" in summary(REPORT, status())


def test_the_tables_show_each_workload_and_each_edge() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    half = worse(mtls_requests=500)
    edges = (edge("load", "web.default:80"), edge("api", "192.0.2.5:80", tls=False))
    console.print(tables(status(workload("web"), workload("api", half), workload("load"), edges=edges), 12.3))
    lines = console.export_text().splitlines()
    web = next(line for line in lines if line.startswith("web "))
    assert web.split() == [
        "web", "100.00%", "100.0rps", "2.0ms", "4.0ms", "9.0ms", "mutual", "spiffe://demo.example/ns/default/sa/web"
    ]  # fmt: skip
    assert "mutual 50.00%" in next(line for line in lines if line.startswith("api "))
    assert not any(line.startswith("load ") for line in lines)
    assert next(line for line in lines if "192.0.2.5:80" in line).split()[-2] == "none"


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_a_quantile_is_a_value_that_its_share_does_not_exceed(values: list[float], q: float) -> None:
    found = quantile(sorted(values), q)
    assert found in values
    assert sum(each <= found for each in values) >= q * len(values) - 1e-9
    assert sum(each < found for each in values) < q * len(values) + 1e-9


def test_quantiles_of_few() -> None:
    assert quantile([], 0.5) is None
    assert quantile([1.0], 0.99) == 1.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
