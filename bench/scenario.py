"""What a benchmark is made of: a scenario, its contenders, and where in a run they are to listen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Program:
    """A proxy that can be started. `find` tells its path, None where it is not installed; `argv` the command line that
    runs it in the foreground, from a configuration file whose name ends in `suffix`."""

    name: str
    find: Callable[[], str | None]
    argv: Callable[[str, Path], Sequence[str]]
    version: Sequence[str]
    suffix: str
    install: str


@dataclass(frozen=True, slots=True)
class Wiring:
    """Where a contender listens, where its origin is (ports on 127.0.0.1), and a directory of its own."""

    listen: int
    origin: int
    directory: Path


@dataclass(frozen=True, slots=True)
class Contender:
    """A program and how it is configured for one scenario: the text of its configuration file."""

    program: Program
    configuration: Callable[[Wiring], str]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of what is promised. `goals`: how many times a contender's requests per second meshd is to reach.

    `connections` is how many the load generator keeps open and busy; all of them are kept alive.
    """

    name: str
    title: str
    contenders: tuple[Contender, ...]
    goals: dict[str, float]
    connections: int = 32
    rss_idle_goal_mb: float | None = None
