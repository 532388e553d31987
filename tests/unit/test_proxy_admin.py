"""Who may end the proxy at its admin port."""

import asyncio

import pytest

from proxy.admin import Admin
from proxy.sweep import Sweep
from tests.support import aio


@pytest.mark.parametrize(
    ("host", "status", "ends"),
    [
        ("127.0.0.1", "200", True),
        ("127.8.8.8", "200", True),
        ("::1", "200", True),
        ("10.0.0.7", "403", False),
        ("fd00::7", "403", False),
        ("", "403", False),
    ],
)
def test_a_process_on_loopback_and_nobody_else(host: str, status: str, ends: bool) -> None:
    async def main() -> None:
        ended: list[bool] = []
        admin = Admin(tuple, lambda take: take(b""), lambda _, take: take(b""), Sweep(), lambda: ended.append(True))
        assert admin.told("/shutdown", host).status.startswith(status)
        assert ended == []  # not before it has been answered
        await asyncio.sleep(0)
        assert ended == [True] * ends
        assert admin.told("/ready", "127.0.0.1").status.startswith("405")

    aio.run(main())
