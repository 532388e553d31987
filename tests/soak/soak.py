"""One soak: the world is started, callers call, chaos reigns; then all is quiet, and what is left open is counted."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final

import grpc

from meshd.api.tasks import Tasks
from tests.soak import calls, http1, http2, opaque
from tests.soak.chaos import Chaos
from tests.soak.http1 import Caller
from tests.soak.ledger import Ledger
from tests.soak.verdict import HELD_UP_S, LEAST_FOR_MEMORY_S, Damage, Memory, memory
from tests.soak.world import ENDPOINTS, Process, Series, SoakFailed, World, admin_page, counted

WARM_UP_SHARE: Final = 1 / 3
"""Of a run, before memory is judged: with bodies of 1 MB it takes a heap ten minutes to have had its worst moment."""
SAMPLE_S: Final = 2.0
TICK_S: Final = 0.1
FINISH_WITHIN_S: Final = 100.0
QUIET_WITHIN_S: Final = 60.0
IDLE_WITHIN_S: Final = 80.0
"""Connections between proxies are kept for 60 s after their last request."""
IDLE_FROM_S: Final = 300.0
"""A run shorter than this does not wait for that."""


@dataclass
class Survivor:
    """A proxy that lived through it all: (s since the start, resident bytes) again and again; its descriptors before
    there was traffic, when the last caller had gone (less its connections), and when nothing was kept any more."""

    name: str
    descriptors_before: int
    samples: list[tuple[float, int]] = field(default_factory=list)
    descriptors_after: int = 0
    connections_after: int = 0
    descriptors_idle: int = 0
    unanswered: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    cpu_s: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)

    def take(self, series: Series, services: dict[str, str]) -> None:
        """What its metrics say of requests and errors; `services` are named by the application's port on the way in."""
        for name, labels, value in series:
            where = labels.get("dst_service") or services.get(labels.get("target_port", ""), "")
            if name == "request_total":
                self.requests += round(value)
                self.unanswered[where] = self.unanswered.get(where, 0) + round(value)
            elif name == "response_total":
                self.unanswered[where] = self.unanswered.get(where, 0) - round(value)
            elif name.endswith("_errors_total"):
                self.errors[f"{name.removesuffix('_errors_total')} {labels['error']}"] = round(value)

    def memory(self) -> Memory | None:
        """None where the run was too short to say."""
        end = self.samples[-1][0]
        return memory(self.samples, end * WARM_UP_SHARE) if end >= LEAST_FOR_MEMORY_S else None


@dataclass
class Run:
    """What came of it. `held`: when the machine held it up (from, to)."""

    duration_s: float
    seed: int
    ledger: Ledger
    held: list[tuple[float, float]]
    damage: list[Damage]
    events: dict[str, int]
    survivors: list[Survivor]
    complaints: list[str]


