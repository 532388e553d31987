"""Load on an injector: reviews of pods, as an API server sends them when pods are made.

python -m bench.loads.reviews PORT DIRECTORY AT_ONCE SECONDS    # prints one line of JSON

The loop is closed: so many reviews are under way at once, each on a connection of its own that is kept, as an API
server keeps them. A review is one of those that a real API server sent, of a pod with three containers; what it takes
is from before it is sent until its answer is read, and an answer without a patch is a failure.
"""

import asyncio
import copy
import json
import ssl
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.loads import driven
from bench.loads.nodes import Connection, quantiles
from bench.origins.injector import BUNDLE
from bench.scenario import Load, Target
from tests.support.injections import SETTINGS

RECORDED: Final = Path(__file__).parents[2] / "tests" / "recordings" / "kubernetes" / "webhook.json"
CONTAINERS: Final = 3
READY_WITHIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Reviews:
    """So many at once. Its value is in reviews a second."""

    at_once: int

    def missing(self) -> str | None:
        return None

    def drive(self, target: Target, seconds: float, core: int, directory: Path) -> Load:  # noqa: ARG002
        return driven.as_rate(driven.run(__name__, core, target.port, target.directory, self.at_once, seconds))


def request() -> bytes:
    """A review, with its head."""
    seen: list[Any] = json.loads(RECORDED.read_text(encoding="utf-8"))["requests_seen_by_the_webhook"]
    review = copy.deepcopy(seen[0]["body"])
    containers = review["request"]["object"]["spec"]["containers"]
    for number in range(1, CONTAINERS):
        containers.append(containers[0] | {"name": f"app-{number}"})
    body = json.dumps(review).encode()
    head = (
        "POST /inject?timeout=5s HTTP/1.1\r\nHost: meshd-injector.meshd.svc:443\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _ready(directory: Path) -> None:
    async with asyncio.timeout(READY_WITHIN_S):
        while not (directory / BUNDLE).exists():
            await asyncio.sleep(0.05)


async def _ask(connection: Connection, asked: bytes, end: float, took_s: list[float]) -> int:
    """How many failed."""
    failed = 0
    while (begun := time.monotonic()) < end:
        if await connection.ask(asked) and b'"patch"' in connection.body:
            took_s.append(time.monotonic() - begun)
        else:
            failed += 1
    connection.close()
    return failed


async def _run(port: int, directory: Path, at_once: int, seconds: float) -> dict[str, object]:
    await _ready(directory)
    tls, asked = ssl.create_default_context(cafile=directory / BUNDLE), request()
    loop, took_s = asyncio.get_running_loop(), list[float]()
    opened = [
        (await loop.create_connection(Connection, "127.0.0.1", port, ssl=tls, server_hostname=SETTINGS.injector_name))[
            1
        ]
        for _ in range(at_once)
    ]
    begun = time.monotonic()
    failed = await asyncio.gather(*(_ask(each, asked, begun + seconds, took_s) for each in opened))
    return {"duration_s": time.monotonic() - begun, "failed": sum(failed), **quantiles(took_s)}


if __name__ == "__main__":
    _port, _directory, _at_once, _seconds = sys.argv[1:]
    print(json.dumps(uvloop.run(_run(int(_port), Path(_directory), int(_at_once), float(_seconds)))))
