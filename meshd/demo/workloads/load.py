"""`load RATE SECONDS REPORT`: asks web for pages at a steady rate, writes what came of it, and waits to be ended.

It stays so that what its proxy counted can still be looked at. It is an open loop: requests are sent when they are due,
however long others take, so that a slow mesh shows as latency and not as fewer requests. With too many under way, those
that are due are put off, and never sent all at once afterwards.
"""

import asyncio
import random
import signal
import sys
import time
from array import array
from collections import Counter
from pathlib import Path

import msgspec
import uvloop
from aiohttp import ClientError, ClientSession, TCPConnector

from meshd.api.tasks import Tasks
from meshd.demo.report import Report, quantile
from meshd.demo.workloads.serving import CALL_TIMEOUT

MOST_UNDER_WAY = 64
MOST_REASONS = 10
ITEMS = 1000


class Load:
    """One run: `drive` it, then ask for its `report`."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self._tasks = Tasks("load")
        self._under_way = asyncio.Semaphore(MOST_UNDER_WAY)
        self._latencies_ms = array("d")
        self._failures: Counter[str] = Counter()
        self._taken_s = 0.0

    async def drive(self, rate: float, seconds: float, ended: asyncio.Event) -> None:
        """Send requests until the time is over or `ended`, then wait for the last answers."""
        start = due = time.monotonic()
        while not ended.is_set() and due < start + seconds:
            await asyncio.sleep(due - time.monotonic())
            await self._under_way.acquire()
            self._tasks.start(self._request(), "request")
            due = max(due + 1 / rate, time.monotonic() - 1 / rate)
        for _ in range(MOST_UNDER_WAY):
            await self._under_way.acquire()
        self._taken_s = time.monotonic() - start

    def report(self) -> Report:
        ordered = sorted(self._latencies_ms)
        failed = self._failures.total()
        return Report(
            requests=len(ordered) + failed,
            failures=failed,
            reasons=dict(self._failures.most_common(MOST_REASONS)),
            taken_s=self._taken_s,
            p50_ms=quantile(ordered, 0.5),
            p95_ms=quantile(ordered, 0.95),
            p99_ms=quantile(ordered, 0.99),
        )

    async def _request(self) -> None:
        started = time.perf_counter()
        try:
            item = random.randrange(ITEMS)  # noqa: S311 - which item is looked at is no secret
            async with self._session.get(f"http://web/items/{item}") as answer:
                text = await answer.text()
            if answer.status != 200:
                self._failures[f"{answer.status}: {text.strip()[:200]}"] += 1
            else:
                self._latencies_ms.append(1000 * (time.perf_counter() - started))
        except (ClientError, TimeoutError, OSError) as error:
            self._failures[repr(error)[:200]] += 1
        finally:
            self._under_way.release()


async def run(rate: float, seconds: float, report: Path) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, ended.set)
    async with ClientSession(
        trust_env=True, timeout=CALL_TIMEOUT, connector=TCPConnector(limit=MOST_UNDER_WAY)
    ) as session:
        load = Load(session)
        await load.drive(rate, seconds, ended)
    whole = report.with_suffix(".new")
    whole.write_bytes(msgspec.json.encode(load.report()))
    whole.replace(report)
    await ended.wait()


if __name__ == "__main__":
    uvloop.run(run(float(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])))
