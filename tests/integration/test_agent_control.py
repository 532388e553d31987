"""The control API of a real agent on a real socket: what each call does, and what a peer cannot do."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography import x509
from msgspec.structs import replace

from meshd.agent.agent import Agent
from meshd.agent.connection import MAX_CALL_BYTES
from meshd.agent.peer import Access
from meshd.agent.server import MAX_CONNECTIONS_OF_STRANGERS
from meshd.agent.settings import ProxySettings
from meshd.agent.telling import MAX_LOOKING
from meshd.api.control import (
    LATENCY_BOUNDS_MS,
    Attach,
    Call,
    Cancel,
    Certificate,
    CertificateState,
    Configuration,
    Destination,
    DestinationChange,
    Done,
    Endpoints,
    GetConfiguration,
    GetEndpoints,
    GetServices,
    GetStatus,
    ProxyConfiguration,
    Refused,
    Registered,
    RegisterWorkload,
    ReportState,
    ReportStats,
    Request,
    SignCertificate,
    Status,
    Traffic,
    WatchDestination,
    WithdrawWorkload,
)
from meshd.api.detection import Detection
from meshd.api.documents import Upstream, WorkloadPort
from meshd.api.endpoints import Endpoint, EndpointSet
from meshd.api.frames import frame
from proxy.control import AgentClient
from proxy.ways import UnixSocket
from tests.support import aio
from tests.support.agents import local_agent
from tests.support.control import ControlClient
from tests.support.csr import csr
from tests.support.waiting import eventually

WEB = RegisterWorkload(
    instance="0123456789abcdef" * 2,
    namespace="default",
    name="web",
    ports=(WorkloadPort(8080),),
    upstreams=(Upstream("api", "127.0.0.1:9001"),),
    outbound="127.0.0.1:40001",
    inbound="127.0.0.1:40002",
    admin="127.0.0.1:40003",
    pid=4711,
)
IDENTITY = "spiffe://mesh.local/ns/default/sa/web"
READY = ReportState(pid=4712, waiting_for=(), certificates=(CertificateState("default/web", 2e9),))


class Clients:
    """Connections to one agent, closed at the end."""

    def __init__(self, agent: Agent, socket: Path) -> None:
        self.agent, self.socket = agent, socket
        self._open: list[ControlClient] = []

    async def connect(self) -> ControlClient:
        client = await ControlClient.connect(self.socket)
        self._open.append(client)
        return client

    async def workload(self, asked: RegisterWorkload = WEB) -> tuple[ControlClient, ControlClient]:
        """A registered workload's connection, and that of its proxy, which is ready."""
        run, proxy = await self.connect(), await self.connect()
        assert isinstance(await run.call(asked), Registered)
        assert isinstance(await proxy.call(Attach("0.1", asked.instance)), ProxyConfiguration)
        proxy.say(READY)
        return run, proxy

    async def close(self) -> None:
        for client in self._open:
            await client.close()


@asynccontextmanager
async def mesh(
    directory: Path, proxy: ProxySettings | None = None, access: Access | None = None
) -> AsyncIterator[Clients]:
    async with local_agent(directory, proxy, access) as agent:
        clients = Clients(agent, directory / "meshd.sock")
        try:
            yield clients
        finally:
            await clients.close()


async def endpoints(client: ControlClient, watch: int, number: int) -> tuple[Endpoint, ...]:
    """Those of the number-th answer to a watch."""
    answer = await client.answer(watch, number)
    assert isinstance(answer, Destination)
    assert answer.found is not None
    return answer.found.endpoints


def refused(answer: object) -> str:
    assert isinstance(answer, Refused), answer
    return answer.reason


