"""HTTP from one application to another through two proxies and real TLS."""

import asyncio

import h11
import pytest
from msgspec.structs import replace

from meshd.api.problems import Problem
from tests.support.aio import run
from tests.support.certificates import identity
from tests.support.http import Client, Origin, Request, ask, origin
from tests.support.meshes import Mesh, mesh, running, service, taken
from tests.support.ports import accepts, free_port
from tests.support.waiting import eventually, steady

BODY = bytes(range(256)) * 64


async def echo(request: Request) -> bytes:
    return request.body


def test_a_request_crosses_the_mesh_with_the_caller_s_identity() -> None:
    async def conversation() -> None:
        async with origin(echo) as api:
            world = mesh(api.port)
            async with running(world.api, world.web):
                for port, target in ((world.upstream, "/x?y=1"), (world.outbound, "http://api/x?y=1")):
                    answer = await ask(port, "POST", target, body=BODY)
                    assert (answer.status, answer.body) == (200, BODY)
                for request in api.requests:
                    assert (request.method, request.target) == (b"POST", b"/x?y=1")
                    assert request.values(b"l5d-client-id") == [identity("web").encode()]
                    assert request.values(b"host") == [b"api"]
                    assert request.values(b"transfer-encoding") == []
                assert all(series.labels.tls for series in world.api.proxy.stats.http_series if series.requests)
                assert world.api.proxy.stats.errors == {}

    run(conversation())


def test_what_a_caller_says_of_its_own_identity_is_not_believed() -> None:
    async def conversation() -> None:
        async with origin() as api:
            world = mesh(api.port)
            async with running(world.api, world.web):
                spoofed = [
                    ("L5d-Client-Id", identity("admin")),
                    ("l5d-client-id", "x"),
                    ("connection", "l5d-client-id"),
                ]
                await ask(world.upstream, headers=spoofed)
                (request,) = api.requests
                assert request.values(b"l5d-client-id") == [identity("web").encode()]

    run(conversation())


def test_requests_share_connections_and_many_are_under_way_at_once() -> None:
    async def conversation() -> None:
        barrier = asyncio.Barrier(32)

        async def together(request: Request) -> bytes:
            await barrier.wait()
            return request.target

        async with origin(together) as api:
            world = mesh(api.port)
            async with running(world.api, world.web):
                for _ in range(3):
                    targets = [f"/{number}" for number in range(32)]
                    answers = await asyncio.gather(*(ask(world.upstream, target=target) for target in targets))
                    assert [answer.body.decode() for answer in answers] == targets
                assert world.api.proxy.state(1).waiting_for == ()
                inbound = [series for series in world.api.proxy.stats.tcp_series if series.peer == "src"]
                assert sum(series.opened for series in inbound) == 1, "all of them on one connection"
                assert api.connections == 32

    run(conversation())


@pytest.mark.parametrize("route", ["upstream", "forward"])
def test_bodies_of_50_megabytes_both_ways_with_slow_readers(route: str) -> None:
    """A reader that stops holds its writer through both proxies: what is in between stays small."""
    size = 50 << 20

    async def conversation() -> None:
        slow = asyncio.Event()
        received = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal received
            connection = h11.Connection(h11.SERVER)
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await reader.read(1 << 16))
                elif isinstance(event, h11.Data):
                    received += len(event.data)
                    if received > 1 << 20:
                        await slow.wait()
                elif isinstance(event, h11.EndOfMessage):
                    break
            head = h11.Response(status_code=200, headers=[("content-length", str(size))])
            writer.write(connection.send(head) or b"")
            for _ in range(size >> 16):
                writer.write(b"y" * (1 << 16))
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 16)
        world = mesh(server.sockets[0].getsockname()[1])
        async with running(world.api, world.web):
            port = world.upstream if route == "upstream" else world.outbound
            target = "/" if route == "upstream" else "http://api/"
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
            writer.write(f"POST {target} HTTP/1.1\r\nHost: api\r\nContent-Length: {size}\r\n\r\n".encode())

            async def upload() -> None:
                for _ in range(size >> 16):
                    writer.write(b"x" * (1 << 16))
                    await writer.drain()

            uploading = asyncio.get_running_loop().create_task(upload())
            held = await steady(lambda: taken(world.web, "src", "read"), 1 << 20)
            assert held < 24 << 20, "the proxies and the kernel hold the rest back"
            slow.set()
            await uploading
            held = await steady(lambda: taken(world.api, "dst", "read"), 1 << 20)
            assert held < 24 << 20
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200")
            got = 0
            while got < size:
                got += len(await reader.read(1 << 20))
            assert (received, got) == (size, size)
            writer.close()
        server.close()

    run(conversation())


