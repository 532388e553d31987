"""A unit into the mesh and out of it, in directories of the test's own, with a systemd that notes what it is told."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from meshd.agent import injecting
from meshd.agent.injecting import (
    Declaration,
    Declarations,
    Places,
    Refused,
    inject,
    injected,
    recalled,
    uninject,
    unit_refusals,
    waiting,
)
from meshd.api.documents import Workload
from meshd.api.loading import convert
from meshd.api.names import WorkloadName
from meshd.api.problems import Problem
from meshd.ca import files
from meshd.capture.injection import Wish, default_name, document, drop_in
from meshd.capture.units import Unit
from meshd.cli.uninject import command as uninject_command

WEB = Wish("web.service", WorkloadName("shop", "web"), ports=(8080,))
SKIPPING = Wish("web.service", WorkloadName("shop", "web"), (8080,), (5432,), ("10.0.0.0/8", "fd00::/8"))


class Systemd:
    """What it was told, and whether it fails."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def show(self, unit: str) -> Unit:
        return Unit(unit, {"Id": unit, "LoadState": "loaded"})

    def do(self, *arguments: str) -> None:
        self.told.append(" ".join(arguments))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "system").mkdir()
    (tmp_path / "meshd").mkdir()
    return Places(tmp_path / "system", tmp_path / "meshd" / "injected", tmp_path / "meshd" / "conf.d")


def tree(places: Places) -> dict[str, bytes | None]:
    """All that is there: files by what is in them, and directories."""
    top = places.units.parent
    return {str(each): each.read_bytes() if each.is_file() else None for each in sorted(top.rglob("*"))}


def test_the_document_is_one_of_ours() -> None:
    for wish in (WEB, SKIPPING):
        read: Workload = convert(yaml.safe_load(document(wish)), Workload, "x")
        assert read.metadata.workload == wish.workload
        assert [each.port for each in read.spec.ports] == [8080]
        assert read.spec.selectors[0].unit == "web.service"
        assert read.spec.capture is not None
        assert read.spec.capture.skip_outbound_ports == wish.skip_ports
        assert read.spec.capture.skip_outbound_cidrs == wish.skip_networks


def test_the_drop_in_puts_it_into_the_slice_after_the_mesh() -> None:
    lines = drop_in(WEB).splitlines()
    assert "Slice=meshed.slice" in lines
    assert "After=meshd.service meshd-proxy.service" in lines
    assert "ExecStartPre=+/usr/bin/meshd capture wait shop/web" in lines
    assert "Slice=meshed-shop-web.slice" in drop_in(SKIPPING)


def test_it_waits_with_the_settings_that_it_was_put_in_with() -> None:
    program, *options = waiting(Path("/etc/meshd/meshd.yaml"))
    assert (program, options[0]) == ("/usr/bin/env", "-i")  # whose the environment is, is not known
    assert options[1:] == [f"{sys.prefix}/bin/python3", "-I", "-m", "meshd.cli", "capture", "wait"]
    settings = ("/opt/meshd", "capture", "wait", "--config", "/etc/50%/a b$.yaml")
    line = 'ExecStartPre=+/opt/meshd capture wait --config "/etc/50%%/a b$$.yaml" shop/web'
    assert line in drop_in(Wish("web.service", WEB.workload, (8080,), waiting=settings)).splitlines()


def test_it_is_put_in_once_and_taken_out_without_a_trace(places: Places) -> None:
    before, systemd = tree(places), Systemd()
    assert inject(WEB, places, systemd) == [places.document("web.service"), places.drop_in("web.service")]
    assert systemd.told == ["daemon-reload", "start meshed.slice"]
    during = tree(places)
    assert inject(WEB, places, systemd) == []
    assert tree(places) == during
    assert systemd.told[2:] == ["daemon-reload", "start meshed.slice"]  # who was killed may not have told it
    assert injected(places) == ["web.service"]
    assert len(uninject("web.service", places, systemd)) == 2
    assert tree(places) == before
    assert systemd.told[4:] == ["daemon-reload"]