def test_a_workload_from_registration_to_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with mesh(tmp_path) as clients:
            caller, run, proxy = await clients.connect(), await clients.connect(), await clients.connect()
            watch = caller.say(WatchDestination("web", "default"))
            assert await caller.answer(watch) == Destination(None)

            assert await run.call(WEB) == Registered(IDENTITY)
            assert await endpoints(caller, watch, 2) == ()

            configuration = await proxy.call(Attach("0.1", WEB.instance))
            assert isinstance(configuration, ProxyConfiguration)
            assert (configuration.trust_domain, configuration.inbound) == ("mesh.local", WEB.inbound)
            assert configuration.trust_bundle_pem.startswith("-----BEGIN CERTIFICATE-----")
            (workload,) = configuration.workloads
            assert (workload.namespace, workload.name) == ("default", "web")
            assert (workload.ports, workload.upstreams) == (WEB.ports, WEB.upstreams)

            certificate = await proxy.call(SignCertificate("default/web", csr()))
            assert isinstance(certificate, Certificate)
            leaf = x509.load_pem_x509_certificate(certificate.chain_pem.encode())
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names.get_values_for_type(x509.UniformResourceIdentifier) == [IDENTITY]

            proxy.say(READY)
            (endpoint,) = await endpoints(caller, watch, 3)
            assert (endpoint.address, endpoint.port, endpoint.inbound_port) == ("127.0.0.1", 8080, 40002)
            assert endpoint.identity == IDENTITY

            assert await run.call(WithdrawWorkload()) == Done()
            assert await endpoints(caller, watch, 4) == ()
            await run.close()
            assert await caller.answer(watch, 5) == Destination(None)

    aio.run(main())


def test_status_shows_workloads_edges_and_health(tmp_path: Path) -> None:
    def row(direction: str, requests: int) -> Traffic:
        return Traffic(
            direction="inbound" if direction == "inbound" else "outbound",
            workload="default/web",
            peer="spiffe://mesh.local/ns/default/sa/api",
            service="8080" if direction == "inbound" else "api.default:80",
            protocol="http",
            tls=True,
            requests=requests,
            successes=requests,
            failures=0,
            latency_buckets=(requests, *(0 for _ in LATENCY_BOUNDS_MS)),
            latency_sum_ms=1.0,
            open_connections=1,
            read_bytes=1,
            write_bytes=1,
        )

    async def main() -> None:
        async with mesh(tmp_path) as clients:
            _, proxy = await clients.workload()
            proxy.say(ReportStats("a", ()))
            proxy.say(
                ReportStats("a", (row("inbound", 10), row("outbound", 20), replace(row("inbound", 5), workload="x/y")))
            )
            status = await proxy.call(GetStatus())
            assert isinstance(status, Status)
            assert (status.trust_domain, status.mode, status.pid) == ("mesh.local", "embedded", os.getpid())
            assert status.ca.healthy
            assert [health.healthy for health in status.discovery] == [True, True]
            assert status.configuration == ()
            (workload,) = status.workloads
            assert (workload.identity, workload.pid, workload.waiting_for) == (IDENTITY, 4711, ())
            assert (workload.certificate_not_after, workload.golden.requests) == (2e9, 10)
            (edge,) = status.edges
            assert (edge.source, edge.service, edge.golden.requests) == ("default/web", "api.default:80", 20)
            assert edge.source_identity == IDENTITY
            assert WEB.instance not in str(status)

    aio.run(main())


def test_a_watch_follows_documents_and_ends_when_cancelled(tmp_path: Path) -> None:
    document = "apiVersion: meshd.io/v1\nkind: Service\nmetadata: {{name: api}}\nspec: {{port: {}, endpoints: []}}\n"

    async def main() -> None:
        async with mesh(tmp_path) as clients:
            client = await clients.connect()
            watch = client.say(WatchDestination("api", "default"))
            await client.answer(watch)
            (tmp_path / "conf.d" / "api.yaml").write_text(document.format(80))
            assert "port=80" in str(await client.answer(watch, 2))
            assert "open watch" in refused(await client.answer(client.say(WatchDestination("x", "y"), watch), 3))
            client.say(Cancel(), watch)
            (tmp_path / "conf.d" / "api.yaml").write_text(document.format(81))
            again = client.say(WatchDestination("api", "default"))
            await eventually(lambda: len(client.heard.get(again, [])) == 1, "the new watch")
            await eventually(lambda: str(client.heard[again][-1]).count("port=81"), "the new port")
            assert len(client.heard[watch]) == 3

    aio.run(main())


