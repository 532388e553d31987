"""A scenario run: everything is started, checked to answer alike, warmed up, then measured in alternating rounds.

Alternating (A B C D, A B C D, …), so that what changes on the machine during the run changes for all of them. All run
from start to end, since an idle proxy costs nothing; memory is read before the first request and after the last round.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

from bench import contenders, cost, load, origin
from bench.load import Load
from bench.scenario import Contender, Program, Scenario, Wiring
from meshd.api.problems import Problem
from tests.support import peers
from tests.support.ports import accepts, free_ports
from tests.support.processes import running

Progress = Callable[[str], None]

DIRECT = "direct"
"""The name under which the origin is measured with no proxy before it: what the others cannot exceed."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where. On a machine of two cores, origin and load generator share one."""

    proxy: int
    origin: int
    load: int

    @classmethod
    def here(cls) -> "Cores":
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            raise Problem("a benchmark needs two cores: one for the proxy, one for what drives it")
        return cls(proxy=allowed[-1], origin=allowed[0], load=allowed[-2])


@dataclass(frozen=True, slots=True)
class Options:
    """How long and how often. `body_bytes`: the size of every answer."""

    rounds: int = 5
    seconds: float = 5.0
    warm_up_s: float = 2.0
    body_bytes: int = 1024
    only: frozenset[str] = frozenset()


USUAL = Options()


@dataclass(frozen=True, slots=True)
class Round:
    """One run of the generator against one entrant: the processor time that the entrant used for it, and what
    programs that have no part in the benchmark used meanwhile, on all cores."""

    load: Load
    cpu_s: float
    others_s: float


@dataclass(slots=True)
class Entrant:
    """A contender that runs (or the origin itself), and what was measured of it so far."""

    name: str
    version: str
    port: int
    pid: int
    rss_idle_bytes: int = 0
    rss_loaded_bytes: int = 0
    rounds: list[Round] = field(default_factory=list)


def measure(scenario: Scenario, options: Options, progress: Progress) -> list[Entrant]:
    """The entrants of `scenario` with their rounds; the first is the origin itself, without a proxy.

    Those that are not installed are told to `progress` and left out. Problem when wrk is missing, when a proxy does
    not start, or when one answers something else than the origin does.
    """
    wrk = peers.find("wrk")
    if wrk is None or peers.find("nginx") is None:
        raise Problem("a benchmark needs wrk and nginx (its load and its origin): apt-get install wrk nginx")
    cores = Cores.here()
    with tempfile.TemporaryDirectory(prefix="meshd-bench-") as name, ExitStack() as started:
        directory = Path(name)
        directory.chmod(0o755)  # nginx's worker is another user when this one is root
        summary = load.script(directory)
        entrants = [started.enter_context(_origin(options, cores, directory / DIRECT))]
        for contender in _present(scenario, options, progress):
            own = directory / contender.program.name
            entrants.append(started.enter_context(_proxy(contender, entrants[0].port, cores, own)))
        for entrant in entrants:
            entrant.rss_idle_bytes = cost.rss_bytes(entrant.pid)
            _check_answer(entrant, options)

        def drive(entrant: Entrant, seconds: float) -> Round:
            own, others = cost.cpu_s(entrant.pid), cost.others_s()
            seen = load.drive(wrk, entrant.port, scenario.connections, seconds, summary, cores.load)
            return Round(seen, cost.cpu_s(entrant.pid) - own, max(0.0, cost.others_s() - others))

        for entrant in entrants:
            progress(f"{scenario.name}: warm-up, {entrant.name}")
            drive(entrant, options.warm_up_s)
        for number in range(1, options.rounds + 1):
            for entrant in entrants:
                progress(f"{scenario.name}: round {number} of {options.rounds}, {entrant.name}")
                entrant.rounds.append(drive(entrant, options.seconds))
        for entrant in entrants:
            entrant.rss_loaded_bytes = cost.rss_bytes(entrant.pid)
    return entrants


def _present(scenario: Scenario, options: Options, progress: Progress) -> Iterator[Contender]:
    for contender in scenario.contenders:
        program = contender.program
        if options.only and program.name not in options.only:
            continue
        if program.find() is None:
            progress(f"{scenario.name}: no {program.name} here, so it is left out ({program.install})")
        else:
            yield contender


@contextmanager
def _origin(options: Options, cores: Cores, directory: Path) -> Iterator[Entrant]:
    directory.mkdir()
    [port] = free_ports(1)
    text = origin.configuration(port, options.body_bytes, directory)
    with _started(contenders.NGINX, text, port, cores.origin, directory) as entrant:
        entrant.name = DIRECT
        yield entrant


@contextmanager
def _proxy(contender: Contender, origin_port: int, cores: Cores, directory: Path) -> Iterator[Entrant]:
    directory.mkdir()
    [port] = free_ports(1)
    text = contender.configuration(Wiring(port, origin_port, directory))
    with _started(contender.program, text, port, cores.proxy, directory) as entrant:
        yield entrant


@contextmanager
def _started(program: Program, text: str, port: int, core: int, directory: Path) -> Iterator[Entrant]:
    path = program.find()
    assert path is not None, "only programs that are here are started"
    config = directory / f"{program.name}.{program.suffix}"
    config.write_text(text, encoding="utf-8")
    argv = ("taskset", "-c", str(core), *program.argv(path, config))  # taskset becomes the program, under its id
    with ExitStack() as stack:
        try:
            process = stack.enter_context(running(argv, directory / "log", lambda: accepts(port)))
        except AssertionError as error:
            raise Problem(f"{program.name} did not start: {error}") from error
        yield Entrant(program.name, _version(program, path), port, process.pid)


def _version(program: Program, path: str) -> str:
    """The first dotted number in what it says of itself; nginx says it on standard error."""
    done = subprocess.run((path, *program.version), capture_output=True, text=True, check=True)
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return found[0] if found else "of unknown version"


def _check_answer(entrant: Entrant, options: Options) -> None:
    connection = HTTPConnection("127.0.0.1", entrant.port, timeout=10)
    with closing(connection):
        connection.request("GET", "/")
        answer = connection.getresponse()
        if answer.status != 200 or answer.read() != origin.body(options.body_bytes):
            raise Problem(f"{entrant.name} does not pass the origin's answer on: status {answer.status}")
