"""`meshd status` from what an agent answers."""

import json

import pytest
import yaml
from msgspec.structs import replace

from meshd.api.control import EdgeStatus, Golden, Health, ServiceStatus, SourceStatus, Status, WorkloadStatus
from meshd.cli.status import render
from meshd.view.status import as_text

NOW = 1_800_000_000.0

BUSY = Golden(0.995, 12.34, 1.25, 9.5, 120.0, 3, 1500.0, 2_000_000.0, 1000, 995, 1000)

WEB = WorkloadStatus(
    "default", "web", "spiffe://prod.example/ns/default/sa/web", (8080, 9000), 41, "127.0.0.1:4140", "0.0.0.0:4143",
    "127.0.0.1:4191", (), NOW + 86_340, "", BUSY,
)  # fmt: skip
SHOP = WorkloadStatus(
    "shop",
    "api",
    "spiffe://prod.example/ns/shop/sa/api",
    (),
    42,
    "",
    "",
    "",
    ("certificate",),
    0.0,
    "CA away",
    Golden(),
)
EDGE = EdgeStatus(
    "default/web", WEB.identity, "api.shop:80", SHOP.identity, "http", True, BUSY
)  # fmt: skip


def status(*workloads: WorkloadStatus, ca: Health | None = None, edges: tuple[EdgeStatus, ...] = ()) -> Status:
    ca = ca or Health("https://ca.example:4180", True)
    discovery = (Health("file /etc/meshd/conf.d", True),)
    return Status("vm1", "prod.example", "0.1.0", "host", 7, NOW - 3720, ca, discovery, (), workloads, edges)


def test_the_table_in_linkerds_words() -> None:
    assert as_text(status(WEB, SHOP, ca=Health("https://ca.example:4180", False, "refused", NOW - 65)), NOW) == (
        "node                   vm1\n"
        "trust domain           prod.example\n"
        "agent                  0.1.0, host, pid 7, up 1h2m\n"
        "certificate authority  https://ca.example:4180: NOT OK for 1m5s: refused\n"
        "discovery              file /etc/meshd/conf.d: ok\n"
        "certificate            shop/api: not renewed: CA away\n"
        "not ready              shop/api waits for certificate\n"
        "\n"
        "NAMESPACE  NAME  READY  PORTS      CERTIFICATE  SUCCESS  RPS      LATENCY_P50  LATENCY_P95  LATENCY_P99  "
        "IDENTITY\n"
        "default    web   yes    8080,9000  23h59m       99.50%   12.3rps  1.2ms        9.5ms        120ms        "
        "spiffe://prod.example/ns/default/sa/web\n"
        "shop       api   no     -          none!        -        0.0rps   -            -            -            "
        "spiffe://prod.example/ns/shop/sa/api\n"
    )


def test_wide_adds_listeners_bytes_and_edges() -> None:
    lines = as_text(status(WEB, edges=(EDGE,)), NOW, wide=True).splitlines()
    heading = next(line for line in lines if line.startswith("NAMESPACE")).split()
    row = next(line for line in lines if line.startswith("default ")).split()
    cells = dict(zip(heading, row, strict=True))
    assert cells["PID"] == "41"
    assert cells["INBOUND"] == "0.0.0.0:4143"
    assert cells["TCP_CONN"] == "3"
    assert cells["WRITE_BYTES/SEC"] == "2.0MB/s"
    edge_heading, edge_row = lines[-2:]
    edge = dict(zip(edge_heading.split(), edge_row.split(), strict=True))
    assert edge["SRC"] == "default/web"
    assert edge["DST"] == "api.shop:80"
    assert edge["SECURED"] == "mTLS"
    assert edge["SERVER_ID"] == SHOP.identity


def test_plain_text_on_an_edge_is_not_hidden() -> None:
    plain = EdgeStatus("default/web", WEB.identity, "192.0.2.5:80", "", "tcp", False, Golden())
    row = as_text(status(WEB, edges=(plain,)), NOW, wide=True).splitlines()[-1].split()
    assert row[3] == "NO"
    assert row[-1] == "-"


@pytest.mark.parametrize(
    ("not_after", "error", "cell"),
    [(0.0, "", "none"), (NOW - 1, "", "expired"), (NOW + 61, "", "1m1s"), (NOW + 61, "CA away", "1m1s!")],
)
def test_the_certificates_time_left(not_after: float, error: str, cell: str) -> None:
    workload = WorkloadStatus(
        "default", "w", "spiffe://a/ns/default/sa/w", (), 1, "", "", "", (), not_after, error, BUSY
    )
    assert as_text(status(workload), NOW).splitlines()[-1].split()[4] == cell


def test_services_that_are_stale_are_named_and_those_beyond_are_counted() -> None:
    stale = tuple(
        ServiceStatus("consul", f"api-{n}", "known", "shop", 80, stale_since=NOW - 60, trouble="refused")
        for n in range(6)
    )
    nothing = ServiceStatus("consul", "mesh/db", "cannot say", stale_since=NOW - 90, trouble="refused")
    source = SourceStatus("consul", "consul", True, False, 9, 7, NOW - 90, NOW - 99, 3)
    lines = as_text(replace(status(WEB), stale=(nothing, *stale), sources=(source,)), NOW).splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines if line.startswith("stale ")] == [
        "mesh/db of consul for 1m30s: refused",
        *(f"api-{n}.shop:80 of consul for 1m0s: refused" for n in range(4)),
        "2 more: `meshd services` has them all",
    ]
    assert not any(line.startswith("stale ") for line in as_text(status(WEB), NOW).splitlines())


def test_a_host_with_no_workload_says_how_to_start_one() -> None:
    assert "meshd run --name web" in as_text(status(), NOW)


@pytest.mark.parametrize(("output", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_data_has_the_fields_of_the_status_under_their_own_names(output: str, load: object) -> None:
    assert callable(load)
    data = load(render(status(WEB, edges=(EDGE,)), output, NOW))
    assert data["trust_domain"] == "prod.example"
    assert data["ca"] == {"name": "https://ca.example:4180", "healthy": True, "message": "", "since": 0.0}
    assert data["workloads"][0]["golden"]["p50_ms"] == 1.25
    assert data["workloads"][0]["ports"] == [8080, 9000]
    assert data["edges"][0]["tls"] is True
    assert "type" not in data
