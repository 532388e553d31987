"""Who is let through: a peer without a certificate, or with the wrong one, gets no byte to the application."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import get_args

import pytest

from meshd.api.detection import Detection
from meshd.api.documents import Protocol
from meshd.api.names import WorkloadName
from proxy.http2.frames import PREFACE, headers
from proxy.mesh.header import TransportHeader, encode
from proxy.mesh.records import END, LAST, as_record
from proxy.mesh.tls import Held, context
from tests.support.aio import run
from tests.support.certificates import TRUST_DOMAIN, Root, identity
from tests.support.h2 import BLOCK, settings
from tests.support.http import Client, ask, origin
from tests.support.meshes import Mesh, mesh, running, service
from tests.support.waiting import eventually

SERVER_NAME = f"api.default.sa.{TRUST_DOMAIN}"


def client_context(held: Held, bundle_pem: str) -> ssl.SSLContext:
    workload = WorkloadName("default", "web")
    return context(False, workload, held, bundle_pem)


def web_context(world: Mesh) -> ssl.SSLContext:
    """That of a caller which is well."""
    return client_context(world.root.held(identity("web")), world.root.bundle_pem)


async def opened(world: Mesh) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of such a caller to the inbound port."""
    tls = web_context(world)
    return await asyncio.open_connection("127.0.0.1", world.api.inbound, ssl=tls, server_hostname=SERVER_NAME)


async def what_comes_back(
    world: Mesh, tls: ssl.SSLContext | None, server_name: str | None, data: bytes
) -> tuple[bytes, bool]:
    """(what the inbound port answers to data, whether it ended the connection), within a moment."""
    heard = b""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(60.0) as moment:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", world.api.inbound, ssl=tls, server_hostname=server_name
            )
            writer.write(data)
            while more := await reader.read(1000):
                heard += more
                if heard.endswith(END):
                    moment.reschedule(asyncio.get_running_loop().time() + 0.3)
    except TimeoutError:
        return heard, False
    except OSError:
        pass
    finally:
        if writer is not None:
            writer.transport.abort()
    return heard, True


def header(port: int, protocol: str = "tcp") -> bytes:
    return encode(TransportHeader(port, protocol))  # type: ignore[arg-type]


GET = b"GET / HTTP/1.1\r\nHost: api\r\nl5d-client-id: spiffe://mesh.example/ns/default/sa/admin\r\n\r\n"
REQUEST = b"".join(as_record(GET)) + END

WrongPeer = Callable[[Root], Held]


def test_a_relay_that_is_on_its_way_when_the_proxy_drains_is_taken_as_the_last() -> None:
    async def conversation() -> None:
        async with origin() as api:
            world = mesh(api.port, "tcp")
            async with running(world.api):
                reader, writer = await opened(world)
                writer.write(header(api.port) + REQUEST)
                assert b"HTTP/1.1 200" in await reader.readuntil(END)
                inbound = world.api.proxy._inbound
                assert inbound is not None
                inbound.drain()
                writer.write(header(api.port) + REQUEST)  # before the word of the drain is heard
                async with asyncio.timeout(60.0):
                    assert await reader.readexactly(4) == LAST
                    rest = await reader.read()
                assert b"HTTP/1.1 200" in rest
                assert rest.endswith(END)
                writer.close()

    run(conversation())


def test_a_relay_that_follows_one_which_was_under_way_when_the_proxy_drained_is_taken_as_the_last() -> None:
    async def conversation() -> None:
        async with origin() as api:
            world = mesh(api.port, "tcp")
            async with running(world.api):
                reader, writer = await opened(world)
                ends = GET.replace(b"Host", b"Connection: close\r\nHost")
                writer.write(header(api.port) + b"".join(as_record(ends)))
                assert b"HTTP/1.1 200" in await reader.readuntil(END)
                inbound = world.api.proxy._inbound
                assert inbound is not None
                inbound.drain()
                writer.write(END + header(api.port) + REQUEST)  # both sides have ended, and nobody has said more
                async with asyncio.timeout(60.0):
                    assert await reader.readexactly(4) == LAST
                    rest = await reader.read()
                assert b"HTTP/1.1 200" in rest
                assert rest.endswith(END)
                await eventually(lambda: inbound.open == 0, "a drain waits for nothing more", 20.0)
                writer.close()

    run(conversation())