def test_an_application_that_is_down_is_503_within_seconds() -> None:
    async def conversation() -> None:
        world = mesh(free_port())
        async with running(world.api, world.web):
            loop = asyncio.get_running_loop()
            began = loop.time()
            answers = await asyncio.gather(
                ask(world.upstream),
                ask(world.upstream, "POST", body=b"x" * 10),
                ask(world.outbound, "GET", "http://api/"),
            )
            assert [answer.status for answer in answers] == [503, 503, 503]
            assert all(answer.values(b"l5d-proxy-error") for answer in answers)
            assert 0.5 < loop.time() - began < 25.0

    run(conversation())


def test_an_application_that_restarts_under_traffic_loses_no_request_that_had_not_been_sent() -> None:
    async def conversation() -> None:
        api = Origin(echo)
        await api.start()
        world = mesh(api.port)
        async with running(world.api, world.web):
            ended = asyncio.Event()
            statuses: list[int] = []

            async def caller() -> None:
                client = await Client.connect(world.upstream)
                while not ended.is_set():
                    statuses.append((await client.ask("GET", "/")).status)
                client.close()

            callers = asyncio.gather(*(caller() for _ in range(8)))
            await eventually(lambda: len(statuses) > 50, "traffic")
            for _ in range(3):
                await api.stop()
                await eventually(lambda: world.api.proxy.stats.errors or True, "it is down")
                await asyncio.sleep(0.3)  # down for so long; not waited for anything
                await api.start(api.port)
                seen = len(statuses)
                await eventually(lambda seen=seen: len(statuses) > seen + 50, "traffic again")  # type: ignore[misc]
            ended.set()
            await callers
        await api.stop()
        # What the application had begun when it was killed may be lost: at most the 8 under way, each time; they are
        # GETs, and their connections had been used, so that even these were asked again.
        assert statuses.count(200) == len(statuses)

    run(conversation())


def test_unknown_names_and_the_proxy_s_own_address() -> None:
    async def conversation() -> None:
        async with origin() as outside, origin() as api:
            world = mesh(api.port)
            async with running(world.api, world.web):
                away = await ask(world.outbound, target=f"http://127.0.0.1:{outside.port}/x")
                assert away.status == 200
                assert outside.requests[0].target == b"/x"
                assert outside.requests[0].values(b"l5d-client-id") == []
                itself = await ask(world.outbound, target=f"http://127.0.0.1:{world.outbound}/")
                assert itself.status in (503, 508)
                hosts = ("a..b", "x" * 64 + ".example", "no-such-host.invalid", "127.0.0.1:99999")
                for answer in await asyncio.gather(*(ask(world.outbound, target=f"http://{host}/") for host in hosts)):
                    assert answer.status == 503
                    assert answer.values(b"l5d-proxy-error")

    run(conversation())


