"""Which workload the processes of a control group are, on a tree of directories that stands for the kernel's."""

import asyncio
from pathlib import Path

import pytest

from meshd.agent.calling import Calling, beside, capture_of, everywhere6, has_ipv6, path_of
from meshd.agent.settings import CaptureSettings, ProxySettings
from meshd.api.documents import Selector
from meshd.api.names import WorkloadName

WEB, API = WorkloadName("default", "web"), WorkloadName("default", "api")
SELECTORS = {
    WEB: (Selector(unit="web.service"),),
    API: (Selector(unit="api.service", user="0"), Selector(unit="jobs.service", executable="/usr/bin/api")),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").touch()
    for unit in ("web", "api", "jobs", "other"):
        (tmp_path / "meshed.slice" / f"{unit}.service" / "worker").mkdir(parents=True)
    return tmp_path


def who(tree: Path, below: str, uid: int = 0) -> tuple[str, str]:
    calling = Calling([str(tree)])
    inode = (tree / below).stat().st_ino
    found = asyncio.run(calling.identify(inode, uid, SELECTORS))
    return found.workload, found.reason


def test_the_unit_of_a_group_is_a_workload(tree: Path) -> None:
    assert who(tree, "meshed.slice/web.service") == ("default/web", "")
    assert who(tree, "meshed.slice/web.service/worker") == ("default/web", "")


def test_a_selector_with_a_user_asks_for_it(tree: Path) -> None:
    assert who(tree, "meshed.slice/api.service") == ("default/api", "")
    workload, reason = who(tree, "meshed.slice/api.service", uid=4711)
    assert workload == ""
    assert "unit api.service" in reason


def test_which_program_it_is_is_not_known(tree: Path) -> None:
    assert who(tree, "meshed.slice/jobs.service")[0] == ""


def test_a_group_of_no_workload_is_nobody(tree: Path) -> None:
    workload, reason = who(tree, "meshed.slice/other.service")
    assert workload == ""
    assert "no Workload document selects this process" in reason


def test_a_group_that_is_not_there_is_nobody(tree: Path) -> None:
    calling = Calling([str(tree)])
    gone = asyncio.run(calling.identify(2**60, 0, SELECTORS))
    assert (gone.workload, gone.reason) == ("", f"no control group of this host has the id {2**60}")
    assert asyncio.run(calling.identify(1, 0, SELECTORS)).workload == ""  # the root
    assert asyncio.run(Calling([]).identify(4711, 0, SELECTORS)).workload == ""  # a host without


def test_a_group_made_later_is_found(tree: Path) -> None:
    async def main() -> None:
        calling = Calling([str(tree)])
        later = tree / "meshed.slice" / "web.service" / "later"
        assert (await calling.identify(2**60, 0, SELECTORS)).workload == ""
        later.mkdir()
        assert (await calling.identify(later.stat().st_ino, 0, SELECTORS)).workload == "default/web"

    asyncio.run(main())


def test_paths_are_below_the_top_and_links_are_not_followed(tree: Path) -> None:
    (tree / "link").symlink_to(tree / "meshed.slice", target_is_directory=True)
    assert path_of(str(tree), (tree / "meshed.slice").stat().st_ino) == "/meshed.slice"
    assert path_of("", 4711) == ""


@pytest.mark.parametrize(
    ("listen", "other", "everywhere"),
    [
        ("127.0.0.1:4140", "[::1]:4140", ""),
        ("0.0.0.0:4143", "[::]:4143", "[::]:4143"),
        ("192.0.2.5:4143", "", ""),
        ("[::]:4143", "", ""),
        ("", "", ""),
    ],
)
def test_where_ipv6_comes(listen: str, other: str, everywhere: str) -> None:
    assert (beside(listen), everywhere6(listen)) == (other, everywhere)


def test_the_proxy_is_told_of_capture_where_there_is_any(tmp_path: Path) -> None:
    assert capture_of(CaptureSettings(enabled=False), ProxySettings()).idle
    told = capture_of(CaptureSettings(enabled=True, unknown="pass", unmeshed="deny"), ProxySettings())
    assert (told.unknown, told.unmeshed, told.idle) == ("pass", "deny", False)
    (tmp_path / "if_inet6").write_text("00000000000000000000000000000001 01 80 10 80       lo\n")
    assert has_ipv6(tmp_path / "if_inet6")
    (tmp_path / "if_inet6").write_text("fe800000000000000000000000000002 02 40 20 80     eth0\n")
    assert not has_ipv6(tmp_path / "if_inet6")
    assert not has_ipv6(tmp_path / "none")