def test_what_was_there_stays(places: Places) -> None:
    others = [places.units / "web.service.d" / "10-own.conf", places.documents / "api.yaml"]
    for other in others:
        other.parent.mkdir()
        other.write_text("own")
    before = tree(places)
    inject(WEB, places, Systemd())
    uninject("web.service", places, Systemd())
    assert tree(places) == before


@pytest.mark.parametrize("last", ["web.service", "api.service"])
def test_directories_go_with_the_last_unit_they_were_made_for(places: Places, last: str) -> None:
    before = tree(places)
    inject(WEB, places, Systemd())
    inject(Wish("api.service", WorkloadName("shop", "api"), (8081,)), places, Systemd())
    (first,) = {"web.service", "api.service"} - {last}
    uninject(first, places, Systemd())
    assert places.documents.is_dir()
    uninject(last, places, Systemd())
    assert tree(places) == before


def test_other_wishes_replace_it(places: Places) -> None:
    before = tree(places)
    inject(WEB, places, Systemd())
    assert inject(SKIPPING, places, Systemd()) == [places.document("web.service"), places.drop_in("web.service")]
    uninject("web.service", places, Systemd())
    assert tree(places) == before


def test_one_who_is_killed_in_between_leaves_nothing_that_is_not_recorded(places: Places) -> None:
    class Killed(BaseException):
        pass

    class Killer(Systemd):
        def do(self, *arguments: str) -> None:
            raise Killed

    before = tree(places)
    with pytest.raises(Killed):
        inject(WEB, places, Killer())
    places.drop_in("web.service").unlink()  # as if it had not come so far
    uninject("web.service", places, Systemd())
    assert tree(places) == before