def test_a_drain_waits_for_a_request_whose_handshake_is_under_way() -> None:
    async def conversation() -> None:
        async with origin() as api:
            world = mesh(api.port, "http1")
            async with running(world.api):
                tls = web_context(world)
                _, writer = await asyncio.open_connection("127.0.0.1", world.api.inbound)
                inbound = world.api.proxy._inbound
                assert inbound is not None
                await eventually(lambda: inbound.accepted == 1, "it is accepted")

                async def call() -> None:
                    await writer.start_tls(tls, server_hostname=SERVER_NAME)
                    writer.write(header(api.port, "h2") + PREFACE + settings() + headers(1, BLOCK, True))
                    await eventually(lambda: len(api.requests) == 1, "it is passed on")

                async def drain() -> None:
                    assert await world.api.proxy.drain(100.0) == 0
                    assert api.requests, "the drain was over before"

                async with asyncio.timeout(90.0):
                    await asyncio.gather(drain(), call())
                writer.close()

    run(conversation())


def test_a_drain_waits_for_no_handshake_that_does_not_go_on() -> None:
    async def conversation() -> None:
        async with origin() as api:
            world = mesh(api.port, "http1")
            async with running(world.api):
                _, writer = await asyncio.open_connection("127.0.0.1", world.api.inbound)
                inbound = world.api.proxy._inbound
                assert inbound is not None
                await eventually(lambda: inbound.accepted == 1, "it is accepted")
                async with asyncio.timeout(90.0):
                    assert await world.api.proxy.drain(100.0) == 0
                writer.close()

    run(conversation())


WRONG_PEERS: dict[str, WrongPeer] = {
    "another root": lambda root: Root().held(identity("web")),
    "another trust domain": lambda root: root.held(identity("web", "other.example")),
    "expired": lambda root: root.held(identity("web"), begins_s=-7200.0, ends_s=-3600.0),
    "not yet valid": lambda root: root.held(identity("web"), begins_s=3600.0, ends_s=7200.0),
    "no identity": lambda root: root.held(),
    "two identities": lambda root: root.held(identity("web"), identity("admin")),
    "not a SPIFFE ID": lambda root: root.held("https://mesh.example/ns/default/sa/web"),
    "an identity of another shape": lambda root: root.held(f"spiffe://{TRUST_DOMAIN}/web"),
}


def test_the_way_in_lets_the_right_peer_through() -> None:
    """The counter-example to those below: the same bytes, with the right certificate, are answered."""

    async def conversation() -> None:
        async with origin() as api:
            world = mesh(api.port, "tcp")
            async with running(world.api):
                tls = web_context(world)
                heard, ended = await what_comes_back(world, tls, SERVER_NAME, header(api.port) + REQUEST)
                assert b"HTTP/1.1 200" in heard
                assert heard.endswith(END)
                assert not ended  # another relay may follow

    run(conversation())


@pytest.mark.parametrize("wrong", WRONG_PEERS.values(), ids=WRONG_PEERS.keys())
def test_a_peer_with_the_wrong_certificate_gets_no_byte_through(wrong: WrongPeer) -> None:
    async def conversation() -> None:
        async with origin() as api:
            world = mesh(api.port)
            async with running(world.api):
                tls = client_context(wrong(world.root), world.root.bundle_pem)
                heard, ended = await what_comes_back(world, tls, SERVER_NAME, header(api.port) + REQUEST)
                assert (heard, ended) == (b"", True)
                assert api.connections == 0

    run(conversation())