def test_a_proxy_is_told_what_differs_and_knows_all(tmp_path: Path) -> None:
    def document(*hosts: int) -> str:
        each = ", ".join(f"{{address: 192.0.2.{host}, port: 1}}" for host in hosts)
        return (
            "apiVersion: meshd.io/v1\nkind: Service\nmetadata: {name: api}\n"
            f"spec: {{port: 80, endpoints: [{each}]}}\n"
        )

    async def main() -> None:
        file = tmp_path / "conf.d" / "api.yaml"
        file.parent.mkdir()
        file.write_text(document(*range(1, 51)))
        async with mesh(tmp_path) as clients:
            told: list[EndpointSet | None] = []
            proxy = AgentClient(UnixSocket(str(clients.socket)), "0.1", lambda _: None)
            proxy.watch("api", "default", told.append)
            running = asyncio.ensure_future(proxy.run())  # noqa: TID251 - ended below
            raw = await clients.connect()
            watch = raw.say(WatchDestination("api", "default", differences=True))
            whole = await clients.connect()
            plain = whole.say(WatchDestination("api", "default"))

            def hosts() -> set[str]:
                return set() if not told or told[-1] is None else {each.address for each in told[-1].endpoints}

            await eventually(lambda: len(hosts()) == 50, "the first answer")
            file.write_text(document(*range(2, 51), 99))
            expected = {f"192.0.2.{host}" for host in (*range(2, 51), 99)}
            await eventually(lambda: hosts() == expected, "the change")
            await eventually(lambda: isinstance(raw.heard[watch][-1], DestinationChange), "it comes as a change")
            await eventually(lambda: len(whole.heard[plain]) == 2, "who does not know of changes is told all")
            assert isinstance(whole.heard[plain][-1], Destination)
            file.write_text(document(7))
            await eventually(lambda: hosts() == {"192.0.2.7"}, "a change that is better said whole")
            running.cancel()

    aio.run(main())


SECRETIVE = (
    "# web\napiVersion: meshd.io/v1\nkind: Workload\nmetadata: {name: web}\n"
    "spec: {upstreams: [{service: api, listen: '127.0.0.1:9001', tls: {certificate: /c.pem, key: /k.pem}}]}\n"
)


def test_where_documents_are_is_told_to_all_and_what_they_say_to_few(tmp_path: Path) -> None:
    nobody = Access(frozenset(), frozenset())
    directory = tmp_path / "conf.d"
    directory.mkdir()
    (directory / "web.yaml").write_text(SECRETIVE)
    (directory / "x.yaml").write_text("kind: Servise")

    async def main() -> None:
        async with mesh(tmp_path) as clients:
            client = await clients.connect()
            found = await client.call(GetConfiguration(whole=True))
            assert isinstance(found, Configuration)
            document = found.documents[0].document
            assert isinstance(document, dict)
            assert (document["kind"], document["apiVersion"]) == ("Workload", "meshd.io/v1")
            assert document["metadata"] == {"name": "web", "namespace": "default", "labels": {}, "annotations": {}}
            assert document["spec"]["upstreams"] == [{
                "service": "api", "listen": "127.0.0.1:9001", "protocol": "auto",
                "tls": {"certificate": "/c.pem", "key": "/k.pem", "clientCa": None},
            }]  # fmt: skip
            clients.agent.core.access = nobody
            assert "not what they say: add the user to control.users" in refused(
                await client.call(GetConfiguration(whole=True))
            )
            found = await client.call(GetConfiguration())
            assert isinstance(found, Configuration)
            assert "k.pem" not in str(found)
            (web,) = found.documents
            assert (web.source, web.origin, web.stale, web.shadowed_by) == (
                "file",
                f"{directory}/web.yaml:2",
                False,
                "",
            )
            assert [each.origin for each in found.refused] == [f"{directory}/x.yaml"]
            assert [place.place for place in found.places] == [str(directory)]

    aio.run(main())


def test_documents_go_before_registered_workloads(tmp_path: Path) -> None:
    async def main() -> None:
        async with mesh(tmp_path) as clients:
            (tmp_path / "conf.d" / "web.yaml").write_text(
                "apiVersion: meshd.io/v1\nkind: Service\nmetadata: {name: web}\n"
                "spec: {port: 80, endpoints: [{address: 192.0.2.9, port: 1}]}\n"
            )
            _, proxy = await clients.workload()
            watch = proxy.say(WatchDestination("web", "default"))
            await eventually(lambda: "192.0.2.9" in str(proxy.heard.get(watch)), "the document's endpoint")
            other = proxy.say(WatchDestination("web:8080", "default"))
            await eventually(lambda: "127.0.0.1" in str(proxy.heard.get(other)), "the workload's endpoint")

    aio.run(main())


