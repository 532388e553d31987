"""Work that a connection has under way: so much at a time, and room again when it has ended, however it did."""

import asyncio
import logging

import pytest

from meshd.agent.registry import Unacceptable
from meshd.agent.under_way import UnderWay
from meshd.api.tasks import Tasks
from tests.support.aio import run


def test_there_is_no_more_than_the_bound_and_room_again_when_some_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "meshd.api.tasks")  # one fails, and its owner says so

    async def scenario() -> None:
        tasks, begun = Tasks("test"), []
        under_way = UnderWay(tasks, 3, "there are three already")
        ends = [asyncio.Event() for _ in range(4)]

        async def work(number: int) -> None:
            begun.append(number)
            await ends[number].wait()
            if number == 1:
                raise OSError("this one fails")

        for number in range(3):
            under_way.start(lambda number=number: work(number), "some")  # type: ignore[misc]
        with pytest.raises(Unacceptable, match="there are three already") as refused:
            under_way.start(lambda: work(3), "one too many")
        assert refused.value.retry
        await asyncio.sleep(0)
        assert begun == [0, 1, 2]
        ends[1].set()
        while True:
            try:
                under_way.start(lambda: work(3), "in the place of what failed")
                break
            except Unacceptable:
                await asyncio.sleep(0)
        await tasks.cancel()

    run(scenario())
