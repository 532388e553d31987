"""`meshd check`: what is an error, what a warning, and how both are laid out."""

from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from meshd import __version__
from meshd.agent import node
from meshd.agent.check import capture, host, kinds, proxy
from meshd.agent.check.capture import unit_in_mesh
from meshd.agent.check.kinds import Check
from meshd.agent.check.mesh import agent, clocks, denials, discovery, identity
from meshd.agent.settings import Settings
from meshd.api.control import Golden, Health, ProxyStatus, ServiceStatus, SourceStatus, Status, WorkloadStatus
from meshd.api.documents import Selector
from meshd.api.names import WorkloadName
from meshd.api.problems import Problem
from meshd.ca import certificates
from meshd.ca.certificates import Life
from meshd.ca.wire import Denial
from meshd.capture.units import Unit
from meshd.view.check import as_data, as_text, is_well
from proxy.http2 import frames
from proxy.mesh import header
from tests.support.bundles import MADE, root

NOW = MADE.timestamp() + 3600
DAY = 86400.0


@pytest.mark.parametrize(
    ("ca_now", "result", "message"),
    [
        (100.0, "success", ""),
        (102.0, "success", ""),  # it may have been asked at any time between
        (98.0, "success", ""),
        (70.0, "success", ""),
        (69.0, "warning", "this host's clock is 31 s ahead of the CA's"),
        (135.0, "warning", "this host's clock is 31 s behind the CA's"),
        (39.0, "error", "this host's clock is 61 s ahead of the CA's"),
        (3704.0, "error", "this host's clock is 3600 s behind the CA's"),
    ],
)
def test_clocks(ca_now: float, result: str, message: str) -> None:
    found = clocks(ca_now, before=100.0, after=104.0, url="https://ca")
    assert (found.result, found.message) == (result, message)


@pytest.mark.parametrize(
    ("life_days", "results"),
    [
        (3650, ["success", "success"]),
        (61, ["success", "success"]),
        (59, ["success", "warning"]),
        (0, ["error", "success"]),
    ],
)
def test_roots_that_expire(life_days: int, results: list[str]) -> None:
    settings = Settings(trust_domain="prod.example", node="vm1", state_dir="/nowhere")
    found = list(identity(settings, root(life=timedelta(days=life_days, seconds=60)), NOW))
    assert [each.result for each in found] == results


def test_one_root_of_two_that_expires_is_named() -> None:
    settings = Settings(trust_domain="prod.example", node="vm1", state_dir="/nowhere")
    bundle = root() + root(life=timedelta(days=30))
    _, soon = identity(settings, bundle, NOW)
    assert soon.result == "warning"
    assert soon.message.count("expires at 2026-03-31 12:00:00Z") == 1


def workload(not_after: float, error: str = "", ports: tuple[int, ...] = (8080,)) -> WorkloadStatus:
    return WorkloadStatus(
        "default", "web", "spiffe://x/ns/default/sa/web", ports, 1, "", "", "", (), not_after, error, Golden()
    )


def status(*workloads: WorkloadStatus, configuration: tuple[str, ...] = ()) -> Status:
    return Status(
        node="vm1",
        trust_domain="x",
        version="0",
        mode="host",
        pid=1,
        started_at=0.0,
        ca=Health("ca", healthy=True),
        discovery=(),
        configuration=configuration,
        workloads=workloads,
        edges=(),
    )


@pytest.mark.parametrize(
    ("seen", "results"),
    [
        (Problem("no agent answers"), ["error"]),
        (status(), ["success", "success", "success"]),
        (status(workload(NOW + 1)), ["success", "success", "success"]),
        (status(workload(NOW + 1, "the CA is away")), ["success", "success", "warning"]),
        (status(workload(NOW - 1, "the CA is away")), ["success", "success", "error"]),
        (status(workload(0.0)), ["success", "success", "error"]),
        (status(workload(0.0, ports=())), ["success", "success", "success"]),  # of the Workload API alone
        (status(workload(0.0, "not signed", ports=())), ["success", "success", "error"]),
        (status(workload(NOW - 1, ports=())), ["success", "success", "error"]),
        (status(workload(0.0, ports=()), workload(NOW + 1, "the CA is away")), ["success", "success", "warning"]),
        (status(configuration=("web.yaml: bad",)), ["success", "warning", "success"]),
    ],
)
def test_the_agent(seen: Status | Problem, results: list[str]) -> None:
    assert [each.result for each in agent(seen, NOW)] == results


HOST_SERIAL = "5e"
WEB = "spiffe://prod.example/ns/default/sa/web"


