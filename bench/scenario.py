"""What a benchmark is made of: a scenario, its cases, its contenders, and where in a run they are to listen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be started. `find` tells its path, None where it is not installed; `argv` the command line
    that runs it in the foreground, from a configuration file whose name ends in `suffix`; `counters` the path on its
    admin port where its counters are, one a line."""

    name: str
    find: Callable[[], str | None]
    argv: Callable[[str, Path], Sequence[str]]
    version: Sequence[str]
    suffix: str
    install: str
    counters: str = ""


@dataclass(frozen=True, slots=True)
class Wiring:
    """Where the parts of a contender are, as ports on 127.0.0.1, and a directory of their own.

    `listen`: where the load comes to. `between`: where the second of two proxies listens. `origin`: what they lead to.
    `admin`: one for each part. The directory has `bundle.pem`, and `web.pem`, `web.key`, `api.pem`, `api.key` below
    that root: the identities of the first and of the second proxy, with P-256 keys.
    """

    listen: int
    between: int
    origin: int
    admin: tuple[int, int]
    directory: Path


@dataclass(frozen=True, slots=True)
class Claim:
    """That a part's counters have, after the answer was checked, a line that matches `pattern` and ends in a number
    above zero: so that what flows is what the scenario says."""

    part: int
    pattern: str


@dataclass(frozen=True, slots=True)
class Contender:
    """A program and how it is configured for one scenario: the text of one configuration file for each part. The load
    comes to the first part; all run on the one core."""

    program: Program
    parts: tuple[Callable[[Wiring], str], ...]
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """The server behind the proxies: its configuration, for the port that proxies connect to and the one where it is
    asked without them, which speaks as the load does. Its directory has the same certificates as a `Wiring`'s. `check`
    asks at a port once, as the load does, and gives what was answered: `expected`, where all is well."""

    program: Program
    configuration: Callable[[int, int, Path], str]
    check: Callable[[int], bytes]
    expected: bytes


@dataclass(frozen=True, slots=True)
class Target:
    """What a load is driven against: a port on 127.0.0.1, the processes of what listens there, and the directory that
    its configuration was laid in."""

    port: int
    pids: tuple[int, ...]
    directory: Path = Path()


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of a generator saw. `value` is in the unit of its scenario; `count` is what the processor time is
    divided by, to have it for each request (connection, message, megabyte). Latencies are None where the generator
    does not tell them."""

    value: float
    count: float
    duration_s: float
    failed: int
    p50_ms: float | None = None
    p99_ms: float | None = None


class Generator(Protocol):
    """What drives a proxy in one case."""

    def missing(self) -> str | None:
        """What it needs and is not here, such as a program; None where it can run. Asked before anything is started."""

    def drive(self, target: Target, seconds: float, core: int, directory: Path) -> Load:
        """One run, on that core. Problem when it fails. It may write to `directory`."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What a scenario measures. `name` heads the column, `each` says what the processor time is given for."""

    name: str
    each: str
    more_is_better: bool = True
    digits: int = 0


REQUESTS = Unit("requests/s", "request")


@dataclass(frozen=True, slots=True)
class Goal:
    """`ratio`: meshd's figure over that of `against`; at least that where more is better, else at most."""

    against: str
    ratio: float
    of: Literal["value", "p50_added_ms", "p99_added_ms"] = "value"


@dataclass(frozen=True, slots=True)
class Promise:
    """A goal that is compared with no one's: meshd's figure is `limit` at least, where it is a value of which more is
    better, else at most."""

    limit: float
    of: Literal["value", "p99_ms"] = "value"


@dataclass(frozen=True, slots=True)
class Case:
    """One load of a scenario, and what is promised of it."""

    name: str
    load: Generator
    goals: tuple[Goal | Promise, ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of what is promised, or several that have contenders in common.

    `about`: a sentence below the title in the page. `fresh`: everything is started anew for each round. `direct`: the
    origin is measured without a proxy too. Servers that are no proxies have no `origin`: then the load alone says
    whether answers are good.
    """

    name: str
    title: str
    about: str
    origin: Origin | None
    contenders: tuple[Contender, ...]
    cases: tuple[Case, ...]
    unit: Unit = REQUESTS
    fresh: bool = False
    direct: bool = True
