"""Servers and clients of what is not HTTP, through one proxy and through two: Redis, PostgreSQL, MariaDB, SMTP, TLS."""

import asyncio
import smtplib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshd.api.detection import Detection
from meshd.api.documents import Upstream, WorkloadPort
from meshd.api.endpoints import Endpoint
from proxy.static import StaticResolver
from tests.support import daemons
from tests.support.aio import output, run
from tests.support.certificates import Root, identity
from tests.support.http import Client, Request, ask, origin
from tests.support.meshes import Node, running, service
from tests.support.peers import path
from tests.support.ports import free_port
from tests.support.waiting import eventually

PATHS = pytest.mark.parametrize("meshed", [False, True], ids=["one proxy", "two proxies"])

Calls = Callable[[int], Awaitable[None]]

PATIENT = Detection(timeout_s=300.0)
"""Who waits for this finds that its client has given up."""


class World:
    """`web` calls the service db at `port` through the upstream `listen`; the application listens at `application`."""

    def __init__(self, application: int, port: int, meshed: bool = True, detection: Detection | None = None) -> None:
        detection = detection or PATIENT
        root = Root()
        self.listen = free_port()
        self.db = Node("db", root, root.held(identity("db")), (WorkloadPort(application),), detection=detection)
        endpoint = self.db.endpoint(application) if meshed else Endpoint("127.0.0.1", application)
        self.web = Node(
            "web",
            root,
            root.held(identity("web")),
            upstreams=(Upstream("db", f"127.0.0.1:{self.listen}"),),
            resolver=StaticResolver(service("db", endpoint, port=port)),
            detection=detection,
        )
        self.nodes = (self.db, self.web) if meshed else (self.web,)

    def open(self) -> int:
        """Connections that carry opaque bytes."""
        return sum(each.open for node in self.nodes for each in node.proxy.stats.tcp_series if each.relays)


def before(world: World, calls: Calls) -> None:
    """Do `calls`, to the port of the upstream."""

    async def conversation() -> None:
        async with running(*world.nodes):
            await calls(world.listen)
            await eventually(lambda: not world.open(), "nothing is left open")

    run(conversation())


# --- Redis: the client speaks first, many requests at a time, and the server when it likes


@pytest.fixture(scope="module")
def redis() -> Iterator[int]:
    with daemons.redis() as port:
        yield port


@pytest.mark.peer("redis-server", "redis-cli")
@PATHS
def test_redis_pipelines(redis: int, meshed: bool) -> None:
    requests = b"".join(b"*3\r\n$3\r\nSET\r\n$5\r\n%05d\r\n$1000\r\n%b\r\n" % (n, b"x" * 1000) for n in range(5000))

    async def calls(port: int) -> None:
        cli = (path("redis-cli"), "-p", str(port))
        await output(*cli, "flushall")
        assert b"errors: 0, replies: 5000" in await output(*cli, "--pipe", stdin=requests)
        assert await output(*cli, "dbsize") == b"5000\n"
        assert await output(*cli, "get", "04999") == b"x" * 1000 + b"\n"

    before(World(redis, 80, meshed), calls)


