"""A scenario run: everything is started, checked to answer alike, warmed up, then measured in alternating rounds.

Alternating (A B C D, A B C D, …), so that what changes on the machine during the run changes for all of them. All run
from start to end, since an idle proxy costs nothing.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from bench import cost, start
from bench.scenario import Case, Contender, Load, Scenario
from bench.start import Cores, Running
from meshd.api.problems import Problem

Progress = Callable[[str], None]

DIRECT = "direct"
"""The name under which the origin is measured with no proxy before it: what the others cannot exceed."""


@dataclass(frozen=True, slots=True)
class Options:
    """How long and how often. No rounds: everything is started and checked, and nothing measured."""

    rounds: int = 5
    seconds: float = 2.0
    warm_up_s: float = 1.0
    only: frozenset[str] = frozenset()


USUAL = Options()


@dataclass(frozen=True, slots=True)
class Round:
    """One run of the generator against one entrant: the processor time that the entrant used for it, that of the
    origin and the generator (where they have a core each, of the busier), and what programs that have no part in the
    benchmark used meanwhile, on all cores; and the entrant's memory at the end."""

    load: Load
    cpu_s: float
    driver_s: float
    others_s: float
    rss_bytes: int


@dataclass(slots=True)
class Entrant:
    """A contender, or the origin itself, and what was measured of it so far: for each case its rounds."""

    name: str
    version: str
    rounds: dict[str, list[Round]] = field(default_factory=dict)


def measure(scenario: Scenario, options: Options, progress: Progress) -> list[Entrant]:
    """The entrants of `scenario` with their rounds; the first is the origin itself, without a proxy, where the
    scenario has that measured.

    Those that are not installed are told to `progress` and left out. Problem when a generator is missing, when a proxy
    does not start, when one answers something else than the origin does, and when its counters belie what is claimed.
    """
    for case in scenario.cases:
        if missing := case.load.missing():
            raise Problem(f"{scenario.name} needs {missing}")
    present = list(_present(scenario, options, progress))
    cores = Cores.here()
    entrants: dict[str, Entrant] = {}
    with tempfile.TemporaryDirectory(prefix="meshd-bench-") as name:
        Path(name).chmod(0o755)
        every = list(range(1, options.rounds + 1))
        warm = options.warm_up_s > 0 and not scenario.fresh
        starts = [[number] for number in every] if scenario.fresh and every else [every]
        for start_number, numbers in enumerate(starts):
            with _all(scenario, present, cores, Path(name, str(start_number))) as (driver, running):
                for each in running:
                    entrants.setdefault(each.name, Entrant(each.name, each.version))
                run = _Run(driver, cores, Path(name))
                for case, each in product(scenario.cases, running if numbers and warm else ()):
                    progress(f"{scenario.name}, {case.name}: warm-up, {each.name}")
                    run.drive(each, case, options.warm_up_s)
                for number, case, each in product(numbers, scenario.cases, running):
                    progress(f"{scenario.name}, {case.name}: round {number} of {options.rounds}, {each.name}")
                    rounds = entrants[each.name].rounds.setdefault(case.name, [])
                    rounds.append(run.drive(each, case, options.seconds))
    return list(entrants.values())


@dataclass(frozen=True, slots=True)
class _Run:
    """What drives the entrants. `driver`: the origin's process, where there is one."""

    driver: int | None
    cores: Cores
    directory: Path

    def drive(self, entrant: Running, case: Case, seconds: float) -> Round:
        def now() -> tuple[float, float, float, float]:
            ended = os.times()
            generator = ended.user + ended.system + ended.children_user + ended.children_system
            own = sum(cost.cpu_s(pid) for pid in entrant.target.pids)
            origin = 0.0 if self.driver is None else cost.cpu_s(self.driver)
            return own, origin, generator, cost.others_s()

        before = now()
        load = case.load.drive(entrant.target, seconds, self.cores.load, self.directory)
        own, origin, generator, others = (after - then for after, then in zip(now(), before, strict=True))
        driver_s = origin + generator if self.cores.origin == self.cores.load else max(origin, generator)
        rss_bytes = sum(cost.rss_bytes(pid) for pid in entrant.target.pids)
        return Round(load, own, driver_s, max(0.0, others), rss_bytes)


@contextmanager
def _all(
    scenario: Scenario, present: list[Contender], cores: Cores, directory: Path
) -> Iterator[tuple[int | None, list[Running]]]:
    """The origin's process id, and all entrants: running, and checked."""
    directory.mkdir()
    directory.chmod(0o755)
    with ExitStack() as stack:
        port = 0
        if scenario.origin is not None:
            started = start.origin(scenario.origin, DIRECT, cores.origin, directory / DIRECT)
            port, direct = stack.enter_context(started)
        running = [
            stack.enter_context(start.contender(each, port, cores.proxy, directory / each.program.name))
            for each in present
        ]
        if scenario.origin is None:
            yield None, running
            return
        for each in (direct, *running):
            start.check_answer(each, scenario.origin)
            start.check_claims(each)
        yield direct.target.pids[0], [direct, *running] if scenario.direct else running


def _present(scenario: Scenario, options: Options, progress: Progress) -> Iterator[Contender]:
    origin = scenario.origin
    if origin is not None and origin.program.find() is None:
        raise Problem(f"{scenario.name} needs {origin.program.name}: {origin.program.install}")
    for contender in scenario.contenders:
        program = contender.program
        if options.only and program.name not in options.only:
            continue
        if program.find() is None:
            progress(f"{scenario.name}: no {program.name} here, so it is left out ({program.install})")
        else:
            yield contender