@pytest.mark.parametrize("alpn", [[], ["h2"], ["http/1.1", "meshd/2"]])
def test_a_peer_that_speaks_another_protocol_gets_no_byte_through(alpn: list[str]) -> None:
    async def conversation() -> None:
        async with origin() as api:
            world = mesh(api.port)
            async with running(world.api):
                tls = web_context(world)
                tls.set_alpn_protocols(alpn)
                assert await what_comes_back(world, tls, SERVER_NAME, header(api.port) + REQUEST) == (b"", True)
                assert api.connections == 0

    run(conversation())


def test_a_peer_without_a_certificate_or_without_tls_gets_no_byte_through() -> None:
    async def conversation() -> None:
        async with origin() as api:
            world = mesh(api.port)
            async with running(world.api):
                bare = ssl.create_default_context(cadata=world.root.bundle_pem)
                bare.check_hostname = False
                bare.set_alpn_protocols(["meshd/1"])
                old = web_context(world)
                old.minimum_version = ssl.TLSVersion.TLSv1_2
                old.maximum_version = ssl.TLSVersion.TLSv1_2
                for tls in (bare, old):
                    assert await what_comes_back(world, tls, SERVER_NAME, header(api.port) + REQUEST) == (b"", True)
                heard, ended = await what_comes_back(world, None, None, GET)
                assert ended
                assert b"HTTP" not in heard
                assert api.connections == 0

    run(conversation())


@pytest.mark.parametrize("name", ["admin.default.sa.mesh.example", "api", "api.default.sa.other.example"])
def test_a_workload_that_is_not_here_is_not_answered_for(name: str) -> None:
    async def conversation() -> None:
        async with origin() as api:
            world = mesh(api.port)
            async with running(world.api):
                tls = web_context(world)
                assert await what_comes_back(world, tls, name, header(api.port) + REQUEST) == (b"", True)
                assert api.connections == 0

    run(conversation())


def test_only_declared_ports_are_reached_and_only_after_a_header() -> None:
    async def conversation() -> None:
        async with origin() as api, origin() as other:
            world = mesh(api.port)
            async with running(world.api):
                tls = web_context(world)
                for data in (header(other.port) + REQUEST, GET, b"\0\0\0\x02{}"):
                    assert await what_comes_back(world, tls, SERVER_NAME, data) == (b"", True)
                assert (api.connections, other.connections) == (0, 0)
                assert world.api.proxy.stats.errors[("inbound", "tcp", "unexpected")] == 3

    run(conversation())


@pytest.mark.parametrize("protocol", [each for each in get_args(Protocol) if each not in ("auto", "tcp")])
def test_a_port_that_is_http_takes_no_opaque_bytes(protocol: Protocol) -> None:
    """They could say of themselves who the caller is, since nobody would look."""

    async def conversation() -> None:
        async with origin() as api:
            world = mesh(api.port, protocol)
            async with running(world.api):
                tls = web_context(world)
                assert await what_comes_back(world, tls, SERVER_NAME, header(api.port) + REQUEST) == (b"", True)
                assert api.connections == 0

    run(conversation())


@pytest.mark.parametrize("pieces", [(GET,), (GET[:3], GET[3:]), (GET[:14], GET[14:15], GET[15:])])
def test_a_port_that_may_be_http_takes_no_request_as_opaque_bytes(pieces: tuple[bytes, ...]) -> None:
    """The same, where the port is `auto`: neither in one piece nor in several does the application get a head."""

    async def conversation() -> None:
        async with origin() as api:
            world = mesh(api.port)
            async with running(world.api):
                tls = web_context(world)
                records = b"".join(b"".join(as_record(piece)) for piece in pieces)
                assert await what_comes_back(world, tls, SERVER_NAME, header(api.port) + records) == (b"", True)
                assert api.requests == []
                assert world.api.proxy.stats.errors[("inbound", "tcp", "http as opaque")] == 1

    run(conversation())


