"""`meshd inject` and `meshd uninject`: a unit of systemd into the mesh, and out of it, with nothing left behind.

The files and the record of them are `meshd.capture.injection`'s; which unit cannot be meshed is `meshd.capture.units`'.
The record is written before what it is of, so that one who is killed in between leaves nothing that is not in it. What
somebody changed since is theirs: it is not overwritten, and not removed without being told to.
"""

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec

from discovery.file import FileSource
from meshd.agent.documents import Documents
from meshd.agent.health.probes import SYSTEMD
from meshd.agent.host import sources
from meshd.agent.settings import SETTINGS_FILE, Settings
from meshd.api.documents import Workload
from meshd.api.names import WorkloadName
from meshd.api.problems import Problem
from meshd.ca import files
from meshd.capture import nft, slices, units
from meshd.capture.injection import DROP_IN, Record, Wish, Written, document, drop_in, sha256
from meshd.capture.units import Unit

SYSTEMCTL_TIMEOUT_S: Final = 120.0
MAX_RECORD_BYTES: Final = 64 << 10
SYSTEM_UNITS: Final = Path("/etc/systemd/system")


class Refused(Problem):
    """The unit cannot be meshed, or unmeshed: all the reasons, a line each."""

    def __init__(self, unit: str, reasons: Sequence[str]) -> None:
        super().__init__("\n".join(f"{unit}: {reason}" for reason in reasons))


class Manager(Protocol):
    """systemd, by `systemctl`."""

    def show(self, unit: str) -> Unit: ...

    def do(self, *arguments: str) -> None: ...