def test_a_restart_takes_no_workload_from_its_callers(tmp_path: Path) -> None:
    """The next agent is silent about the workload until it is back; callers keep what they know."""

    async def main() -> None:
        async with mesh(tmp_path) as clients:
            await clients.workload()
            await eventually(clients.agent.registry.announced, "the workload is announced")
            await clients.agent.stop()
        async with mesh(tmp_path) as clients:
            caller = await clients.connect()
            watch, other = caller.say(WatchDestination("web", "default")), caller.say(WatchDestination("x", "default"))
            assert await caller.answer(other) == Destination(None)
            run, _ = await clients.workload()
            (endpoint,) = await endpoints(caller, watch, 1)
            assert endpoint.port == 8080
            await run.call(WithdrawWorkload())
            assert await endpoints(caller, watch, 2) == ()
            await run.close()
            assert await caller.answer(watch, 3) == Destination(None)
        async with mesh(tmp_path) as clients:
            assert await (await clients.connect()).call(WatchDestination("web", "default")) == Destination(None)

    aio.run(main())


@pytest.mark.parametrize("authority", ["", "a b", "web:0", "http://web", "x" * 300])
def test_what_is_no_authority_leads_nowhere(tmp_path: Path, authority: str) -> None:
    async def main() -> None:
        async with mesh(tmp_path) as clients:
            client = await clients.connect()
            assert await client.call(WatchDestination(authority, "default")) == Destination(None)

    aio.run(main())


def test_what_is_refused_to_one_who_has_not_attached(tmp_path: Path) -> None:
    async def main() -> None:
        async with mesh(tmp_path) as clients:
            client = await clients.connect()
            assert "attach first" in refused(await client.call(SignCertificate("default/web", csr())))
            assert "attach first" in refused(await client.call(READY))
            assert "attach first" in refused(await client.call(ReportStats("a", ())))
            assert "nothing is registered" in refused(await client.call(WithdrawWorkload()))
            assert "no host proxy" in refused(await client.call(Attach("0.1", "")))
            not_yet = await client.call(Attach("0.1", WEB.instance))
            assert isinstance(not_yet, Refused)
            assert not_yet.retry

    aio.run(main())


def test_a_proxy_gets_certificates_for_its_own_workload_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with mesh(tmp_path) as clients:
            await clients.workload(replace(WEB, instance="f" * 32, name="other"))
            run, proxy = await clients.workload()
            assert "not a workload of this proxy" in refused(await proxy.call(SignCertificate("default/other", csr())))
            assert "workload name 'W'" in refused(await proxy.call(SignCertificate("default/W", csr())))
            nonsense = await proxy.call(SignCertificate("default/web", "nonsense"))
            assert isinstance(nonsense, Refused)
            assert not nonsense.retry
            await run.close()
            await eventually(lambda: clients.agent.registry.registered == 1, "the workload is gone")
            gone = await proxy.call(SignCertificate("default/web", csr()))
            assert isinstance(gone, Refused)
            assert gone.retry

    aio.run(main())


def test_a_proxy_hears_when_its_workload_is_declared_anew(tmp_path: Path) -> None:
    async def main() -> None:
        async with mesh(tmp_path) as clients:
            run, proxy = await clients.connect(), await clients.connect()
            await run.call(WEB)
            attached = proxy.say(Attach("0.1", WEB.instance))
            await proxy.answer(attached)
            await run.call(replace(WEB, waiting_for=("port 8080",)))
            await run.call(replace(WEB, ports=(WorkloadPort(8081),)))
            changed = await proxy.answer(attached, 2)
            assert isinstance(changed, ProxyConfiguration)
            assert changed.workloads[0].ports == (WorkloadPort(8081),)

    aio.run(main())


def test_the_host_s_proxy_serves_the_workloads_of_the_documents(tmp_path: Path) -> None:
    document = "apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {name: web}\nspec: {ports: [{port: 8080}]}\n"

    async def main() -> None:
        async with mesh(tmp_path, ProxySettings(inbound="0.0.0.0:4143")) as clients:
            proxy = await clients.connect()
            attached = proxy.say(Attach("0.1", ""))
            first = await proxy.answer(attached)
            assert isinstance(first, ProxyConfiguration)
            assert (first.outbound, first.workloads) == ("127.0.0.1:4140", ())
            (tmp_path / "conf.d" / "web.yaml").write_text(document)
            second = await proxy.answer(attached, 2)
            assert isinstance(second, ProxyConfiguration)
            assert [workload.name for workload in second.workloads] == ["web"]
            assert isinstance(await proxy.call(SignCertificate("default/web", csr())), Certificate)
            proxy.say(READY)
            found = await proxy.call(WatchDestination("web", "default"))
            assert isinstance(found, Destination)
            assert found.found is not None
            assert [(each.address, each.inbound_port) for each in found.found.endpoints] == [("127.0.0.1", 4143)]

    aio.run(main())