@pytest.mark.peer("redis-server", "redis-cli")
@PATHS
def test_redis_publishes_and_a_subscriber_hears(redis: int, meshed: bool) -> None:
    async def calls(port: int) -> None:
        cli = (path("redis-cli"), "-p", str(port))
        process = await asyncio.create_subprocess_exec(
            *cli, "--csv", "subscribe", "news", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            while (line := await process.stdout.readline()).startswith(b"Reading"):
                pass
            assert line == b'"subscribe","news",1\n'
            for number in range(3):
                assert await output(*cli, "publish", "news", str(number)) == b"1\n"
                assert await process.stdout.readline() == b'"message","news","%d"\n' % number
        finally:
            process.kill()
            await process.wait()

    before(World(redis, 6379, meshed), calls)


# --- PostgreSQL: TLS that begins in the midst of a conversation


@pytest.fixture(scope="module")
def postgres() -> Iterator[tuple[int, Path]]:
    with daemons.postgres("db.example") as found:
        yield found


@pytest.mark.peer("postgres", "initdb", "psql")
@pytest.mark.parametrize("number", [5432, 80], ids=["by number", "by first bytes"])
@PATHS
def test_postgresql_with_tls_and_without(postgres: tuple[int, Path], meshed: bool, number: int) -> None:
    application, root = postgres

    async def calls(port: int) -> None:
        async def ask_psql(sql: str, *options: str) -> str:
            place = f"hostaddr=127.0.0.1 host=db.example port={port} user=postgres dbname=postgres connect_timeout=60"
            return (await output(path("psql"), " ".join((place, *options)), "-XAtc", sql)).decode().strip()

        secured = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
        large = "select md5(string_agg(md5(n::text), '')) from generate_series(1, 100000) n"
        assert await ask_psql(secured, "sslmode=disable") == "f"
        assert await ask_psql(secured, "sslmode=require") == "t"
        verified = ("sslmode=verify-full", f"sslrootcert={root}")
        assert await ask_psql(secured, *verified) == "t"
        lines = (await ask_psql("select repeat('x', 1000) from generate_series(1, 5000)", *verified)).splitlines()
        assert lines == ["x" * 1000] * 5000
        assert len(await ask_psql(large, "sslmode=disable")) == 32

    before(World(application, number, meshed), calls)


# --- MariaDB and SMTP: the server speaks first


@pytest.fixture(scope="module")
def mariadb() -> Iterator[int]:
    with daemons.mariadb() as port:
        yield port


@pytest.mark.peer("mariadbd", "mariadb")
@pytest.mark.parametrize("known", [True, False], ids=["by number", "by silence"])
@PATHS
def test_mariadb_speaks_first(mariadb: int, meshed: bool, known: bool) -> None:
    """By its number it does at once, of which the client's patience is the proof; where silence tells, after it."""
    detection = PATIENT if known else Detection((), 0.1)

    async def calls(port: int) -> None:
        argv = (path("mariadb"), "--no-defaults", "--protocol=tcp", "-h127.0.0.1", f"-P{port}", "--connect-timeout=60")
        found = await output(*argv, "-Ne", "select 6 * 7; select repeat('x', 2000000)")
        assert found == b"42\n" + b"x" * 2_000_000 + b"\n"

    before(World(mariadb, 3306 if known else 80, meshed, detection), calls)


@asynccontextmanager
async def mail() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server of SMTP (RFC 5321) that takes every message, and the messages."""
    taken: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        while line := await reader.readline():
            if line.upper() == b"DATA\r\n":
                writer.write(b"354 go on\r\n")
                taken.append(await reader.readuntil(b"\r\n.\r\n"))
            writer.write(b"221 bye\r\n" if line.upper() == b"QUIT\r\n" else b"250 well\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=4 << 20)
    yield server.sockets[0].getsockname()[1], taken
    server.close()


@PATHS
def test_mail_is_delivered(meshed: bool) -> None:
    body = "GET / HTTP/1.1\r\n" + "x" * 100_000

    def deliver(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, local_hostname="web.example", timeout=60.0) as client:
            for number in range(3):
                client.sendmail("web@example", ["db@example"], f"Subject: {number}\r\n\r\n{body}")

    async def conversation() -> None:
        async with mail() as (application, taken):
            world = World(application, 587, meshed)
            async with running(*world.nodes):
                await asyncio.to_thread(deliver, world.listen)
            assert [message.splitlines()[0] for message in taken] == [b"Subject: 0", b"Subject: 1", b"Subject: 2"]

    run(conversation())


@PATHS
def test_a_caller_that_ends_its_side_at_once_gets_the_banner(meshed: bool) -> None:
    """No number tells here, and no time is waited: nothing more can come that would."""

    async def conversation() -> None:
        async with mail() as (application, _):
            world = World(application, 80, meshed)
            async with running(*world.nodes):
                reader, writer = await asyncio.open_connection("127.0.0.1", world.listen)
                writer.write_eof()
                async with asyncio.timeout(60.0):
                    assert await reader.read() == b"220 mail.example ESMTP\r\n"
                writer.close()

    run(conversation())


# --- HTTP that is late


def test_a_connection_that_was_opened_long_before_its_first_request_is_http_all_the_same() -> None:
    """Between the proxies it would be refused as opaque bytes; and the application is to know who calls."""

    async def who(request: Request) -> bytes:
        return b"".join(request.values(b"l5d-client-id"))

    async def conversation() -> None:
        async with origin(who) as application:
            world = World(application.port, 80, detection=Detection((), 0.1))
            async with running(*world.nodes):
                client = await Client.connect(world.listen)
                await eventually(lambda: world.open() == 4, "it is opaque, to the application")
                for _ in range(2):
                    answer = await client.ask("GET", "/", [("l5d-client-id", "somebody else")])
                    assert (answer.status, answer.body) == (200, identity("web").encode())
                    await eventually(lambda: not world.open(), "the relay is gone")
                client.close()

    run(conversation())


# --- TLS of the application's own


@pytest.mark.peer("openssl")
def test_tls_passes_through_and_its_server_name_is_in_the_metrics() -> None:
    async def conversation(application: int, root: Path) -> None:
        world = World(application, 443)
        world.web.upstreams += (Upstream("db", f"127.0.0.1:{free_port()}", "tcp"),)
        for node in world.nodes:
            node.admin = f"127.0.0.1:{free_port()}"
        async with running(*world.nodes):
            ways = {
                "auto.example": ("-connect", world.web.upstreams[0].listen),
                "tcp.example": ("-connect", world.web.upstreams[1].listen),
                "tunnel.example": ("-connect", "db:443", "-proxy", f"127.0.0.1:{world.web.outbound}"),
            }
            for name, way in ways.items():
                trusted = ("-CAfile", str(root), "-verify_return_error", "-verify_hostname", "db.example")
                argv = (path("openssl"), "s_client", *way, "-servername", name, *trusted, "-quiet")
                assert await output(*argv, stdin=b"hello\nCLOSE\n") == b"olleh\n"
            unnamed = (path("openssl"), "s_client", *ways["auto.example"], "-noservername", "-quiet")
            assert b"olleh\n" in await output(*unnamed, stdin=b"hello\nCLOSE\n")
            for node, labels in (
                (world.web, ('tls="opaque"',)),
                (world.db, ('tls="true"', f'client_id="{identity("web")}"')),
            ):
                lines = (await ask(int(node.admin.rpartition(":")[2]), target="/metrics")).body.decode().splitlines()
                for name in ways:
                    (found,) = [
                        line for line in lines if line.startswith("tcp_open_total{") and f'sni="{name}"' in line
                    ]
                    assert all(label in found for label in ('peer="src"', *labels)), found
                    assert found.endswith(" 1.0")
            opaque = [each for each in world.web.proxy.stats.tcp_series if each.labels.sni == ""]
            assert [each.opened for each in opaque] == [1]

    with daemons.reversing("db.example") as (application, root):
        run(conversation(application, root))