class Soak:
    """See the module. `tell` gets a line of progress now and then."""

    def __init__(self, directory: Path, duration_s: float, seed: int, tell: Callable[[str], None]) -> None:
        self._duration_s = duration_s
        self._seed = seed
        self._tell = tell
        self._chance = random.Random(seed)
        self._ledger = Ledger()
        self.world = World(directory, self._chance)
        self._tasks = Tasks("soak")
        self._ending = asyncio.Event()
        self._survivors: list[Survivor] = []
        self._held: list[tuple[float, float]] = []
        self._began = 0.0

    async def run(self) -> Run:
        """Returns when all is over. SoakFailed; the processes are the caller's to end (`world.kill`)."""
        await self.world.start()
        self._survivors = [Survivor(name, process.descriptors()) for name, (process, _) in self.world.survivors.items()]
        self._began = monotonic()
        chaos = Chaos(self.world, random.Random(self._seed + 1), max(1.5, min(8.0, self._duration_s / 12)))
        watching = self._tasks.start(self._watch(chaos), "watch")
        calling = [self._tasks.start(work, name) for name, work in self._callers()]
        damaging = self._tasks.start(chaos.run(), "chaos")
        ticking = self._tasks.start(self._tick(), "tick")
        everything = [watching, ticking, damaging, *calling]
        try:
            done, _ = await asyncio.wait(everything, timeout=self._duration_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # nothing ends by itself but with an error
                raise SoakFailed(f"{task.get_name()} ended too soon")
            self._ending.set()
            self._tell("ending: callers finish what they have begun")
            await self._over(calling)
        finally:
            await self._tasks.cancel()
        await self._repair()
        for survivor, (process, admin) in zip(self._survivors, self.world.survivors.values(), strict=True):
            await self._look_after(survivor, process, admin)
        return Run(
            self._duration_s, self._seed, self._ledger, self._held, chaos.done, dict(chaos.counts), self._survivors,
            self.world.complaints(),
        )  # fmt: skip

    async def _over(self, calling: "list[asyncio.Task[None]]") -> None:
        _, left = await asyncio.wait(calling, timeout=FINISH_WITHIN_S)
        if left:
            raise SoakFailed(f"callers that do not end: {', '.join(sorted(task.get_name() for task in left))}")
        for task in calling:
            task.result()

    async def _repair(self) -> None:
        """What chaos left ended is started again: the survivors are looked at with everybody there."""
        for process in self.world.processes():
            if not process.expected or process.running is None or process.running.poll() is not None:
                await process.start()

    # --- the traffic

    def _callers(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        upstreams, ledger = self.world.upstreams, self._ledger
        api, proxied = upstreams["api"], self.world.outbound
        work: list[tuple[str, Coroutine[Any, Any, None]]] = []

        def caller(
            name: str, rate: float, one: Callable[[Caller, random.Random], Awaitable[None]], base: str = ""
        ) -> None:
            chance = self._own_chance()
            client = Caller(proxied if base else api, ledger, chance, base)
            work.append((name, self._again(rate, chance, lambda: one(client, chance), client.close)))

        def others(name: str, rate: float, one: Callable[[random.Random], Awaitable[None]]) -> None:
            chance = self._own_chance()
            work.append((name, self._again(rate, chance, lambda: one(chance))))

        for _ in range(4):
            caller("GET", 8.0, http1.small_gets)
            others("events", 2.0, lambda chance: http1.events(api, ledger, chance))
            others("HTTP/2", 1.0, lambda chance: http2.conversation(api, ledger, chance))
        for _ in range(2):
            caller("GET by the forward proxy", 4.0, http1.small_gets, "http://api")
            caller("downloads", 2.0, http1.downloads)
            caller("POST", 4.0, http1.posts)
            caller("PUT", 2.0, http1.puts)
            caller("chunked", 2.0, http1.chunked_uploads)
            others("tunnel", 2.0, lambda chance: opaque.echo("tunnel", proxied, ledger, chance))
            others("echo", 2.0, lambda chance: opaque.echo("echo", upstreams["echo"], ledger, chance))
            others("chat", 2.0, lambda chance: opaque.chat(upstreams["chat"], ledger, chance))
        others("hang-ups", 2.0, lambda chance: http1.hang_ups(upstreams["quits"], ledger, chance))
        others("resets", 0.3, lambda chance: http2.resets(upstreams["quits"], ledger, chance))
        others("cancels", 0.3, lambda chance: calls.cancels(upstreams["calls"], ledger, chance))
        for kind, rate in {"gRPC unary": 8.0, "gRPC down": 2.0, "gRPC up": 1.0, "gRPC both": 2.0}.items():
            work.append((kind, self._calls(kind, rate)))
        return work

    def _own_chance(self) -> random.Random:
        return random.Random(self._chance.random())

    async def _again(
        self,
        rate: float,
        chance: random.Random,
        one: Callable[[], Awaitable[None]],
        last: Callable[[], None] = lambda: None,
    ) -> None:
        """One operation after another, `rate` a second at most, on the average."""
        while not self._ending.is_set():
            await one()
            await asyncio.sleep(chance.expovariate(rate))
        last()

    async def _calls(self, kind: str, rate: float) -> None:
        """Calls of a kind on a channel of their own, which is a connection kept for long."""
        chance = self._own_chance()
        address = f"127.0.0.1:{self.world.upstreams['calls']}"
        while not self._ending.is_set():
            async with grpc.aio.insecure_channel(address, options=calls.OPTIONS) as channel:
                for _ in range(chance.randrange(10, 400)):
                    if self._ending.is_set():
                        break
                    await asyncio.gather(
                        *(calls.call(channel, kind, self._ledger, chance) for _ in range(chance.randrange(1, 4)))
                    )
                    await asyncio.sleep(chance.expovariate(rate))

    # --- looking on

    async def _watch(self, chaos: Chaos) -> None:
        told = self._began
        while True:
            self.world.check()
            for survivor, (process, _) in zip(self._survivors, self.world.survivors.values(), strict=True):
                survivor.samples.append((monotonic() - self._began, process.resident_bytes()))
            if monotonic() - told > max(5.0, min(60.0, self._duration_s / 20)):
                told = monotonic()
                done, failed = self._ledger.done.total(), len(self._ledger.troubles)
                sizes = ", ".join(f"{one.name} {one.samples[-1][1] / 2**20:.1f} MB" for one in self._survivors)
                events = chaos.counts.total()
                self._tell(f"{told - self._began:6.0f} s: {done} done, {failed} failed, {events} events; {sizes}")
            await asyncio.sleep(SAMPLE_S)

    async def _tick(self) -> None:
        """See when we are held up."""
        while True:
            due = monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            if monotonic() - due > HELD_UP_S:
                self._held.append((due - TICK_S, monotonic()))

    async def _look_after(self, survivor: Survivor, process: Process, admin: int) -> None:
        """What the survivor keeps when all callers have gone."""

        def look() -> Series:
            return counted(admin_page(admin, "/metrics"))

        def opened(series: Series, peer: str) -> int:
            found = [(labels, value) for name, labels, value in series if name == "tcp_open_connections"]
            return round(sum(value for labels, value in found if peer in (labels["peer"], "")))

        steady = self.world.endpoints[ENDPOINTS[0]].ports
        services = {str(port): name for name, port in steady.items()}
        deadline = monotonic() + QUIET_WITHIN_S
        web = survivor.name == "web"
        while True:
            series = look()
            survivor.connections_after = opened(series, "src") if web else 0
            survivor.descriptors_after = process.descriptors() - opened(series, "")
            quiet = survivor.connections_after == 0 and survivor.descriptors_after <= survivor.descriptors_before
            if quiet or monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        survivor.take(series, services)
        survivor.cpu_s = process.cpu_s()
        deadline = monotonic() + (IDLE_WITHIN_S if self._duration_s >= IDLE_FROM_S else 0.0)
        while (descriptors := process.descriptors()) > survivor.descriptors_before and monotonic() < deadline:
            await asyncio.sleep(0.5)
        survivor.descriptors_idle = descriptors
