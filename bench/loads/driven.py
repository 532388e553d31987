"""Runs the loads that are programs of this package: `python -m` one on a core of its own, which says as JSON what it
saw, a line at a time."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from bench.scenario import Load
from meshd.api.problems import Problem

Seen = dict[str, Any]


def run(module: str, core: int, *arguments: object) -> Seen:
    """What it printed at its end. Problem when it fails."""
    done = subprocess.run(_argv(module, core, arguments), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Problem(f"{module} ended with status {done.returncode}: {done.stderr.strip()}")
    return cast(Seen, json.loads(done.stdout))


def as_rate(seen: Seen) -> Load:
    """Of a load that counts what it asked for: its value is in that a second."""
    return Load(
        value=seen["count"] / seen["duration_s"],
        count=seen["count"],
        duration_s=seen["duration_s"],
        failed=seen["failed"],
        p50_ms=seen["p50_ms"],
        p99_ms=seen["p99_ms"],
    )


class Going:
    """One that goes on until its standard input ends."""

    def __init__(self, module: str, process: "subprocess.Popen[str]") -> None:
        self._module, self._process = module, process

    def line(self) -> Seen:
        """What it says next. Problem when it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Problem(f"{self._module} ended with status {self._process.wait()}")
        return cast(Seen, json.loads(line))

    def go_on(self) -> None:
        """Have it begin what it waits with."""
        assert self._process.stdin is not None
        self._process.stdin.write("go on\n")
        self._process.stdin.flush()


@contextmanager
def going(module: str, core: int, *arguments: object) -> Iterator[Going]:
    argv = _argv(module, core, arguments)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Going(module, process)
        finally:
            process.communicate("")


def _argv(module: str, core: int, arguments: tuple[object, ...]) -> tuple[str, ...]:
    return "taskset", "-c", str(core), sys.executable, "-m", module, *map(str, arguments)
