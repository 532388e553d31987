"""Clocks that are apart in a cluster: what a real sidecar on such a node says, and whether it is served."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support import aio
from tests.support.controllers import control_plane
from tests.support.waiting import eventually

pytestmark = pytest.mark.peer("faketime")

WITHIN_S = 60.0


def off(seconds: int) -> dict[str, str]:
    """An environment in which it is so much later."""
    library = {"LD_PRELOAD": "/usr/$LIB/faketime/libfaketime.so.1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return library | {"FAKETIME": f"{seconds:+d}"}


@pytest.mark.parametrize(
    ("seconds", "said", "served"),
    [
        (-3600, "certificate is not yet valid: compare this node's clock with that of the controller's", False),
        (-30, ": certificate until ", True),  # within the minute that a certificate begins before it is made
        (3600, "s ahead of the CA's: set the clock", True),
        (90000, "certificate has expired: compare this node's clock with that of the controller's", False),
    ],
)
def test_a_node_whose_clock_is_wrong_is_told_so(seconds: int, said: str, served: bool, tmp_path: Path) -> None:
    async def main() -> None:
        async with control_plane(tmp_path) as plane, plane.controller() as controller:
            plane.pod("shop", "web-1", "web")
            environment = plane.environment("shop/web-1", "web", controller.server.address) | off(seconds)
            log = tmp_path / "proxy.log"
            async with sidecar(environment, log):
                await eventually(lambda: said in log.read_text(), "it is said", WITHIN_S)
                await eventually(lambda: controller.core.sidecars.count == served, "as it can be", WITHIN_S)
            assert (seconds == -30) == ("clock" not in log.read_text())

    aio.run(main())


@asynccontextmanager
async def sidecar(environment: dict[str, str], log: Path) -> AsyncIterator[None]:
    """The program, in that environment."""
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy.main", env=environment, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        child.kill()
        await child.wait()