@pytest.mark.parametrize("name", ["localhost", "127.1", "0x7f000001", "LOCALHOST"])
def test_a_request_for_the_proxy_by_another_name_does_not_go_round_in_circles(name: str) -> None:
    async def conversation() -> None:
        async with origin() as api:
            world = mesh(api.port)
            async with running(world.api, world.web):
                answer = await asyncio.wait_for(ask(world.outbound, target=f"http://{name}:{world.outbound}/"), 60.0)
                assert answer.status == (503 if name.lower() == "localhost" else 508)
                assert sum(series.opened for series in world.web.proxy.stats.tcp_series) < 5

    run(conversation())


def test_connect_makes_a_tunnel_to_a_service_of_the_mesh() -> None:
    async def conversation() -> None:
        async with origin(echo) as api:
            world = mesh(api.port)
            async with running(world.api, world.web):
                reader, writer = await asyncio.open_connection("127.0.0.1", world.outbound)
                writer.write(b"CONNECT api:80 HTTP/1.1\r\nHost: api:80\r\n\r\n")
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 OK\r\n\r\n"
                answer = await Client(reader, writer).ask("POST", "/", body=BODY)
                assert answer.body == BODY
                writer.close()

    run(conversation())


def test_two_endpoints_share_the_load_and_one_that_goes_away_is_avoided() -> None:
    async def conversation() -> None:
        async with origin() as one, origin() as other:
            world = mesh(one.port)
            world.api.ports = (*world.api.ports, *mesh(other.port).api.ports)
            world.web.resolver.replace(service("api", world.api.endpoint(one.port), world.api.endpoint(other.port)))
            async with running(world.api, world.web):
                client = await Client.connect(world.upstream)
                for _ in range(60):
                    assert (await client.ask("GET", "/")).status == 200
                assert one.requests
                assert other.requests
                await other.stop()
                for _ in range(20):
                    assert (await client.ask("GET", "/")).status == 200
                client.close()

    run(conversation())


def test_a_request_that_one_proxy_could_not_pass_on_is_asked_of_another() -> None:
    async def conversation() -> None:
        async with origin(echo) as api:
            world = mesh(api.port)
            down = mesh(free_port()).api
            down.root, down.held = world.root, world.root.held(identity("api"))
            world.web.resolver.replace(service("api", world.api.endpoint(api.port), down.endpoint(down.ports[0].port)))
            async with running(world.api, down, world.web):
                answers = await asyncio.gather(*(ask(world.upstream, "POST", body=b"%d" % n) for n in range(20)))
                assert [answer.status for answer in answers] == [200] * 20
                assert sorted(request.body for request in api.requests) == sorted(b"%d" % n for n in range(20))
                assert any(series.requests for series in down.proxy.stats.http_series), "it was asked too"

    run(conversation())


def test_services_change_under_way() -> None:
    async def conversation() -> None:
        async with origin() as one, origin() as other:
            world: Mesh = mesh(one.port)
            world.api.ports = (*world.api.ports, *mesh(other.port).api.ports)
            async with running(world.api, world.web):
                assert (await ask(world.upstream)).status == 200
                world.web.resolver.replace(service("api", world.api.endpoint(other.port)))
                assert (await ask(world.upstream)).status == 200
                world.web.resolver.replace({})
                assert (await ask(world.upstream)).status == 503
                assert (len(one.requests), len(other.requests)) == (1, 1)

    run(conversation())


def test_a_configuration_whose_bundle_is_none_changes_nothing() -> None:
    async def conversation() -> None:
        async with origin() as api:
            world = mesh(api.port)
            elsewhere = free_port()
            async with running(world.api, world.web):
                bad = replace(
                    world.web.configuration(),
                    trust_bundle_pem="no roots",
                    outbound=f"127.0.0.1:{elsewhere}",
                    workloads=(),
                )
                with pytest.raises(Problem, match="the trust bundle: no certificates"):
                    await world.web.proxy.apply(bad, world.web.resolver)
                assert not accepts(elsewhere)
                for port, target in ((world.upstream, "/"), (world.outbound, "http://api/")):
                    assert (await ask(port, "GET", target)).status == 200

    run(conversation())
