"""Contenders and origin as processes: configured, started on their core, and asked whether they do what is claimed."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from bench import certificates
from bench.scenario import Claim, Contender, Origin, Program, Target, Wiring
from meshd.api.problems import Problem
from tests.support.ports import accepts, free_ports
from tests.support.processes import running

START_WITHIN_S = 30.0
"""Time for a program to listen and to answer as it should. On a quiet machine it takes a hundredth of that."""


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
class Running:
    """A contender that runs, or the origin."""

    name: str
    version: str
    target: Target
    admin: tuple[int, ...] = ()
    claims: tuple[Claim, ...] = ()
    counters: str = ""


@contextmanager
def origin(wanted: Origin, name: str, core: int, directory: Path) -> Iterator[tuple[int, Running]]:
    """The origin: the port that proxies are to use, and itself under `name`. Problem when it does not start."""
    directory.mkdir()
    directory.chmod(0o755)  # nginx's worker is another user when this one is root
    certificates.lay(directory)
    port, direct = free_ports(2)
    text = wanted.configuration(port, direct, directory)
    with _process(wanted.program, text, direct, core, directory) as process:
        yield port, Running(name, version(wanted.program), Target(direct, (process.pid,)))


@contextmanager
def contender(wanted: Contender, origin_port: int, core: int, directory: Path) -> Iterator[Running]:
    """A contender: all its parts, the last first. Problem when one does not start."""
    directory.mkdir()
    certificates.lay(directory)
    listen, between, *admin = free_ports(4)
    wiring = Wiring(listen, between, origin_port, (admin[0], admin[1]), directory)
    with ExitStack() as stack:
        pids: list[int] = []
        for number, configuration in reversed(list(enumerate(wanted.parts))):
            own = directory / str(number)
            own.mkdir()
            port = (listen, between)[number]
            started = _process(wanted.program, configuration(wiring), port, core, own)
            pids.insert(0, stack.enter_context(started).pid)
        program = wanted.program
        target = Target(listen, tuple(pids), directory)
        yield Running(program.name, version(program), target, wiring.admin, wanted.claims, program.counters)


@contextmanager
def _process(program: Program, text: str, port: int, core: int, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    path = program.find()
    assert path is not None, "only programs that are here are started"
    config = directory / f"{program.name}.{program.suffix}"
    config.write_text(text, encoding="utf-8")
    argv = ("taskset", "-c", str(core), *program.argv(path, config))  # taskset becomes the program, under its id
    with ExitStack() as stack:
        try:
            listens = running(argv, directory / "log", lambda: accepts(port), deadline_s=START_WITHIN_S)
            process = stack.enter_context(listens)
        except AssertionError as error:
            raise Problem(f"{program.name} did not start: {error}") from error
        yield process


@cache
def version(program: Program) -> str:
    """The dotted number in what it says of itself; nginx says it on standard error."""
    path = program.find()
    assert path is not None, "only programs that are here are asked"
    done = subprocess.run((path, *program.version), capture_output=True, text=True, check=True)
    return version_in((done.stdout + done.stderr).replace(path, ""))  # a path can have one too: …/python3.11/…


def version_in(said: str) -> str:
    """The first dotted number; envoy says `envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`."""
    found = re.search(r"\d+(\.\d+)+", said)
    return found[0] if found else "of unknown version"


def check_answer(found: Running, wanted: Origin) -> None:
    """Problem where it does not come to give the answer that the origin is to give."""
    end = time.monotonic() + START_WITHIN_S
    while (answer := wanted.check(found.target.port)) != wanted.expected:
        if time.monotonic() > end:
            raise Problem(f"{found.name} answers {_ends(answer)}; expected {_ends(wanted.expected)}")


def _ends(answer: bytes) -> str:
    return f"{answer[:40]!r}…{answer[-40:]!r} ({len(answer)} bytes)"


def check_claims(found: Running) -> None:
    """Problem where the counters of a part do not say what is claimed of it."""
    for claim in found.claims:
        if not holds(claim, _counters(found.admin[claim.part], found.counters)):
            raise Problem(f"{found.name}, part {claim.part}: no counter {claim.pattern} above zero at {found.counters}")


def holds(claim: Claim, counters: str) -> bool:
    """Whether the counters, one a line, bear the claim out."""
    values = [line.rpartition(" ")[2] for line in counters.splitlines() if re.search(claim.pattern, line)]
    return any(float(value) > 0 for value in values)


def _counters(port: int, path: str) -> str:
    try:
        with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
    except (OSError, HTTPException) as error:
        raise Problem(f"no counters at port {port}: {error}") from error
