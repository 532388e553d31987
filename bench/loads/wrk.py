"""Load by wrk: HTTP/1.1, one thread, a closed loop on connections that are kept alive.

Closed means that a connection sends its next request when it has the answer to the last: the latencies are those of a
proxy that is kept as busy as it can be, and shrink with fewer connections.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.scenario import Load, Target
from meshd.api.problems import Problem
from tests.support import peers

SUMMARY = """\
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "bytes": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "failed": %d}\\n',
    summary.requests, summary.bytes, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
"""
"""wrk's own printing rounds; its last call to a script has the numbers. Of itself it runs nothing per request.
Failed are requests that got no answer, or one that was not 2xx or 3xx."""

UNIQUE = """\
local sent = 0
local before = math.random(0, 0xffffff)
function init() before = os.time() % 0xffffff end
function request()
  sent = sent + 1
  local id = string.format("%06x%010x", before, sent)
  return "GET /orders/" .. id .. "?page=" .. sent .. " HTTP/1.1\\r\\nHost: orders.example\\r\\n" ..
    "User-Agent: bench/1.0\\r\\nAccept: application/json\\r\\n" ..
    "Traceparent: 00-" .. id .. id .. "-" .. id .. "-01\\r\\n\\r\\n"
end
"""
"""A path and a trace id that no other request has."""


def upload(size_bytes: int) -> str:
    """The script that has every request be a POST of so many bytes."""
    return f'wrk.method = "POST"\nwrk.body = string.rep("x", {size_bytes})\n'


@dataclass(frozen=True, slots=True)
class Wrk:
    """A run of wrk. `counts`: what its value is, requests a second, or megabytes a second (of which there are some
    even where no answer ended yet). `script`: Lua that says what is sent; `headers`: fields that are sent;
    `tls`: with the certificate unchecked; `sends_bytes`: the size of a request's body, which wrk does not count."""

    connections: int
    path: str = "/"
    headers: tuple[str, ...] = ()
    script: str = ""
    sends_bytes: int = 0
    tls: bool = False
    counts: Literal["requests", "megabytes"] = "requests"

    def missing(self) -> str | None:
        return None if peers.find("wrk") else "wrk (apt-get install wrk)"

    def drive(self, target: Target, seconds: float, core: int, directory: Path) -> Load:
        """wrk counts in whole seconds, at least one."""
        script = directory / "wrk.lua"
        script.write_text(self.script + SUMMARY, encoding="utf-8")
        argv = ["taskset", "-c", str(core), peers.find("wrk") or "wrk", "-t1", f"-c{self.connections}"]
        argv += [f"-d{max(1, round(seconds))}s", "--timeout", "60s", "-s", str(script)]
        argv += [each for field in self.headers for each in ("-H", field)]
        url = f"{'https' if self.tls else 'http'}://127.0.0.1:{target.port}{self.path}"
        done = subprocess.run([*argv, url], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Problem(f"wrk ended with status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
        return self.parse(done.stdout)

    def parse(self, output: str) -> Load:
        """The last line of wrk's output, which the script wrote."""
        seen: dict[str, int] = json.loads(output.strip().rpartition("\n")[2])
        moved_bytes = seen["bytes"] + seen["requests"] * self.sends_bytes
        count = seen["requests"] if self.counts == "requests" else moved_bytes / 1e6
        duration_s = seen["duration_us"] / 1e6
        return Load(
            value=count / duration_s,
            count=count,
            duration_s=duration_s,
            failed=seen["failed"],
            p50_ms=seen["p50_us"] / 1000 if seen["requests"] else None,
            p99_ms=seen["p99_us"] / 1000 if seen["requests"] else None,
        )
