"""What is at addresses of a cluster's second family, while its API server cannot say. Time is the test's."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from discovery.kubernetes import second
from discovery.kubernetes.access import Access, Gone
from discovery.kubernetes.lists import SERVICE_NAME, SERVICES, SLICES
from discovery.kubernetes.second import API_SERVICE, FAILED_S, SERVES_S, SecondFamily
from discovery.registry import Away, Denied

FAMILIES = ["IPv4", "IPv6"]
WEB = {
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {
        "clusterIP": "192.0.2.1",
        "clusterIPs": ["192.0.2.1", "2001:db8::1"],
        "ipFamilies": FAMILIES,
        "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
    },
}
SLICE = {
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {SERVICE_NAME: "web"}},
    "addressType": "IPv6",
    "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    "endpoints": [{"addresses": ["2001:db8::77"]}, {"addresses": ["2001:db8::78"]}],
}


class Server(Access):
    """An API server of both families; `fails` is what becomes of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: Exception | None = None
        self.listed: list[str] = []

    async def get(self, path: str, query: Mapping[str, str], *, absent_is_none: bool = False) -> bytes | None:
        if path == API_SERVICE:
            return json.dumps({"metadata": {"name": "kubernetes"}, "spec": {"clusterIP": "192.0.2.9"}}).encode()
        self.listed.append(path)
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        lists: dict[str, tuple[str, Any]] = {
            SERVICES.path(): (SERVICES.list_kind, WEB),
            SLICES.path(): (SLICES.list_kind, SLICE),
        }
        kind, item = lists[path]
        return json.dumps({"kind": kind, "metadata": {"resourceVersion": "1"}, "items": [item]}).encode()


@pytest.mark.parametrize("why", [Away("no answer in time"), Denied("may not list services"), Gone(), "claims"])
def test_a_look_that_failed_is_not_had_again_by_all_who_wait(
    why: Exception | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    if isinstance(why, Exception):
        server.fails = why
    else:
        monkeypatch.setattr(second, "MAX_CLAIMS", 1)
    kind = type(why) if isinstance(why, Exception) else Away

    async def main() -> None:
        now, family = 1000.0, SecondFamily(server)
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)

        async def ask() -> list[Any]:
            places = [f"2001:db8::{number}" for number in range(20, 40)]
            return await asyncio.gather(*(family.locate(each, 8080) for each in places), return_exceptions=True)

        assert {type(each) for each in await ask()} == {kind}
        now += FAILED_S - 0.1
        answers = await ask()
        assert server.listed.count(SERVICES.path()) == 1
        assert {(type(each), str(each)) for each in answers} == {(kind, str(answers[0]))}
        assert len({id(each) for each in answers}) == len(answers)
        now += 0.2
        server.fails = None
        monkeypatch.setattr(second, "MAX_CLAIMS", 100)
        assert await ask() == [None] * 20
        assert server.listed.count(SERVICES.path()) == 2
        now += SERVES_S + 0.1
        server.fails = Away("again")
        assert {str(each) for each in await ask()} == {"again"}
        assert server.listed.count(SERVICES.path()) == 3

    asyncio.run(main())
