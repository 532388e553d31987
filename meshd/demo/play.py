"""The demo from beginning to end: set up, drive, look, sum up, take down."""

import asyncio
import signal
import tempfile
import time
from pathlib import Path

import msgspec

from meshd.api.control import Status
from meshd.api.problems import Problem
from meshd.client.sockets import SOCKET_NAME
from meshd.demo.report import LOAD, Report, serving
from meshd.demo.screen import Screen
from meshd.demo.stage import Stage

LOOK_EVERY_S = 0.5
LIVE_WINDOW_S = 10.0
MOST_WINDOW_S = 60.0
LAST_ANSWERS_S = 30.0
"""How much longer than asked for the load may take until it has reported."""

COUNTED_WITHIN_S = 5.0
"""Proxies tell the agent what they counted once a second."""

MOST_PATH_BYTES = 107
"""What fits into a Unix socket's address (unix(7))."""

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Problem):
    """A signal ended the demo, which has left nothing behind."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"ended by {signal.Signals(signum).name}")
        self.exit_status = 128 + signum


async def play(rate: float, seconds: float, screen: Screen) -> tuple[Report, Status]:
    """One run of the demo: the caller's account, and the mesh's. Interrupted by a signal; Problem when a part fails."""
    main = asyncio.current_task()
    assert main is not None
    signums: list[int] = []

    def end(signum: int) -> None:
        if not signums:  # once: what is taken down is not to be interrupted
            signums.append(signum)
            main.cancel()

    loop = asyncio.get_running_loop()
    for signum in ENDS:
        loop.add_signal_handler(signum, end, signum)
    try:
        with tempfile.TemporaryDirectory(prefix="meshd-demo-", dir=_place()) as directory:
            return await _play(Stage(Path(directory), screen.say), rate, seconds, screen)
    except asyncio.CancelledError:
        if not signums:
            raise
        raise Interrupted(signums[0]) from None


async def _play(stage: Stage, rate: float, seconds: float, screen: Screen) -> tuple[Report, Status]:
    try:
        await stage.start()
        screen.say(f"sending {rate:g} requests a second for {seconds:g} s: load calls web calls api calls store")
        report = await _drive(stage, rate, seconds, screen)
        status = await _counted(stage, report)
        screen.show(status, report.taken_s)
        return report, status
    finally:
        await stage.stop()


async def _drive(stage: Stage, rate: float, seconds: float, screen: Screen) -> Report:
    start = time.monotonic()
    file = stage.start_load(rate, seconds)
    while not file.exists():
        elapsed_s = time.monotonic() - start
        if elapsed_s > seconds + LAST_ANSWERS_S:
            raise Problem(f"the load did not end within {LAST_ANSWERS_S:g} s of its time")
        screen.show(await stage.status(min(LIVE_WINDOW_S, max(1.0, elapsed_s))), elapsed_s)
        await asyncio.sleep(LOOK_EVERY_S)
    return msgspec.json.decode(file.read_bytes(), type=Report)


async def _counted(stage: Stage, report: Report) -> Status:
    """The status once the proxies at both ends of load's requests have told of all of them; else the last one."""
    end = time.monotonic() + COUNTED_WITHIN_S
    window_s = min(MOST_WINDOW_S, max(1.0, report.taken_s))
    while True:
        status = await stage.status(window_s)
        served = [each.golden.requests for each in serving(status) if each.name == "web"]
        called = [each.golden.requests for each in status.edges if each.source.endswith(f"/{LOAD}")]
        if min(sum(served), sum(called)) >= report.requests or time.monotonic() > end:
            return status
        await asyncio.sleep(LOOK_EVERY_S / 5)


def _place() -> str | None:
    """A directory for temporary ones whose path leaves room for a socket's; None for the usual."""
    usual = Path(tempfile.gettempdir()) / "meshd-demo-12345678" / SOCKET_NAME
    return "/tmp" if len(bytes(usual)) > MOST_PATH_BYTES else None  # noqa: S108 - the directory in it is made safely
