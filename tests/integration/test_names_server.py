"""The name server at its sockets, asked by dig and by dnspython; and an agent's, as a program finds a service by it."""

import asyncio
import json
import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import dns.asyncquery
import dns.message
import dns.query
import dns.rdatatype
import pytest
from dns.rcode import Rcode

from meshd.agent.names import server as names_server
from meshd.agent.names import wiring
from meshd.agent.names.checking import checks
from meshd.agent.names.server import NameServer
from meshd.agent.names.settings import NamesSettings
from meshd.agent.settings_file import load_settings
from meshd.api.control import Destination, WatchDestination
from tests.integration.test_agent_process import Host
from tests.support import aio
from tests.support.control import ControlClient
from tests.support.names import Services
from tests.support.peers import path
from tests.support.ports import free_port
from tests.support.waiting import DEADLINE_S, eventually, wait_until

DOMAINS = NamesSettings().domains


@asynccontextmanager
async def serving(directory: Path, services: Services) -> AsyncIterator[NameServer]:
    server = NameServer(NamesSettings(listen="127.0.0.1:0"), DOMAINS, "prod.example", directory)
    await server.start(services.watch)
    assert not server.trouble
    try:
        yield server
    finally:
        await server.close()


async def ask(server: NameServer, name: str, kind: str = "A", *, tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    by = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await by(query, server.address.host, timeout=60.0, port=server.address.port)


async def dig(port: int, *words: str) -> str:
    argv = [path("dig"), "@127.0.0.1", "-p", str(port), "+tries=1", "+time=30", *words]
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    return (await process.communicate())[0].decode().strip()


def addresses(answer: dns.message.Message) -> list[str]:
    return [str(record) for each in answer.answer for record in each]


@pytest.mark.peer("dig")
def test_dig_gets_answers_by_udp_and_tcp(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, Services("api.shop.mesh")) as server:
            port = server.address.port
            v4 = await dig(port, "+short", "api.shop.mesh", "A")
            v6 = await dig(port, "+short", "api.shop.svc", "AAAA")
            assert server.virtual.owns(v4)
            assert server.virtual.owns(v6)
            assert await dig(port, "+short", "+tcp", "+noedns", "api.shop.mesh", "A") == v4
            assert await dig(port, "+short", "-x", v4) == await dig(port, "+short", "-x", v6) == "api.shop.mesh."
            nothing = await dig(port, "nobody.mesh")
            assert "status: NXDOMAIN" in nothing
            assert "flags: qr aa rd; QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 1" in nothing
            assert "status: REFUSED" in await dig(port, "example.com")
            assert server.answered == {"NOERROR": 5, "NXDOMAIN": 1, "REFUSED": 1}

    aio.run(check())


def test_addresses_outlast_the_server(tmp_path: Path) -> None:
    async def addresses_of(*hosts: str) -> list[list[str]]:
        async with serving(tmp_path, Services("web.default.mesh", "api.shop.mesh")) as server:
            return [addresses(await ask(server, host)) for host in hosts]

    first = aio.run(addresses_of("web.mesh", "api.shop.mesh"))
    file = tmp_path / "names.json"
    assert file.stat().st_mode & 0o777 == 0o600
    kept = json.loads(file.read_text())
    kept["names"][0][1] = "240.9.9.9"  # as if its own had been another's at the time
    file.write_text(json.dumps(kept))
    assert aio.run(addresses_of("web.mesh", "api.shop.mesh")) == [["240.9.9.9"], first[1]]
    file.write_text("{")
    assert aio.run(addresses_of("api.shop.mesh", "web.mesh")) == [first[1], first[0]]


def test_a_connection_takes_question_after_question_and_bounds_are_kept(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, Services("web.default.mesh")) as server:
            query = dns.message.make_query("web.mesh", "A").to_wire()
            framed = struct.pack("!H", len(query)) + query
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(framed * 3)
            for _ in range(3):
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                assert addresses(dns.message.from_wire(await reader.readexactly(length)))
            writer.write(struct.pack("!H", 5000))
            assert await reader.read() == b"", "a question that is too long ends it"
            writer.close()

            held = [await asyncio.open_connection(*server.address) for _ in range(names_server.MAX_CONNECTIONS)]
            reader, writer = await asyncio.open_connection(*server.address)
            with suppress(ConnectionError):
                writer.write(framed)
                assert await reader.read() == b"", "there are too many"
            writer.close()
            for _, each in held:
                each.close()
            async with asyncio.timeout(DEADLINE_S):
                while not await answers_by_tcp(server):
                    pass

    aio.run(check())


async def answers_by_tcp(server: NameServer) -> bool:
    try:
        return bool(addresses(await ask(server, "web.mesh", tcp=True)))
    except (OSError, EOFError):
        return False


def test_questions_that_wait_for_a_registry_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_server, "MAX_WAITING", 1)

    async def check() -> None:
        services = Services("web.default.mesh", "api.default.mesh")
        services.away |= {"web.default.mesh"}
        async with serving(tmp_path, services) as server:
            waiting = asyncio.gather(ask(server, "web.mesh"))
            await eventually(lambda: "web.default.mesh" in services.watching, "it is looked for")
            assert (await ask(server, "web.mesh")).rcode() == Rcode.SERVFAIL
            assert addresses(await ask(server, "api.mesh")), "who need not wait is answered"
            services.say("web.default.mesh")
            (answer,) = await waiting
            assert addresses(answer)

    aio.run_on_time(check)  # a question waits for two seconds


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    async def check() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            listen = f"127.0.0.1:{taken.getsockname()[1]}"
            server = NameServer(NamesSettings(listen=listen), DOMAINS, "prod.example", tmp_path)
            await server.start(Services().watch)
            assert server.trouble.startswith(f"{listen}: names are not answered: cannot listen: Address already in use")
            await server.close()

    aio.run(check())