@pytest.mark.parametrize(
    ("denied", "message"),
    [
        ((), ""),
        ((Denial("node", "vm2"), Denial("serial", "ab"), Denial("identity", f"{WEB}2")), ""),
        ((Denial("node", "vm1"), Denial("serial", HOST_SERIAL)), "the node vm1 is denied"),
        ((Denial("serial", HOST_SERIAL),), "the certificate of the node vm1 is denied"),
        ((Denial("node", "vm1"), Denial("identity", WEB)), f"the node vm1 is denied\n{WEB} is denied"),
    ],
)
def test_what_the_ca_denies_of_this_host(tmp_path: Path, denied: tuple[Denial, ...], message: str) -> None:
    key = certificates.new_key()
    issuer = certificates.make_root("prod.example", Life.starting(NOW, 2 * DAY))
    leaf = certificates.make_leaf("spiffe://prod.example/node/vm1", key.public_key(), issuer, Life.starting(NOW, DAY))
    node.write(tmp_path / "node.key", key, certificates.pem(leaf).decode())
    serial = certificates.serial(leaf)
    denied = tuple(replace(each, value=serial) if each.value == HOST_SERIAL else each for each in denied)
    settings = Settings(trust_domain="prod.example", state_dir=str(tmp_path))
    (found,) = denials(settings, denied, [WEB])
    assert (found.result, found.message) == ("error" if message else "success", message)


def test_a_host_that_did_not_join_may_have_denied_workloads(tmp_path: Path) -> None:
    settings = Settings(trust_domain="prod.example", state_dir=str(tmp_path))
    (found,) = denials(settings, (Denial("identity", WEB), Denial("node", "vm1")), [WEB])
    assert found.message == f"{WEB} is denied"


def source(name: str, *, stale: bool = False, denied: bool = False) -> SourceStatus:
    return SourceStatus(name, name, stale, denied, 1, 0, NOW - 5, NOW - 5, 1)


def served(name: str, stale_for_s: float) -> ServiceStatus:
    return ServiceStatus("consul", name, "known", "default", 80, stale_since=NOW - stale_for_s, trouble="refused")


READ, LET_IN, FRESH = "can be read", "lets this host read what it asks for", "no service has been stale for 10 minutes"


@pytest.mark.parametrize(
    ("found", "seen", "stale", "wrong"),
    [
        (Health("consul", True), source("consul"), (), {}),
        (Health("consul", False, "refused"), source("consul", stale=True), (), {f"consul {READ}": "error"}),
        (Health("consul", False, "web.yaml: bad"), source("consul"), (), {f"consul {READ}": "warning"}),
        (Health("consul", False, "403"), source("consul", stale=True, denied=True), (), {f"consul {LET_IN}": "error"}),
        (Health("consul", True), source("consul", denied=True), (served("web", 5),), {f"consul {LET_IN}": "error"}),
        (Health("consul", True), source("consul"), (served("web", 599.0),), {}),
        (Health("consul", True), source("consul"), (served("web", 600.0), served("api", 5.0)), {FRESH: "warning"}),
    ],
)
def test_discovery(found: Health, seen: SourceStatus, stale: tuple[ServiceStatus, ...], wrong: dict[str, str]) -> None:
    checked = list(discovery(replace(status(), discovery=(found,), sources=(seen,), stale=stale), NOW))
    assert [each.description for each in checked] == [f"consul {READ}", f"consul {LET_IN}", FRESH]
    assert {each.description: each.result for each in checked if each.result != "success"} == wrong
    assert all(bool(each.message) == (each.result != "success") for each in checked)


def test_files_have_nobody_to_let_this_host_in_and_workloads_are_not_read() -> None:
    files = replace(source("file x"), denied=None)
    local = SourceStatus("local", "local workloads", False, None, 1, 0, 0.0, 0.0, 0)
    healths = Health("file x", True), Health("local workloads", True)
    checked = discovery(replace(status(), discovery=healths, sources=(files, local)), NOW)
    assert [each.description for each in checked] == [f"file x {READ}", FRESH]


def test_services_that_are_stale_for_long_are_named_as_far_as_there_is_room() -> None:
    stale = tuple(served(f"s{number}", 700.0) for number in range(12))
    *_, last = discovery(replace(status(), stale=stale), NOW)
    assert last.message.splitlines()[0] == "s0 (consul): refused"
    assert last.message.splitlines()[-1] == "and 2 more"


FOUND = [
    Check("meshd-agent", "agent-answers", "the agent answers"),
    Check("meshd-agent", "complaints", "it has nothing to complain of", "warning", "a: bad\nb: bad", "correct them"),
    Check("meshd-ca", "ca-answers", "the CA answers", "error", "it is away", "start it"),
]


def test_it_looks_as_linkerd_check_does() -> None:
    assert (
        as_text(FOUND)
        == """\
meshd-agent
-----------
√ the agent answers
‼ it has nothing to complain of
    a: bad
    b: bad
    hint: correct them
    see: docs/vm.md#meshd-agent

meshd-ca
--------
× the CA answers
    it is away
    hint: start it
    see: docs/vm.md#meshd-ca

Status check results are ×
"""
    )
    assert as_text(FOUND[:2]).endswith("\nStatus check results are √\n")
    assert is_well(FOUND[:2])


def test_it_is_data_with_the_keys_of_linkerd_check() -> None:
    data = as_data(FOUND)
    assert data["success"] is False
    assert [each["categoryName"] for each in data["categories"]] == ["meshd-agent", "meshd-ca"]
    assert data["categories"][0]["checks"] == [
        {"id": "agent-answers", "description": "the agent answers", "result": "success"},
        {
            "id": "complaints",
            "description": "it has nothing to complain of",
            "hint": "correct them",
            "see": "docs/vm.md#meshd-agent",
            "error": "a: bad\nb: bad",
            "result": "warning",
        },
    ]


