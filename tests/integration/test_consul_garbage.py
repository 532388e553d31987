"""A Consul that is none, or not well: what it says that Consul would not is not believed, and the reason is told."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from discovery.backends import Place
from discovery.consul import client as consul_client
from discovery.consul.names import Key
from discovery.consul.registry import PublishingConsulRegistry
from discovery.consul.settings import ConsulDiscovery
from discovery.publish import Announcement
from discovery.registry import Away
from meshd.api.endpoints import Endpoint, ServiceName
from tests.support.aio import run
from tests.support.http import Request
from tests.support.reading import reading
from tests.support.waiting import eventually

GOOD = {"X-Consul-Index": "7", "X-Consul-KnownLeader": "true", "X-Consul-LastContact": "0"}
INSTANCE = {
    "Node": {"Node": "vm1", "Address": "192.0.2.1", "Meta": None},
    "Service": {"ID": "web", "Service": "web", "Address": "", "Port": 8080, "Meta": None, "Tags": None},
    "Checks": [{"Status": "passing"}],
}


def said(body: object, status: int = 200, **headers: str | None) -> bytes:
    """An answer; body as JSON, unless it is bytes. Headers are those of a good one, but for the given; None: none."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {**GOOD, **{f"X-Consul-{name}": value for name, value in headers.items()}}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    head = "\r\n".join([f"HTTP/1.1 {status} Said", *lines, f"Content-Length: {len(content)}"])
    return head.encode() + b"\r\n\r\n" + content


Answer = Callable[[Request], Awaitable[bytes]]