def test_a_port_that_is_opaque_by_its_number_is_not_looked_into() -> None:
    """By the proxy's list, or by the workload's, which goes before it; and a new list is in force at once."""

    async def conversation() -> None:
        async with origin() as api:
            world = mesh(api.port)
            async with running(world.api):
                tls = web_context(world)
                for proxy_s, workload_s, opaque in (
                    ((api.port,), None, True),
                    ((api.port,), (), False),
                    ((), (api.port,), True),
                    ((), None, False),
                ):
                    world.api.detection, world.api.opaque_ports = Detection(proxy_s), workload_s
                    await world.api.apply()
                    heard, ended = await what_comes_back(world, tls, SERVER_NAME, header(api.port) + REQUEST)
                    assert (b"HTTP/1.1 200" in heard, ended) == (opaque, not opaque)

    run(conversation())


# --- the way out


SERVERS: dict[str, WrongPeer] = {
    "another workload": lambda root: root.held(identity("admin")),
    "another root": lambda root: Root().held(identity("api")),
    "another trust domain": lambda root: root.held(identity("api", "other.example")),
    "expired": lambda root: root.held(identity("api"), begins_s=-7200.0, ends_s=-3600.0),
}


async def asked_of_an_impostor(wrong: WrongPeer) -> tuple[int, bytes]:
    """(the status a caller gets, what an impostor hears) where a proxy with the wrong certificate stands for api's."""
    got = b""

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        with contextlib.suppress(OSError):
            got += await reader.read(1000)
        writer.close()

    world = mesh(80)
    held = wrong(world.root)
    workload = WorkloadName("default", "api")
    tls = context(True, workload, held, world.root.bundle_pem)
    server = await asyncio.start_server(impostor, "127.0.0.1", world.api.inbound, ssl=tls)
    async with running(world.web):
        answer = await ask(world.upstream, "POST", body=b"a secret")
    server.close()
    return answer.status, got


async def asked_of_a_proxy_that_speaks_plain_text() -> tuple[int, bytes]:
    """The same where there is no TLS at the other side, but the application itself."""
    async with origin() as api:
        world = mesh(api.port)
        world.web.resolver.replace(service("api", world.api.endpoint(api.port, inbound_port=api.port)))
        async with running(world.web):
            return (await ask(world.upstream)).status, b"".join(request.body for request in api.requests)


def test_a_server_that_is_not_who_it_must_be_is_sent_nothing() -> None:
    async def conversation() -> None:
        outcomes = await asyncio.gather(
            *(asked_of_an_impostor(wrong) for wrong in SERVERS.values()), asked_of_a_proxy_that_speaks_plain_text()
        )
        assert dict(zip((*SERVERS, "plain text"), outcomes, strict=True)) == dict.fromkeys(
            (*SERVERS, "plain text"), (503, b"")
        )

    run(conversation())


# --- certificates that change


def test_a_new_certificate_drops_no_connection_and_serves_the_next() -> None:
    async def conversation() -> None:
        async with origin() as api:
            world = mesh(api.port)
            async with running(world.api, world.web):
                ended = asyncio.Event()
                statuses: list[int] = []

                async def caller() -> None:
                    client = await Client.connect(world.upstream)
                    while not ended.is_set():
                        statuses.append((await client.ask("GET", "/")).status)
                    client.close()

                callers = asyncio.gather(*(caller() for _ in range(4)))
                for _ in range(5):
                    seen = len(statuses)
                    await eventually(lambda seen=seen: len(statuses) > seen + 20, "traffic")  # type: ignore[misc]
                    for node in (world.api, world.web):
                        node.held = world.root.held(identity(node.name))
                        await node.apply()
                ended.set()
                await callers
                assert statuses.count(200) == len(statuses)
                mesh_connections = [
                    each for each in world.api.proxy.stats.tcp_series if each.peer == "src" and each.labels.tls
                ]
                assert sum(each.opened for each in mesh_connections) == 1
                # A peer that trusts only what is new is served what is new.
                other = Root()
                for node in (world.api, world.web):
                    node.root, node.held = other, other.held(identity(node.name))
                    await node.apply()
                tls = client_context(other.held(identity("web")), other.bundle_pem)
                before = api.connections
                await what_comes_back(world, tls, SERVER_NAME, header(api.port) + b"".join(as_record(b"hello\n")) + END)
                assert api.connections == before + 1

    run(conversation())