def test_proxies_are_told_how_to_detect_what_is_spoken_and_how_much_they_may_have_open(tmp_path: Path) -> None:
    spec = "{ports: [{port: 3307}], opaquePorts: [3307]}"
    document = f"apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {{name: db}}\nspec: {spec}\n"

    async def main() -> None:
        async with mesh(tmp_path, ProxySettings(opaque_ports=(3306,), max_connections=5000)) as clients:
            agent = clients.agent
            proxy, run, its_proxy = [await clients.connect() for _ in range(3)]
            attached = proxy.say(Attach("0.1", ""))
            first = await proxy.answer(attached)
            assert isinstance(first, ProxyConfiguration)
            assert first.detection == Detection((3306,), 10.0)
            assert first.max_connections == 5000
            await run.call(WEB)
            other = await its_proxy.call(Attach("0.1", WEB.instance))
            assert isinstance(other, ProxyConfiguration)
            assert (other.detection, other.max_connections) == (first.detection, 5000)
            (tmp_path / "conf.d" / "db.yaml").write_text(document)
            second = await proxy.answer(attached, 2)
            assert isinstance(second, ProxyConfiguration)
            assert second.workloads[0].opaque_ports == (3307,)
            found = await run.call(WatchDestination("db", "default"))
            assert isinstance(found, Destination)
            assert found.found is not None
            assert found.found.opaque is True
            agent.reload(agent.core.access, ProxySettings(opaque_ports=(), detect_timeout="2s"), ())
            third = await proxy.answer(attached, 3)
            assert isinstance(third, ProxyConfiguration)
            assert third.detection == Detection((), 2.0)
            assert third.max_connections == 0

    aio.run(main())


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b'{"id":1,"body":{"type":"nothing"}}\n', b"\xff\n", b'{"id":"x"}\n'])
def test_what_is_no_message_ends_the_connection_with_a_word(tmp_path: Path, line: bytes) -> None:
    async def main() -> None:
        async with mesh(tmp_path) as clients:
            client, other = await clients.connect(), await clients.connect()
            client.write(line)
            assert "not a message of the control API" in refused(await client.answer(0))
            await client.closed()
            assert isinstance(await other.call(GetStatus()), Status)

    aio.run(main())


def test_a_line_without_end_is_cut_off(tmp_path: Path) -> None:
    async def main() -> None:
        async with mesh(tmp_path) as clients:
            client = await clients.connect()
            client.write(b"x" * (MAX_CALL_BYTES + 1))
            assert "a line of more than" in refused(await client.answer(0))
            await client.closed()

    aio.run(main())


def test_one_who_asks_without_reading_holds_up_only_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with mesh(tmp_path) as clients:
            other = await clients.connect()
            reader, writer = await asyncio.open_unix_connection(clients.socket)
            ask = b'{"id":1,"body":{"type":"get-status"}}\n' * 1000
            written = 0
            try:
                async with asyncio.timeout(0.5):
                    while True:  # until the agent no longer reads
                        writer.write(ask)
                        await writer.drain()
                        written += 1000
            except TimeoutError:
                pass
            assert isinstance(await other.call(GetStatus()), Status)
            for _ in range(written):  # nothing was lost, and reading goes on
                await reader.readline()
            writer.transport.abort()

    aio.run(main())


# --- who the peer is ----------------------------------------------------------------------------------------------

AS_NOBODY = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
connections = [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[2]))]
for agent in connections:
    agent.connect(sys.argv[1])
lines = agent.makefile("rb")
for call in sys.argv[3:]:
    try:
        agent.sendall(call.encode() + b"\\n")
    except BrokenPipeError:  # turned away: why can still be read
        pass
    print(lines.readline().decode(), end="")
