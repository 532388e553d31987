"""Who asks at the same time is served at the same time: what came while the last ones were signed is signed next, and
stored by one transaction (`Authority.issue_all`).

The authority, which may block and is synchronous, is called from threads that are here for that alone: as many as its
store has a use for, since a thread too many takes the interpreter from the loop and gets nothing done by it. Under
little load a request waits for nobody.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from meshd.api.control import Certificate
from meshd.api.names import Identity
from meshd.ca.authority import Authority
from meshd.ca.issuing import Wanted
from meshd.ca.requester import Requester

MAX_TOGETHER: Final = 32
"""More take no less time each, and all of them wait for the last."""

Answered = asyncio.Future[Certificate]


Asked = tuple[str, Identity, Requester, Answered]
"""A CSR, for whom, who asks, and who waits."""


class Desk:
    """Has `authority` sign. `close` waits for what is being signed."""

    def __init__(self, authority: Authority, clock: Callable[[], float]) -> None:
        self._authority, self._clock = authority, clock
        self._idle = authority.store.callers
        self._threads = ThreadPoolExecutor(self._idle, "sign")
        self._waiting: deque[Asked] = deque()
        self._is_called = False

    async def issue(self, csr_pem: str, identity: Identity, requester: Requester) -> Certificate:
        """As `Authority.issue`. For one who is gone before its turn nothing is signed."""
        loop = asyncio.get_running_loop()
        answered: Answered = loop.create_future()
        self._waiting.append((csr_pem, identity, requester, answered))
        if not self._is_called:
            self._is_called = True
            loop.call_soon(self._call)  # and not at once: others may be about to come in the same turn of the loop
        return await answered

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)

    def _call(self) -> None:
        """Have those signed whose turn it is."""
        self._is_called = False
        loop = asyncio.get_running_loop()
        while self._idle and (batch := self._next()):
            self._idle -= 1
            now = self._clock()
            wanted = [Wanted(csr_pem, identity, now, requester) for csr_pem, identity, requester, _ in batch]
            signed = loop.run_in_executor(self._threads, self._authority.issue_all, wanted)
            signed.add_done_callback(partial(self._answer, [answered for *_, answered in batch]))

    def _next(self) -> list[Asked]:
        """All who wait, or one thread's share of them."""
        batch: list[Asked] = []
        share = min(-(-len(self._waiting) // self._idle), MAX_TOGETHER)
        while self._waiting and len(batch) < share:
            one = self._waiting.popleft()
            if not one[-1].done():
                batch.append(one)
        return batch

    def _answer(self, asked: Sequence[Answered], signed: asyncio.Future[list[Certificate | Exception]]) -> None:
        self._idle += 1
        self._call()
        error = signed.exception()
        answers = signed.result() if error is None else [error] * len(asked)
        for answered, answer in zip(asked, answers, strict=True):
            if answered.done():  # who asked has gone meanwhile
                continue
            if isinstance(answer, BaseException):
                answered.set_exception(answer)
            else:
                answered.set_result(answer)