def test_an_agent_leads_from_a_name_to_an_address_to_the_services_endpoints(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.names = f"127.0.0.1:{free_port()}"
    host.write_settings()
    (host.documents / "api.yaml").write_text(
        "apiVersion: meshd.io/v1\nkind: Service\nmetadata: {name: api, namespace: shop}\n"
        "spec: {port: 8080, endpoints: [{address: 192.0.2.7, port: 9090}]}\n"
    )

    async def leads_to(authority: str) -> list[str] | None:
        client = await ControlClient.connect(host.socket)
        try:
            found = await client.call(WatchDestination(authority, "default"))
        finally:
            await client.close()
        assert isinstance(found, Destination)
        return None if found.found is None else [f"{each.address}:{each.port}" for each in found.found.endpoints]

    with host.agent():
        assert aio.run(leads_to("api.shop.mesh")) == ["192.0.2.7:9090"], "and by now names are answered"
        port = int(host.names.rpartition(":")[2])
        answer = dns.query.udp(dns.message.make_query("api.shop.mesh", "A"), "127.0.0.1", timeout=60.0, port=port)
        (address,) = addresses(answer)
        assert aio.run(leads_to(f"{address}:8080")) == ["192.0.2.7:9090"]
        assert aio.run(leads_to(f"{address}:8081")) == []
        assert aio.run(leads_to("241.1.1.1:8080")) == []


def test_meshd_check_says_whether_names_are_answered_and_asked_for(tmp_path: Path) -> None:
    host, root = Host(tmp_path), tmp_path / "root"
    host.names = f"127.0.0.1:{free_port()}"
    host.write_settings()
    (root / wiring.RESOLVED_RUNS).mkdir(parents=True)
    settings = load_settings(host.settings)
    wanted = wiring.wanted(root, settings.names, settings.domains, settings.names.ranges(settings.trust_domain))

    def found() -> list[tuple[str, str]]:
        return [(each.description.removesuffix(f" at {host.names}"), each.result) for each in checks(settings, root)]

    answers, asked = "the name server answers", "this host's resolver asks it for the mesh's names"
    assert found() == [(answers, "error")]
    with host.agent():
        wait_until(lambda: found() == [(answers, "success")], "the name server answers")
        assert wiring.install(root, Path(settings.state_dir), wanted)
        assert found() == [(answers, "success"), (asked, "success")]
        (root / wanted.file).write_text("[Resolve]\n")
        assert found() == [(answers, "success"), (asked, "warning")]
        (root / wiring.RESOLVED_RUNS).rmdir()
        *_, last = checks(settings, root)
        assert "there is no systemd-resolved: set names.listen" in last.message
        assert "`meshd names install` again" in last.hint
