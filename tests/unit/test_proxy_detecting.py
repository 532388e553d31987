"""A connection whose protocol is not known yet: who gets it, and how it ends."""

import asyncio
from time import monotonic

import pytest

from proxy.detect import DRAIN_S, TIMEOUT_S, Detected, Detecting
from proxy.sweep import Sweep
from tests.support.aio import run
from tests.support.wire import Wire


class Listener:
    def __init__(self, opaque: bool, timeout_s: float = TIMEOUT_S) -> None:
        self.sweep = Sweep()
        self.found: list[tuple[Detected, bytes]] = []
        self.gone = 0
        self.detecting = Detecting(self.sweep, self._decided, self._gone, opaque=opaque, timeout_s=timeout_s)
        self.wire = Wire(self.detecting)

    def _decided(self, transport: asyncio.Transport, found: Detected, data: bytes) -> None:
        self.found.append((found, data))
        transport.set_protocol(asyncio.Protocol())

    def _gone(self, _: Detecting) -> None:
        self.gone += 1

    def tick(self, after_s: float) -> None:
        for _ in range(Sweep.BUCKETS):
            self.sweep.tick(monotonic() + after_s)


@pytest.mark.parametrize(("opaque", "found"), [(True, "tcp"), (False, "http1")])
def test_a_caller_that_says_nothing_is_decided_when_its_time_is_over(opaque: bool, found: Detected) -> None:
    async def play() -> None:
        listener = Listener(opaque)
        listener.tick(TIMEOUT_S - 0.5)
        assert listener.found == []
        listener.tick(TIMEOUT_S + 0.5)
        assert listener.found == [(found, b"")]
        assert listener.gone == 1

    run(play())


def test_a_caller_that_ends_before_it_said_anything_may_be_waiting_for_the_server() -> None:
    async def play() -> None:
        silent, http, draining = Listener(True), Listener(False), Listener(True)
        draining.detecting.drain()
        for listener in (silent, http, draining):
            listener.wire.ends()
        assert [listener.found for listener in (silent, http, draining)] == [[("tcp", b"")], [], []]
        assert [listener.wire.is_closing() for listener in (http, draining)] == [True, True]

    run(play())


def test_how_long_is_waited_may_be_said() -> None:
    async def play() -> None:
        listener = Listener(True, 2.0)
        listener.tick(1.5)
        assert listener.found == []
        listener.tick(2.5)
        assert listener.found == [("tcp", b"")]

    run(play())


def test_a_drain_closes_what_says_nothing_and_hears_what_is_said() -> None:
    async def play() -> None:
        silent, speaking = Listener(True), Listener(True)
        for listener in (silent, speaking):
            listener.detecting.drain()
        speaking.wire.says(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        silent.tick(DRAIN_S + 0.5)
        silent.wire.settle()
        assert silent.wire.is_closing()
        assert silent.found == []
        assert speaking.found == [("http1", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")]
        assert (silent.gone, speaking.gone) == (1, 1)

    run(play())
