"""Load on a CA by a whole mesh of agents, as far as the CA sees them: with the calls of an agent, its time limits, its
pauses and its jitter, and without all that an agent does besides.

python -m bench.loads.agents PORT DIRECTORY AGENTS    # a line of JSON when all are served; they go on until stdin ends

Each shows its node's certificate. It looks whether the CA is well (as `Signer.watch` of `meshd.agent.certificates`),
follows the bundle (`Signer.follow`), and has a certificate signed for a workload; each call has a connection of its own
(`meshd.ca.calls`).
"""

import asyncio
import json
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench import cost
from bench.loads import driven
from bench.loads.nodes import Asking, asking, connect
from bench.scenario import Load, Target
from meshd.agent.certificates import LOOK_AGAIN_S, LOOK_EVERY_S
from meshd.api.backoff import Backoff
from meshd.api.tasks import Tasks
from meshd.ca.calls import WITHIN_S
from meshd.ca.following import LONGEST_WAIT_S
from meshd.ca.wire import Bundle, Health

SERVED_WITHIN_S = 300.0
FOLLOW_S = 30.0
"""Longer than any of them waits at a time."""

HANDSHAKES = 256
"""At a time. They take as much time here as at the CA, and real agents have each a core for theirs: one that waits for
its turn here is not one that the CA keeps waiting."""

_BEGIN_S = (LOOK_AGAIN_S / 2, LOOK_AGAIN_S)
"""When they begin, after what made all of them begin: the first pause of an agent that lost its CA."""

_SAMPLE_S = 0.5
_SPARE_FILES = 1_000


@dataclass(frozen=True, slots=True)
class Storm:
    """So many agents that begin together. The value is in seconds, until all are served."""

    agents: int

    def missing(self) -> str | None:
        return _too_few_files(self.agents)

    def drive(self, target: Target, seconds: float, core: int, directory: Path) -> Load:  # noqa: ARG002
        with _begun(self.agents, target, core) as seen:
            return Load(seen["took_s"], count=self.agents, duration_s=seen["took_s"], failed=seen["failed"])


@dataclass(frozen=True, slots=True)
class Follow:
    """So many agents that go on for FOLLOW_S when they are served. The value is in MB: the most that the target has
    meanwhile."""

    agents: int

    def missing(self) -> str | None:
        return _too_few_files(self.agents)

    def drive(self, target: Target, seconds: float, core: int, directory: Path) -> Load:  # noqa: ARG002
        began, most_bytes = time.monotonic(), 0
        with _begun(self.agents, target, core) as seen:
            end = time.monotonic() + (FOLLOW_S if self.agents else 0.0)
            while True:
                most_bytes = max(most_bytes, sum(cost.rss_bytes(pid) for pid in target.pids))
                if time.monotonic() >= end:
                    break
                time.sleep(_SAMPLE_S)
        return Load(most_bytes / 1e6, self.agents, time.monotonic() - began, failed=seen["failed"])


def _too_few_files(agents: int) -> str | None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < agents + _SPARE_FILES:
        return f"{agents + _SPARE_FILES} open files, and the limit is {hard} (ulimit -Hn)"
    return None


@contextmanager
def _begun(agents: int, target: Target, core: int) -> Iterator[dict[str, Any]]:
    """They are served, and go on until the end. Problem when they never are."""
    with driven.going(__name__, core, target.port, target.directory, agents) as program:
        yield program.line()


class _Agent:
    """One of them."""

    def __init__(self, port: int, node: Asking, turns: asyncio.Semaphore) -> None:
        self._port, self._node, self._turns = port, node, turns
        self._wants = {"health", "bundle", "certificate"}
        self.served = asyncio.Event()
        self.refused = 0

    async def run(self) -> None:
        await asyncio.sleep(random.uniform(*_BEGIN_S))
        await asyncio.gather(self._look(), self._follow(), self._sign())

    async def _look(self) -> None:
        while True:
            await self._until_served("health", _get("/v1/health"), WITHIN_S, Health)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _sign(self) -> None:
        await self._until_served("certificate", self._node.request, WITHIN_S, dict)

    async def _follow(self) -> None:
        sequence = 0
        while True:
            path = f"/v1/bundle?after={sequence}&wait={LONGEST_WAIT_S:.0f}&oldest=0"
            news = await self._until_served("bundle", _get(path), LONGEST_WAIT_S + 8.0, Bundle)
            if news.sequence == sequence and news.again_s:
                await asyncio.sleep(Backoff(news.again_s, news.again_s).next_s())
            sequence = news.sequence

    async def _until_served(self, what: str, request: bytes, within_s: float, kind: type[Any]) -> Any:
        backoff = Backoff(LOOK_AGAIN_S, LOOK_EVERY_S)
        while True:
            try:
                body = await self._ask(request, within_s)
            except OSError:  # a TimeoutError too
                self.refused += 1
                await asyncio.sleep(backoff.next_s())
                continue
            self._wants.discard(what)
            if not self._wants:
                self.served.set()
            return msgspec.json.decode(body, type=kind)

    async def _ask(self, request: bytes, within_s: float) -> bytes:
        async with self._turns:
            begun = asyncio.get_running_loop().time()
            async with asyncio.timeout(within_s):
                connection = await connect(self._port, self._node)
        try:
            async with asyncio.timeout_at(begun + within_s):
                if not await connection.ask(request):
                    raise ConnectionRefusedError("the answer has another status")
            return connection.body
        finally:
            connection.close()


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: ca\r\n\r\n".encode()


async def _run(port: int, directory: Path, count: int, said: Callable[[str], None]) -> None:
    turns = asyncio.Semaphore(HANDSHAKES)
    agents = [_Agent(port, asking(directory, number), turns) for number in range(count)]
    tasks = Tasks("agents")
    began = time.monotonic()
    for agent in agents:
        tasks.start(agent.run(), "agent")
    async with asyncio.timeout(SERVED_WITHIN_S):
        for agent in agents:
            await agent.served.wait()
    said(json.dumps({"took_s": time.monotonic() - began, "failed": 0, "again": sum(each.refused for each in agents)}))
    await asyncio.to_thread(sys.stdin.read)
    await tasks.cancel()


if __name__ == "__main__":
    _, _most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_most, _most))
    uvloop.run(_run(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), lambda line: print(line, flush=True)))
