"""Where slices are, on each kind of hierarchy."""

from pathlib import Path

import pytest

from meshd.api.names import WorkloadName
from meshd.capture.plan import Group
from meshd.capture.slices import check_slice, find, is_populated, own_slice, path_of


def test_a_dash_is_a_level() -> None:
    assert path_of("meshed.slice") == "meshed.slice"
    assert path_of("prod-meshed.slice") == "prod.slice/prod-meshed.slice"


def test_a_workload_has_a_slice_that_no_other_has() -> None:
    assert own_slice("meshed.slice", WorkloadName("shop", "web")) == "meshed-shop-web.slice"
    alike = WorkloadName("a", "b-c"), WorkloadName("a-b", "c")
    assert own_slice("meshed.slice", alike[0]) == "meshed-a-b_c.slice"
    assert own_slice("meshed.slice", alike[1]) == "meshed-a_b-c.slice"


@pytest.mark.parametrize("name", ["meshed", "a--b.slice", "-a.slice", "../x.slice", "a b.slice", "x/y.slice", ".slice"])
def test_what_is_no_slice(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a slice"):
        check_slice(name)


@pytest.mark.parametrize(("beside", "path"), [("", "meshed.slice"), ("unified", "unified/meshed.slice")])
def test_it_is_found_where_version_2_is(tmp_path: Path, beside: str, path: str) -> None:
    root = tmp_path / beside
    (root / "meshed.slice" / "meshed-shop-web.slice").mkdir(parents=True)
    assert find("meshed.slice", tmp_path) is None  # version 1 alone
    (root / "cgroup.controllers").touch()
    number = (root / "meshed.slice").stat().st_ino
    assert find("meshed.slice", tmp_path) == Group(path, 1, number)
    own = find("meshed-shop.slice", tmp_path), find("other.slice", tmp_path)
    assert own == (None, None)


def test_whether_there_are_processes_in_it(tmp_path: Path) -> None:
    (tmp_path / "meshed.slice").mkdir()
    group = Group("meshed.slice", 1, 7)
    assert not is_populated(group, tmp_path)
    for number in (0, 1):
        (tmp_path / "meshed.slice" / "cgroup.events").write_text(f"populated {number}\nfrozen 0\n")
        assert is_populated(group, tmp_path) == bool(number)
