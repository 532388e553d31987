"""The load generator: wrk, one thread, a closed loop on connections that are kept alive.

Closed means that a connection sends its next request when it has the answer to the last: the latencies are those of a
proxy that is kept as busy as it can be, and shrink with fewer connections.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from meshd.api.problems import Problem

SUMMARY = """\
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "bad_statuses": %d, "broken": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
"""
"""wrk's own printing rounds; its last call to a script has the numbers. Nothing runs per request."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of the generator saw."""

    requests: int
    duration_us: int
    p50_us: int
    p99_us: int
    bad_statuses: int
    broken: int

    @property
    def per_second(self) -> float:
        return self.requests / self.duration_us * 1e6

    @property
    def failed(self) -> int:
        """Requests that got no answer, or one that was not 2xx or 3xx."""
        return self.bad_statuses + self.broken


def script(directory: Path) -> Path:
    """The script that wrk is to run, written to `directory`."""
    path = directory / "summary.lua"
    path.write_text(SUMMARY, encoding="utf-8")
    return path


def drive(wrk: str, port: int, connections: int, seconds: float, summary: Path, core: int) -> Load:
    """One run against 127.0.0.1:port. wrk counts in whole seconds, at least one. Problem when it fails."""
    argv = ("taskset", "-c", str(core), wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s")
    done = subprocess.run(
        (*argv, "-s", str(summary), f"http://127.0.0.1:{port}/"), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Problem(f"wrk ended with status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return parse(done.stdout)


def parse(output: str) -> Load:
    """The last line of wrk's output, which the script wrote."""
    return Load(**json.loads(output.strip().rpartition("\n")[2]))