class Impostor:
    """An HTTP server that sends just what `answer` gives, and ends the connection. `requests` are those
    it was asked."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests: list[Request] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head, *fields = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
            headers = [(name.lower(), value.strip()) for name, _, value in (each.partition(b":") for each in fields)]
            method, target, _ = head.split(b" ")
            body = await reader.readexactly(int(dict(headers).get(b"content-length", b"0")))
            request = Request(method, target, headers, body)
            self.requests.append(request)
            writer.write(await self._answer(request))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def impostor(answer: bytes | Answer) -> AsyncIterator[Impostor]:
    """What says that to whoever asks."""

    async def always(_: Request) -> bytes:
        assert isinstance(answer, bytes)
        return answer

    made = Impostor(always if isinstance(answer, bytes) else answer)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()


@asynccontextmanager
async def believer(url: str, **settings: Any) -> AsyncIterator[PublishingConsulRegistry]:
    """A registry that takes what answers there for Consul."""
    given = ConsulDiscovery(url=url, **settings)
    registry = PublishingConsulRegistry(given, Place("consul", "mesh.example", "vm1", ""))
    try:
        yield registry
    finally:
        await registry.close()


def with_service(**fields: object) -> object:
    return [{**INSTANCE, "Service": {**INSTANCE["Service"], **fields}}]  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"\x15\x03\x01\x00\x02\x02\x28", "http|HTTP|Bad|status"),
        (said([INSTANCE])[:-5], "payload|Payload|closed"),
        (b"", "disconnected"),
        (said(b"<html>Sign in</html>"), "not an answer of Consul's"),
        (said(b""), "not an answer of Consul's"),
        (said(b"\xff\xfe"), "not an answer of Consul's"),
        (said(b"[" * 100_000), "not an answer of Consul's"),
        (said({"Services": {}}), "Expected `array`"),
        (said([None]), "Expected `object`"),
        (said([{}]), "missing required field `Node`"),
        (said([{**INSTANCE, "Node": None}]), "Expected `object`"),
        (said([{**INSTANCE, "Checks": [{"Status": "fine"}]}]), "Invalid enum value 'fine'"),
        (said([{**INSTANCE, "Checks": [{}]}]), "missing required field `Status`"),
        (said(with_service(Port="8080")), "Expected `int`"),
        (said(with_service(Port=8080.5)), "Expected `int`"),
        (said(with_service(Meta={"meshd-weight": 3})), "Expected `str`"),
        (said(with_service(Meta=[])), "Expected `object | null`"),
        (said(with_service(Tags="v2")), "Expected `array | null`"),
        (said([INSTANCE] * 20_001), "20001 entries, more than 20000"),
        (said([INSTANCE], Index=None), "without X-Consul-Index"),
        (said([INSTANCE], Index="-1"), "X-Consul-Index is '-1'"),
        (said([INSTANCE], Index="9" * 30), "X-Consul-Index is '999"),
        (said([INSTANCE], Index="seven"), "X-Consul-Index is 'seven'"),
        (said([INSTANCE], LastContact="soon"), "X-Consul-LastContact is 'soon'"),
        (said([INSTANCE], KnownLeader="false"), "no leader"),
        (said([INSTANCE], KnownLeader="maybe"), "no leader"),
        (said([], 200, **{"Results-Filtered-By-ACLs": "true"}), "service:read"),
        (said(b"rpc error: No cluster leader", 500), "No cluster leader' \\(status 500\\)"),
        (said(b"ACL not found", 403), "set consul.tokenFile"),
        (said(b"too many", 429), "consul.maxConnections"),
        (said(b"no such thing", 404), "status 404"),
        (said(b"", 204), "status 204"),
        (said([INSTANCE], 302), "status 302"),
        (b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "status 307"),
    ],
)
def test_what_is_not_an_answer_of_consuls_is_refused(answer: bytes, why: str) -> None:
    async def main() -> None:
        async with impostor(answer) as consul, believer(consul.url) as registry:
            with pytest.raises(Away, match=why) as away:
                await anext(registry.follow(Key("mesh", "web", "default")))
            assert consul.url in str(away.value)
            with pytest.raises(Away):
                await registry.probe()

    run(main())


@pytest.mark.parametrize("headers", [{}, {"KnownLeader": None, "LastContact": None}, {"Index": "0"}])
def test_a_good_answer_of_the_same_kind_is_believed(headers: dict[str, str | None]) -> None:
    """Or the refusals above would show nothing."""

    async def main() -> None:
        async with (
            impostor(said([INSTANCE], 200, **headers)) as consul,
            believer(consul.url) as registry,
            reading(registry, Key("mesh", "web", "default")) as read,
        ):
            await read.until(("192.0.2.1", 8080))
            assert read.aways == []

    run(main())


def test_an_answer_that_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consul_client, "MAX_ANSWER_BYTES", 1 << 20)
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    sent = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nTransfer-Encoding: chunked\r\n\r\n")
            while sent < 256 << 20:
                writer.write(chunk)
                sent += len(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(endless, "127.0.0.1", 0)
        async with believer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as registry:
            with pytest.raises(Away, match="larger than 1 MiB"):
                await anext(registry.follow(Key("mesh", "web", "default")))
        server.close()

    run(main())
    assert sent < 256 << 20


def test_an_answer_that_does_not_come_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consul_client, "WITHIN_S", 0.2)

    async def main() -> None:
        done = asyncio.Event()

        async def late(_: Request) -> bytes:
            await done.wait()
            return b""

        async with impostor(late) as consul, believer(consul.url) as registry:
            with pytest.raises(Away, match=r"no answer within 0\.2 s"):
                await anext(registry.follow(Key("mesh", "web", "default")))
            done.set()

    run(main())


def test_a_server_that_lags_behind_its_leader_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consul_client, "SETTLED_AFTER_S", 0.0)
    asked: list[str] = []

    async def lags(request: Request) -> bytes:
        asked.append(request.target.decode())
        if "stale" in asked[-1]:
            return said([INSTANCE], LastContact="60000")
        return said(with_service(Port=8081))

    async def main() -> None:
        async with (
            impostor(lags) as consul,
            believer(consul.url) as registry,
            reading(registry, Key("mesh", "web", "default")) as read,
        ):
            await read.until(("192.0.2.1", 8081))
            await eventually(lambda: len(asked) > 3, "it is asked again", 45.0)
        assert [("stale" in each, "consistent" in each, "index" in each) for each in asked[:4]] == [
            (True, False, False), (False, True, False), (True, False, True), (False, True, False),
        ]  # fmt: skip

    run(main())


def test_a_token_goes_to_consul_alone_and_in_a_header(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret-t0ken\n")

    async def main() -> None:
        async with impostor(said(b"no", 500)) as consul, believer(consul.url, token_file=str(file)) as registry:
            with pytest.raises(Away) as away:
                await registry.probe()
            (request,) = consul.requests
            assert request.values(b"x-consul-token") == [b"s3cret-t0ken"]
            assert request.values(b"accept-encoding") == [b"identity"]
            assert b"s3cret" not in request.target
            assert "s3cret" not in str(away.value)

    run(main())


def test_what_is_registered_goes_by_itself_when_it_is_left_alone() -> None:
    """Consul tells nobody after how long, so it is seen in what it is told."""

    async def main() -> None:
        async with impostor(said({})) as consul, believer(consul.url) as registry:
            endpoint = Endpoint("192.0.2.7", 8080, "spiffe://mesh.example/ns/default/sa/web", 4143)
            registry.publish((Announcement(ServiceName("web", "default", 8080), endpoint),))
            await eventually(lambda: len(consul.requests) > 1, "it is registered", 45.0)
            (check,) = json.loads(consul.requests[1].body)["checks"]
            assert (check["ttl"], check["DeregisterCriticalServiceAfter"]) == ("30s", "86400s")
            await registry.withdraw()

    run(main())
