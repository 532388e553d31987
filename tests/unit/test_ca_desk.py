"""Who is served together at the desk, and what each of them is told. The authority waits to be let go on."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest

from meshd.api.control import Certificate
from meshd.ca.authority import Authority
from meshd.ca.desk import MAX_TOGETHER, Desk
from meshd.ca.issuing import Wanted
from meshd.ca.source import Refusal, Unreachable
from tests.support import aio
from tests.support.authorities import AGENT, WEB

NOW = 1_800_000_000.0


@dataclass
class Slow:
    """An authority, as far as a desk is concerned, with a store for so many `callers`."""

    callers: int = 1
    batches: list[list[str]] = field(default_factory=list)
    go_on: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    @property
    def store(self) -> "Slow":
        return self

    def issue_all(self, wanted: Sequence[Wanted]) -> list[Certificate | Exception]:
        asked = [each.csr_pem for each in wanted]
        self.batches.append(asked)
        assert self.go_on.acquire(timeout=30)
        return [Refusal("bad") if each == "bad" else Certificate(each, 0.0, wanted[0].now) for each in asked]

    async def came(self, batches: int) -> None:
        async with asyncio.timeout(30):
            while len(self.batches) < batches:
                await asyncio.sleep(0.001)


def desk(slow: Slow) -> Desk:
    return Desk(cast("Authority", slow), lambda: NOW)


def ask(at: Desk, csr_pem: str) -> "asyncio.Task[Certificate]":
    return asyncio.get_running_loop().create_task(at.issue(csr_pem, WEB, AGENT))


async def answers(asked: "Sequence[asyncio.Task[Certificate]]") -> list[str]:
    """The certificates, or what was raised."""
    found = await asyncio.gather(*asked, return_exceptions=True)
    return [each.chain_pem if isinstance(each, Certificate) else type(each).__name__ for each in found]


def test_who_comes_while_others_are_served_is_served_with_whoever_came_too() -> None:
    async def main() -> None:
        slow = Slow()
        at = desk(slow)
        first = ask(at, "1")
        await slow.came(1)
        others = [ask(at, text) for text in ("2", "bad", "4")]
        await asyncio.sleep(0)
        slow.go_on.release(2)
        assert await answers([first, *others]) == ["1", "2", "Refusal", "4"]
        assert slow.batches == [["1"], ["2", "bad", "4"]]
        await at.close()

    aio.run(main())


def test_those_of_one_turn_of_the_loop_are_served_together_and_not_without_bound() -> None:
    async def main() -> None:
        slow = Slow()
        slow.go_on.release(2)
        at = desk(slow)
        texts = [str(number) for number in range(MAX_TOGETHER + 1)]
        assert await answers([ask(at, text) for text in texts]) == texts
        assert [len(each) for each in slow.batches] == [MAX_TOGETHER, 1]
        await at.close()

    aio.run(main())


def test_where_calls_need_not_wait_for_each_other_each_thread_takes_its_share() -> None:
    async def main() -> None:
        slow = Slow(callers=3)
        at = desk(slow)
        asked = [ask(at, str(number)) for number in range(4)]
        await slow.came(3)
        slow.go_on.release(3)
        assert await answers(asked) == ["0", "1", "2", "3"]
        assert sorted(map(len, slow.batches)) == [1, 1, 2]
        await at.close()

    aio.run(main())


def test_for_who_is_gone_before_its_turn_nothing_is_signed() -> None:
    async def main() -> None:
        slow = Slow()
        at = desk(slow)
        first, gone, third = ask(at, "1"), ask(at, "2"), ask(at, "3")
        await slow.came(1)
        late = [ask(at, "4"), ask(at, "5")]
        await asyncio.sleep(0)
        first.cancel()
        late[0].cancel()
        await asyncio.sleep(0)
        slow.go_on.release(2)
        assert await answers([first, gone, third, *late]) == ["CancelledError", "2", "3", "CancelledError", "5"]
        assert slow.batches == [["1", "2", "3"], ["5"]]
        await at.close()

    aio.run(main())


@pytest.mark.parametrize("error", [ZeroDivisionError, Unreachable])
def test_a_failure_of_all_is_everyones(error: type[Exception]) -> None:
    class Failing(Slow):
        def issue_all(self, wanted: Sequence[Wanted]) -> list[Certificate | Exception]:
            raise error

    async def main() -> None:
        at = desk(Failing())
        assert await answers([ask(at, "1"), ask(at, "2")]) == [error.__name__] * 2
        await at.close()

    aio.run(main())
