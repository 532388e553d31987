"""Whose a unit's environment is: files of root and of others, as far as who runs the tests can make them."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.capture.environments import refusals
from meshd.capture.units import Unit

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of several users need root")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that is root's alone, with all above it."""
    with tempfile.TemporaryDirectory(dir="/var/lib") as made:
        yield Path(made)


def why(path: Path, optional: str = "no") -> list[str]:
    return [*refusals(f"{path} (ignore_errors={optional})", "")]


def test_what_is_root_s_alone_is_well(place: Path) -> None:
    file = place / "env"
    file.write_text("A=1\n")
    file.chmod(0o640)
    assert why(file) == []
    assert why(place / "none", "yes") == []
    assert why(place / "*.env") == []
    assert [*refusals("", f"A=1 LD_PRELOAD={file} 'B=2 3'")] == []


def test_what_others_can_write_is_refused(place: Path) -> None:
    file = place / "env"
    file.write_text("A=1\n")
    os.chown(file, 1000, 0)
    assert "env belongs to uid 1000" in why(file)[0]
    os.chown(file, 0, 1000)
    file.chmod(0o664)
    assert "env has the mode 0664" in why(file)[0]
    os.chown(file, 0, 0)
    assert why(file) == []
    file.chmod(0o606)
    assert "env has the mode 0606" in why(file)[0]
    file.chmod(0o600)
    os.chown(place, 1000, 0)
    assert f"{place} belongs to uid 1000" in why(file)[0]
    assert f"{place} belongs to uid 1000" in why(place / "none", "yes")[0]
    assert f"{place} belongs to uid 1000" in why(place / "*.env")[0]


def test_a_link_leads_to_whose_it_is(place: Path) -> None:
    theirs = place / "theirs"
    theirs.mkdir()
    (theirs / "env").write_text("")
    link = place / "env"
    link.symlink_to(theirs / "env")
    assert why(link) == []
    os.chown(theirs, 1000, 1000)
    assert "theirs belongs to uid 1000" in why(link)[0]


def test_names_that_anybody_may_take(place: Path) -> None:
    place.chmod(0o1777)
    assert f"anybody may make {place / 'none'}" in why(place / "none", "yes")[0]
    file = place / "env"
    file.write_text("")
    assert why(file) == [], "nobody else can replace it"


def test_libraries_that_the_linker_is_told_of(place: Path) -> None:
    library = place / "lib.so"
    library.write_text("")
    os.chown(library, 1000, 1000)
    (said,) = refusals("", f"PATH=/bin LD_PRELOAD=/lib:{library} MALLOC=1")
    assert "has LD_PRELOAD=/lib:" in said
    assert "lib.so belongs to uid 1000" in said
    assert [*refusals("", f"PRELOAD={library}")] == []


def test_several_files_are_looked_at_each(place: Path) -> None:
    for name in ("a", "b"):
        (place / name).write_text("")
        os.chown(place / name, 1000, 1000)
    files = [f"EnvironmentFiles={place}/{name} (ignore_errors=no)" for name in ("a", "b")]
    unit = Unit.parse("web.service", "\n".join(["Id=web.service", *files, ""]))
    assert len([*refusals(unit.get("EnvironmentFiles"), unit.get("Environment"))]) == 2
