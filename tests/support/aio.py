"""Running asynchronous tests on the loop that the product runs on."""

import asyncio
import warnings
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], deadline_s: float = 30.0) -> T:
    """What `work` returns, run on a new uvloop that is closed afterwards.

    TimeoutError at the deadline. AssertionError when the loop was told of an error that no one awaited (in a protocol's
    callback, say): asyncio only logs these, and a test that passes over them tests nothing.
    """
    unseen: list[dict[str, Any]] = []

    async def main() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unseen.append(context))
        async with asyncio.timeout(deadline_s):
            return await work

    with warnings.catch_warnings(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        # What a failing test leaves open is warned of as the loop closes; raised there, the warning hangs uvloop.
        warnings.simplefilter("default", ResourceWarning)
        result = runner.run(main())
    if unseen:
        raise AssertionError(f"the loop saw {len(unseen)} errors that no one awaited: {unseen}") from next(
            (context["exception"] for context in unseen if "exception" in context), None
        )
    return result


async def output(*argv: str, stdin: bytes = b"") -> bytes:
    """What a program that succeeds prints."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate(stdin)
    assert process.returncode == 0, (argv, process.returncode, out[-1000:], err[-1000:])
    return out