"""


def test_only_so_many_services_are_looked_at_over_a_connection_at_a_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with mesh(tmp_path) as clients:
            client = await clients.connect()
            looks = range(1, MAX_LOOKING + 3)
            client.write(b"".join(frame(Call(number, GetEndpoints("web", "default"))) for number in looks))
            answers = [await client.answer(number) for number in looks]
            assert all(isinstance(each, Endpoints) for each in answers[:MAX_LOOKING])
            assert all("are being looked at" in refused(each) for each in answers[MAX_LOOKING:])
            assert isinstance(await client.call(GetEndpoints("web", "default")), Endpoints)

    aio.run(main())


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


async def as_nobody(socket: Path, *calls: Request, connections: int = 1) -> list[str]:
    """The answers that another user gets, over the last of so many connections."""
    lines = [frame(Call(number, body)).decode().strip() for number, body in enumerate(calls, 1)]
    speaking = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AS_NOBODY, str(socket), str(connections), *lines, stdout=subprocess.PIPE, cwd="/"
    )
    output, _ = await speaking.communicate()
    return output.decode().splitlines()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """pytest's own are closed to other users."""
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@needs_root
def test_another_user_reads_the_status_and_where_services_are_and_nothing_else(open_directory: Path) -> None:
    async def main() -> None:
        async with mesh(open_directory) as clients:
            await clients.workload()
            (found,) = await as_nobody(clients.socket, GetEndpoints("web", "default"))
            assert '"type":"endpoints","standing":"known"' in found
            status, services, *answers = await as_nobody(
                clients.socket,
                GetStatus(),
                GetServices(),
                Attach("0.1", WEB.instance),
                Attach("0.1", ""),
                WatchDestination("web", "default"),
                SignCertificate("default/web", csr()),
                replace(WEB, instance="e" * 32),
                WithdrawWorkload(),
                READY,
                ReportStats("a", ()),
            )
            assert '"type":"status"' in status
            assert '"type":"services"' in services
            assert len(answers) == 8
            for answer in answers:
                assert '"type":"refused"' in answer
                assert "uid 65534 may only read the status: add the user to control.users" in answer
            assert clients.agent.registry.registered == 1

    aio.run(main())


@needs_root
def test_a_user_who_may_declare_workloads_has_no_part_in_those_of_others(open_directory: Path) -> None:
    access = Access(user_uids=frozenset((0, 65534)), proxy_uids=frozenset((0,)))

    async def main() -> None:
        async with mesh(open_directory, ProxySettings(), access) as clients:
            await clients.workload()
            own = replace(WEB, instance="e" * 32, name="own")
            attach, register, host, registered, attached, others, signed = await as_nobody(
                clients.socket,
                Attach("0.1", WEB.instance),
                WEB,
                Attach("0.1", ""),
                own,
                Attach("0.1", own.instance),
                SignCertificate("default/web", csr()),
                SignCertificate("default/own", csr()),
            )
            assert "belongs to another user" in attach
            assert "belongs to another user" in register
            assert "may not be the host's proxy" in host
            assert '"type":"registered"' in registered
            assert '"type":"proxy-configuration"' in attached
            assert "not a workload of this proxy" in others
            assert '"type":"certificate"' in signed

    aio.run(main())


@needs_root
def test_the_host_s_proxy_declares_no_workloads(open_directory: Path) -> None:
    access = Access(user_uids=frozenset((0,)), proxy_uids=frozenset((0, 65534)))

    async def main() -> None:
        async with mesh(open_directory, ProxySettings(), access) as clients:
            attached, registered = await as_nobody(clients.socket, Attach("0.1", ""), WEB)
            assert '"type":"proxy-configuration"' in attached
            assert "uid 65534 may not declare workloads" in registered

    aio.run(main())


@needs_root
def test_a_stranger_does_not_use_up_the_connections(open_directory: Path) -> None:
    async def main() -> None:
        async with mesh(open_directory) as clients:
            most = MAX_CONNECTIONS_OF_STRANGERS
            (answer,) = await as_nobody(clients.socket, GetStatus(), connections=most)
            assert '"type":"status"' in answer
            (answer,) = await as_nobody(clients.socket, GetStatus(), connections=most + 1)
            assert "too many connections" in answer
            assert isinstance(await (await clients.connect()).call(GetStatus()), Status)
            (answer,) = await as_nobody(clients.socket, GetStatus(), connections=most)
            assert '"type":"status"' in answer

    aio.run(main())