def test_one_who_is_killed_while_it_is_replaced_leaves_what_can_be_gone_on_with(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    before = tree(places)
    inject(WEB, places, Systemd())
    write = files.write

    def killed(path: Path, content: bytes, mode: int) -> None:
        if path != places.record("web.service"):
            raise Killed
        write(path, content, mode)

    for _ in range(2):
        monkeypatch.setattr(files, "write", killed)
        with pytest.raises(Killed):
            inject(SKIPPING, places, Systemd())
        monkeypatch.undo()
        assert reasons(SKIPPING, places) == []
    inject(SKIPPING, places, Systemd())
    monkeypatch.setattr(files, "write", killed)
    with pytest.raises(Killed):
        inject(WEB, places, Systemd())
    monkeypatch.undo()
    uninject("web.service", places, Systemd())
    assert tree(places) == before


def test_one_whom_systemd_does_not_hear_can_do_it_again(places: Places) -> None:
    class Deaf(Systemd):
        def do(self, *arguments: str) -> None:
            raise Problem("systemctl daemon-reload: no")

    before = tree(places)
    inject(WEB, places, Systemd())
    with pytest.raises(Problem, match="daemon-reload"):
        uninject("web.service", places, Deaf())
    uninject("web.service", places, Systemd())
    assert tree(places) == before


def test_settings_that_name_other_places_by_now_are_no_reason_to_stay(places: Places) -> None:
    before = tree(places)
    inject(WEB, places, Systemd())
    uninject("web.service", places._replace(documents=Path("/nowhere")), Systemd())
    assert tree(places) == before


def typed_here(places: Places, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    """Have the program be for these places; what it has of all that is logged is put back."""
    systemd = Systemd()
    monkeypatch.setattr(injecting, "Systemctl", lambda: systemd)
    monkeypatch.setattr(injecting, "SYSTEM_UNITS", places.units)
    monkeypatch.setattr(logging, "disable", lambda: None)
    return systemd


def test_one_that_is_changed_does_not_keep_the_others_in(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = typed_here(places, monkeypatch)
    for name in ("api", "web", "xyz"):
        inject(Wish(f"{name}.service", WorkloadName("shop", name), (8080,)), places, systemd)
    places.document("web.service").write_text("own")
    config = str(places.records.parent / "meshd.yaml")  # which is not there
    done = CliRunner().invoke(uninject_command, ["--all", "--config", config], standalone_mode=False)
    assert "web.service.yaml has been changed since" in str(done.exception)
    assert injected(places) == ["web.service"]
    assert not places.drop_in("xyz.service").exists()
    done = CliRunner().invoke(uninject_command, ["--all", "--force", "--config", config], standalone_mode=False)
    assert done.exception is None
    assert injected(places) == []


def test_what_cannot_be_removed_is_said(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = typed_here(places, monkeypatch)
    inject(WEB, places, systemd)
    places.document("web.service").unlink()
    places.document("web.service").mkdir()
    (places.document("web.service") / "x").touch()
    config = str(places.records.parent / "meshd.yaml")
    done = CliRunner().invoke(uninject_command, ["web", "--force", "--config", config], standalone_mode=False)
    assert isinstance(done.exception, Problem)
    assert f"web.service: {places.document('web.service')}: " in str(done.exception)


def test_what_somebody_changed_is_theirs(places: Places) -> None:
    inject(WEB, places, Systemd())
    places.drop_in("web.service").write_text("[Service]\nSlice=other.slice\n")
    during = tree(places)
    with pytest.raises(Refused, match=r"50-meshd\.conf has been changed since"):
        uninject("web.service", places, Systemd())
    assert any("has been changed since" in each for each in reasons(WEB, places))
    assert tree(places) == during
    uninject("web.service", places, Systemd(), force=True)
    assert not places.drop_in("web.service").exists()


def test_what_was_never_put_in_is_not_taken_out(places: Places) -> None:
    with pytest.raises(Problem, match=r"web\.service is not in the mesh"):
        uninject("web.service", places, Systemd())


def test_a_record_cannot_have_other_files_removed(places: Places, tmp_path: Path) -> None:
    inject(WEB, places, Systemd())
    record, victim = places.record("web.service"), tmp_path / "victim"
    victim.write_text("x")
    record.write_text(record.read_text().replace(str(places.drop_in("web.service")), str(victim)))
    with pytest.raises(Problem, match="none of the files"):
        uninject("web.service", places, Systemd(), force=True)
    assert victim.exists()
    record.write_text("{")
    with pytest.raises(Problem, match="not a record"):
        recalled(places, "web.service")


def reasons(wish: Wish, places: Places, documents: Declarations | None = None) -> list[str]:
    unit = Unit(wish.unit, {"Id": wish.unit, "LoadState": "loaded"})
    return list(unit_refusals(wish, unit, places, documents or {}, ("meshd-proxy",)))


def declarations(text: str, origin: str) -> Iterator[tuple[WorkloadName, Declaration]]:
    read: Workload = convert(yaml.safe_load(text), Workload, "x")
    yield read.metadata.workload, Declaration(read, origin)


def test_who_is_never_captured_may_be_written_as_a_number(places: Places) -> None:
    for user, exempt in (("0", "root"), ("root", "0"), ("0", "0"), ("root", "root")):
        unit = Unit("web.service", {"Id": "web.service", "LoadState": "loaded", "User": user})
        (found,) = unit_refusals(WEB, unit, places, {}, (exempt,))
        assert "is never captured" in found


def test_documents_of_others_are_in_the_way(places: Places) -> None:
    theirs = dict(declarations(document(WEB), "/etc/meshd/conf.d/own.yaml:1"))
    assert reasons(WEB, places) == []
    assert [each.split(" ")[0] for each in reasons(WEB, places, theirs)] == [
        "/etc/meshd/conf.d/own.yaml:1", "port", "/etc/meshd/conf.d/own.yaml:1",
    ]  # fmt: skip
    own = dict(declarations(document(WEB), f"{places.document('web.service')}:1"))
    assert reasons(WEB, places, own) == []


def test_a_file_that_nobody_recorded_is_in_the_way(places: Places) -> None:
    places.drop_in("web.service").parent.mkdir()
    places.drop_in("web.service").write_text("")
    assert [each for each in reasons(WEB, places) if "is there already" in each]


@pytest.mark.parametrize(
    ("unit", "name"),
    [("web.service", "web"), ("web@1.service", "web"), ("Web_API.service", "web-api"), ("_.service", "")],
)
def test_a_workload_is_called_after_its_unit(unit: str, name: str) -> None:
    assert default_name(unit) == name
