"""Load by h2load: HTTP/2, one thread, a closed loop of so many streams on each of so many connections.

It tells no percentiles without writing a line for each request, which costs more than what is to be measured.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.scenario import Load, Target
from meshd.api.problems import Problem
from tests.support import peers

CIPHER = "TLS_AES_256_GCM_SHA384"
"""What wrk comes to with all of them."""


@dataclass(frozen=True, slots=True)
class H2load:
    """A run of h2load. `tls`: with ALPN `h2`, the certificate unchecked; without, HTTP/2 by prior knowledge. `body`:
    what each request sends, which makes it a POST. `per_request`: how many of the scenario's unit a request is."""

    connections: int
    streams: int
    path: str = "/"
    headers: tuple[str, ...] = ()
    body: bytes = b""
    tls: bool = False
    per_request: int = 1

    def missing(self) -> str | None:
        return None if peers.find("h2load") else "h2load (apt-get install nghttp2-client)"

    def drive(self, target: Target, seconds: float, core: int, directory: Path) -> Load:
        argv = ["taskset", "-c", str(core), peers.find("h2load") or "h2load", "-t1"]
        argv += [f"-c{self.connections}", f"-m{self.streams}", f"-D{round(seconds * 1000)}ms"]
        argv += [each for field in self.headers for each in ("-H", field)]
        if self.body:
            sent = directory / "h2load-body"
            sent.write_bytes(self.body)
            argv += ["-d", str(sent)]
        if self.tls:
            argv += ["--tls13-ciphers", CIPHER]  # its own list would have each proxy choose another
        url = f"{'https' if self.tls else 'http'}://127.0.0.1:{target.port}{self.path}"
        done = subprocess.run([*argv, url], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Problem(f"h2load ended with status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
        return self.parse(done.stdout)

    def parse(self, output: str) -> Load:
        """What it prints at its end. It says how long it took to the hundredth of a second, and the rate exactly."""
        rate = re.search(r"^finished in \S+, (\S+) req/s", output, re.MULTILINE)
        counts = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
        if rate is None or counts is None:
            raise Problem(f"h2load said something else than usual: {output.strip()}")
        per_second, (_, succeeded, failed, _, _) = float(rate[1]), (int(each) for each in counts.groups())
        return Load(
            value=per_second * self.per_request,
            count=succeeded * self.per_request,
            duration_s=succeeded / per_second if per_second else 1.0,
            failed=failed,
        )