class Systemctl:
    """The program. What goes wrong is a Problem."""

    def show(self, unit: str) -> Unit:
        return Unit.parse(unit, self._run("show", "--no-pager", f"--property={','.join(units.PROPERTIES)}", "--", unit))

    def do(self, *arguments: str) -> None:
        self._run(*arguments)

    def _run(self, *arguments: str) -> str:
        try:
            ended = subprocess.run(  # noqa: S603
                ["systemctl", *arguments],  # noqa: S607 - root's own PATH
                capture_output=True, text=True, timeout=SYSTEMCTL_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Problem(f"systemctl {' '.join(arguments)}: {error}") from error
        if ended.returncode:
            said = " ".join(ended.stderr.split())[:600] or f"status {ended.returncode}"
            raise Problem(f"systemctl {' '.join(arguments)}: {said}")
        return ended.stdout


class Places(NamedTuple):
    """Where it is written: units' drop-ins, records, documents."""

    units: Path
    records: Path
    documents: Path

    @classmethod
    def of(cls, config: Path, settings: Settings) -> "Places":
        """Problem where there is no directory of documents."""
        for each in settings.discovery:
            if each.file is not None and not Path(each.file.path).is_file():
                return cls(SYSTEM_UNITS, config.parent / "injected", Path(each.file.path))
        raise Problem(
            f"{config}: `discovery` names no directory of documents, as `file: {{path: /etc/meshd/conf.d}}` does"
        )

    @classmethod
    def recorded(cls, config: Path) -> "Places":
        """For taking out: what is where the records say, whatever has become of the settings since."""
        return cls(SYSTEM_UNITS, config.parent / "injected", config.parent / "conf.d")

    def drop_in(self, unit: str) -> Path:
        return self.units / f"{unit}.d" / DROP_IN

    def document(self, unit: str) -> Path:
        return self.documents / f"{unit}.yaml"

    def record(self, unit: str) -> Path:
        return self.records / f"{unit}.json"

    def wrote(self, unit: str, origin: str) -> bool:
        """Whether a document with that origin (FILE:LINE) is the one that is written for the unit."""
        return origin.rpartition(":")[0] == str(self.document(unit))


class Declaration(NamedTuple):
    """A `Workload` in a file, and where."""

    workload: Workload
    origin: str


Declarations = dict[WorkloadName, Declaration]


# --- what may be ----------------------------------------------------------------------------------------------------


def host_refusals(settings: Settings, systemd: Path = Path(SYSTEMD), mount: Path = slices.MOUNT) -> Iterator[str]:
    """Why nothing can be meshed on this host."""
    if os.geteuid() != 0:
        yield "files of the system are written: run it as root"
    if not systemd.is_dir():
        yield "this host was not booted with systemd, so it has no units: `meshd run` is for commands"
    if slices.top(mount) is None:
        yield f"there are no control groups of version 2 at {mount}, nor at {mount}/{slices.BESIDE_V1}"
    if nft.program() is None:
        yield "there is no program `nft`: install the package nftables"
    if not settings.capture.enabled:
        yield "`capture.enabled` is false in the settings"


def documents_of(config: Path, settings: Settings) -> Documents:
    """Those in files, which need no agent."""
    documents = Documents([each for each in sources(config, settings) if isinstance(each.source, FileSource)])
    documents.load()
    documents.settle()
    return documents


def declared(documents: Documents) -> Declarations:
    """The workloads among them."""
    found: Declarations = {}
    for source in documents.sources:
        for each in source.declared:
            if isinstance(each.document, Workload):
                found.setdefault(each.document.metadata.workload, Declaration(each.document, each.origin))
    return found


def unit_refusals(
    wish: Wish, unit: Unit, places: Places, documents: Declarations, exempt: tuple[str, ...]
) -> Iterator[str]:
    """Why this unit cannot be meshed as it is wished."""
    if reason := units.misnamed(wish.unit):
        yield reason
        return
    record = recalled(places, wish.unit)
    yield from units.refusals(unit, (wish.slice, *_slices_of(documents, wish)), tuple(_spelt(exempt)))
    for name, (each, origin) in documents.items():
        if places.wrote(wish.unit, origin) or (wish.has_document and name == wish.workload):
            continue
        if name == wish.workload:
            yield f"{origin} has the workload {name} already: give it another name with --name"
        for port in sorted({declared_.port for declared_ in each.spec.ports} & set(wish.ports)):
            yield f"port {port} is that of the workload {name} ({origin})"
        if any(selector.unit == wish.unit for selector in each.spec.selectors):
            yield f"{origin} has it as the workload {name} already"
    for path in (places.drop_in(wish.unit), places.document(wish.unit)):
        if path.exists() and (record is None or str(path) not in {file.path for file in record.files}):
            yield f"{path} is there already, and `meshd inject` has not written it"
    yield from _changed_since(record)


def _spelt(users: tuple[str, ...]) -> Iterator[str]:
    """Users by name and by number: units may have either (`User=`)."""
    for each in users:
        yield each
        try:
            found = pwd.getpwuid(int(each)) if each.isdigit() else pwd.getpwnam(each)
        except (KeyError, OverflowError):
            continue
        yield found.pw_name if each.isdigit() else str(found.pw_uid)


def _slices_of(documents: Declarations, wish: Wish) -> Iterator[str]:
    yield from (slices.own_slice(wish.slice, name) for name in (*documents, wish.workload))


def _changed_since(record: Record | None) -> Iterator[str]:
    for each in record.files if record is not None else ():
        path = Path(each.path)
        if path.exists() and sha256(path.read_bytes()) not in (each.sha256, each.before):
            yield f"{path} has been changed since it was written: remove it by hand, or `meshd uninject --force` it"


# --- putting in, and taking out -------------------------------------------------------------------------------------


def waiting(config: Path) -> tuple[str, ...]:
    """The command with which a unit waits for the mesh (`meshd.agent.awaiting`), of this very installation. It runs as
    root, in the environment of a unit that does not: whoever may write that (`EnvironmentFile=`) must not have their
    own modules or programs run by it."""
    option = () if config == Path(SETTINGS_FILE) else ("--config", str(config.absolute()))
    python = str(Path(sys.prefix, "bin", "python3"))
    return ("/usr/bin/env", "-i", python, "-I", "-m", "meshd.cli", "capture", "wait", *option)


def wanted(wish: Wish, places: Places) -> list[tuple[Path, bytes]]:
    """The files, as they are to be."""
    found = [(places.drop_in(wish.unit), drop_in(wish).encode())]
    if not wish.has_document:
        found.insert(0, (places.document(wish.unit), document(wish).encode()))
    return found


def inject(wish: Wish, places: Places, manager: Manager) -> list[Path]:
    """Write what is not there yet, have systemd read it, and the slice be there: the files that were written. systemd
    is told each time: one who was killed may have written and not told it."""
    before = recalled(places, wish.unit)
    whole = wanted(wish, places)
    changed = [(path, content) for path, content in whole if not path.exists() or path.read_bytes() != content]
    left = {each.path for each in before.files} - {str(path) for path, _ in whole} if before is not None else set()
    if changed or left or before is None:
        made = tuple(_missing([places.record(wish.unit), *(path for path, _ in whole)]))
        kept = before.directories if before is not None else ()
        written = tuple(Written(str(path), sha256(content), _of_before(before, path)) for path, content in whole)
        for each in (*kept, *made):
            Path(each).mkdir(mode=0o755, exist_ok=True)
        record = Record(wish.unit, written, (*kept, *(each for each in made if each not in kept)))
        files.write(places.record(wish.unit), msgspec.json.format(msgspec.json.encode(record)) + b"\n", 0o644)
        for path, content in changed:
            files.write(path, content, 0o644)
        for each in left:
            Path(each).unlink(missing_ok=True)
    manager.do("daemon-reload")
    manager.do("start", wish.slice)
    return [path for path, _ in changed]


def _of_before(record: Record | None, path: Path) -> str:
    """The SHA-256 of what is there of ours and is about to be replaced; empty where nothing is."""
    is_ours = record is not None and str(path) in {each.path for each in record.files}
    return sha256(path.read_bytes()) if is_ours and path.exists() else ""


def uninject(unit: str, places: Places, manager: Manager, *, force: bool = False) -> list[Path]:
    """Remove what was written for the unit, and the directories that were made for it where nothing else is in them:
    the files that were removed. Problem when nothing was, or somebody changed one since (unless `force`)."""
    record = recalled(places, unit)
    if record is None:
        raise Problem(f"{unit} is not in the mesh: there is no {places.record(unit)}")
    if not force and (reasons := list(_changed_since(record))):
        raise Refused(unit, reasons)
    removed = []
    for each in record.files:
        path = Path(each.path)
        if path.exists():
            path.unlink()
            removed.append(path)
    manager.do("daemon-reload")  # before the record goes: one who is killed can do it again
    places.record(unit).unlink()
    _remove_empty(places, record)
    return removed


def _remove_empty(places: Places, record: Record) -> None:
    """Those that were made, unless something is in them. One that another unit's files are in is left to it."""
    for each in reversed(record.directories):
        try:
            Path(each).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            _hand_on(places, each)


def _hand_on(places: Places, directory: str) -> None:
    """Another unit's record is to say that the directory was made for units."""
    for unit in injected(places):
        other = recalled(places, unit)
        if other is None:
            continue
        theirs = [places.record(unit), *(Path(each.path) for each in other.files)]
        if any(each.is_relative_to(directory) for each in theirs):
            heir = Record(unit, other.files, (directory, *(each for each in other.directories if each != directory)))
            files.write(places.record(unit), msgspec.json.format(msgspec.json.encode(heir)) + b"\n", 0o644)
            return


def _missing(paths: Sequence[Path]) -> Iterator[str]:
    """The directories that are to be made for the files, those above first."""
    seen = set()
    for path in paths:
        above = [each for each in path.parents if not each.exists()]
        for each in reversed(above):
            if each not in seen:
                seen.add(each)
                yield str(each)


def injected(places: Places) -> list[str]:
    """The units that were meshed by `meshd inject`."""
    return sorted(each.name.removesuffix(".json") for each in places.records.glob("*.json"))


def recalled(places: Places, unit: str) -> Record | None:
    """What was done for the unit; None where nothing was. Problem where the record says what it cannot."""
    file = places.record(unit)
    if not file.exists():
        return None
    content = file.read_bytes()[:MAX_RECORD_BYTES]
    try:
        record = msgspec.json.decode(content, type=Record)
    except msgspec.MsgspecError as error:
        raise Problem(f"{file}: not a record of `meshd inject`: {error}") from error
    drop_in_, document_ = places.drop_in(unit), places.document(unit)
    # Settings may name another directory of documents by now; what is in one is under the same name.
    if strange := [
        each.path
        for each in record.files
        if each.path != str(drop_in_) and (Path(each.path).name != document_.name or not Path(each.path).is_absolute())
    ]:
        raise Problem(f"{file}: {strange[0]} is none of the files that are written for {unit}: correct it by hand")
    return record