def test_the_page_has_a_line_for_each_check_under_its_section() -> None:
    every = [each for each in vars(kinds).values() if isinstance(each, kinds.Kind)]
    page = Path(__file__).parents[2].joinpath(kinds.PAGE).read_text()
    sections = {text.split("\n", 1)[0]: text.split("\n## ")[0] for text in page.split("\n### ")[1:]}
    assert list(sections) == list(kinds.SECTIONS)
    for each in every:
        rows = [row for row in sections[each.category].splitlines() if row.startswith("|") and f"`{each.id}`" in row]
        assert rows, each
        assert all(part in rows[0] for part in each.description.split("{}")), each
    assert len({each.id for each in every}) == len(every) > 40


class Units:
    """Units of systemd, by name: what is said of each."""

    def __init__(self, **said: dict[str, str]) -> None:
        self.said = {f"{name}.service": each for name, each in said.items()}

    def show(self, unit: str) -> Unit:
        found = {"Id": unit, "LoadState": "loaded"} | self.said.get(unit, {"LoadState": "not-found"})
        return Unit(unit, {} if "*" in unit and unit not in self.said else found)

    def do(self, *arguments: str) -> None:
        raise AssertionError(arguments)


IN_SLICE = {"ControlGroup": "/meshed.slice/web.service"}


@pytest.mark.parametrize(
    ("manager", "result", "message", "hint"),
    [
        (Units(web=IN_SLICE), "success", "", ""),
        (Units(web={}), "success", "", ""),  # it does not run
        (Units(), "warning", "there is no such unit any more (not-found)", "`meshd uninject web.service`, and"),
        (
            Units(web=IN_SLICE | {"Id": "site.service"}),
            "warning",
            "it is site.service now, which",
            "`meshd uninject web.",
        ),
        (
            Units(web={"ControlGroup": "/system.slice/web.service"}),
            "error",
            "it runs in /system.slice/web.service, and is not captured",
            "`systemctl restart web.service`",
        ),
    ],
)
def test_a_unit_that_was_meshed(manager: Units, result: str, message: str, hint: str) -> None:
    found = unit_in_mesh("web.service", "meshed.slice", manager)
    assert (found.result, found.description) == (result, "web.service runs in the mesh")
    assert found.message.startswith(message)
    assert found.hint.startswith(hint)


def test_units_that_documents_select_and_that_are_called_otherwise_now() -> None:
    names = ("web.service", "old.service", "alias.service", "job-*.service", None)
    selectors = {WorkloadName("default", f"w{at}"): (Selector(unit=each, user="x"),) for at, each in enumerate(names)}
    units = capture.Units((), selectors)
    (found,) = capture.selected(units, Units(web={}, alias={"Id": "site.service"}))
    assert (found.result, found.message.splitlines()) == (
        "warning",
        [
            "default/w1: there is no old.service (not-found)",
            "default/w2: alias.service is site.service now",
            "default/w3: no unit is called job-*.service",
        ],
    )
    (found,) = capture.selected(units, Units(web={}, old={}, alias={}, **{"job-*": {}}))
    assert found.result == "success"
    assert list(capture.selected(capture.Units((), {}), Units())) == []


def test_a_rule_of_the_host_is_named_where_it_can_be_seen(tmp_path: Path) -> None:
    enforce = tmp_path / "enforce"
    guards = (("SELinux", enforce, "1"), ("AppArmor", tmp_path / "none", "Y"))
    assert "(SELinux, AppArmor, or noexec)" in host.guarded(guards)
    enforce.write_text("1")
    assert "(SELinux is on here)" in host.guarded(guards)
    enforce.write_text("0")
    assert "(SELinux, AppArmor, or noexec)" in host.guarded(guards)


def proxies(version: str = __version__, *, attached: tuple[str, ...] = (__version__,), waits: str = "") -> Status:
    standing = ProxyStatus(1, len(attached), tuple(sorted(set(attached))), (waits,) if waits else ())
    return replace(status(), version=version, proxy=standing)


@pytest.mark.parametrize(
    ("seen", "wrong"),
    [
        (proxies(), {}),
        (status(), {"agent-version"}),
        (replace(proxies(), proxy=None), {}),
        (proxies(attached=()), {"proxy-attached"}),
        (proxies(waits="certificate of default/web"), {"proxy-ready"}),
        (proxies(attached=("0.0.1", __version__)), {"proxy-version"}),
        (proxies("0.0.1"), {"agent-version", "proxy-version"}),
    ],
)
def test_the_proxy(seen: Status, wrong: set[str]) -> None:
    assert {each.id for each in proxy.proxy(seen) if each.result != "success"} == set(wrong)


def test_what_check_says_to_a_proxy_is_what_proxies_say() -> None:
    assert proxy.ALPN == header.ALPN
    assert frames.PREFACE + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)) == proxy.PREFACE
