"""What becomes of sidecars when something is away or wrong: a controller, the API server, the CA, a namespace."""

import asyncio
import hashlib
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, web

from k8s.controller import server as serving
from k8s.controller.controller import Controller
from meshd.agent.trust import FILE_NAME, Trust, TrustFile
from meshd.api.control import (
    CONTROL_ALPN,
    LATENCY_BOUNDS_MS,
    Answer,
    Attach,
    Call,
    Destination,
    ProxyConfiguration,
    Refused,
    ReportState,
    ReportStats,
    SignCertificate,
    Traffic,
    WatchDestination,
)
from meshd.api.endpoints import EndpointSet
from meshd.api.frames import frame
from meshd.api.tls import present
from meshd.ca.wire import Denial
from proxy.control import AgentClient
from proxy.controller import ControllerWay, place
from proxy.mesh.tls import Held
from proxy.ways import NoWay, UnixSocket
from tests.integration.test_controller import WEB, certified, csr, refused
from tests.support import aio
from tests.support.certificates import Root
from tests.support.controllers import DOMAIN, ControlPlane, control_plane
from tests.support.kubernetes.api import Place as ApiPlace
from tests.support.kubernetes.bodies import endpoint, service, slice_of
from tests.support.kubernetes.core import NAMESPACES
from tests.support.waiting import eventually

API = WatchDestination("api.shop:80", "shop", differences=True)
CONTROLLER = f"spiffe://{DOMAIN}/ns/meshd/sa/meshd-controller"


def lay_api(plane: ControlPlane, *hosts: int) -> None:
    plane.service("shop", service("api", ("http", 80, 8080), selector={"app": "api"}))
    plane.slice("shop", slice_api(*hosts))


def slice_api(*hosts: int) -> Any:
    return slice_of("api", "api-a", *(endpoint(f"192.0.2.{host}") for host in hosts), ports={"http": 8080})


class Way(ControllerWay):
    """A way to these controllers."""

    def __init__(self, plane: ControlPlane, held: Held, *controllers: Controller) -> None:
        environment = plane.environment("shop/web-1", "web", controllers[0].server.address)
        super().__init__(place(str(controllers[0].server.address), environment), lambda: held, lambda _: None)
        self._controllers = controllers

    async def _replicas(self) -> list[tuple[str, int]]:
        return [(each.server.address.host, each.server.address.port) for each in self._controllers]


@asynccontextmanager
async def client(
    way: Any, configured: Callable[[ProxyConfiguration], None] = lambda _: None
) -> AsyncIterator[AgentClient]:
    made = AgentClient(way, "1", configured)
    running = asyncio.get_running_loop().create_task(made.run(), name="client")
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def hosts(found: list[EndpointSet | None]) -> set[str]:
    return set() if not found or found[-1] is None else {each.address for each in found[-1].endpoints}


def test_a_controller_that_is_lost_is_followed_by_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with control_plane(tmp_path) as plane, plane.controller("controller-2") as second:
            plane.pod("shop", "web-1", "web")
            lay_api(plane, 1, 2)
            heard: list[EndpointSet | None] = []
            configured: list[ProxyConfiguration] = []
            async with plane.controller() as first:
                way = Way(plane, plane.issue(WEB), first, second)
                running = client(way, configured.append)
                sidecar = await running.__aenter__()
                sidecar.watch("api.shop:80", "shop", heard.append)
                await eventually(lambda: len(hosts(heard)) == 2 and configured, "it is served")
                assert first.core.sidecars.count == 1
            try:  # the first is stopped
                plane.replace_slice("shop", slice_api(1, 2, 3))
                await eventually(lambda: len(hosts(heard)) == 3, "the other one serves it")
                await eventually(lambda: (second.core.sidecars.count, len(configured)) == (1, 2), "it is attached")
            finally:
                await running.__aexit__(None, None, None)

    aio.run(main())


def test_the_api_server_is_away_and_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with control_plane(tmp_path) as plane, plane.controller() as controller:
            plane.pod("shop", "web-1", "web")
            plane.pod("shop", "web-2", "web")
            lay_api(plane, 1)
            first = await plane.connect(controller)
            held = await certified(plane, first)
            known = await plane.connect(controller, held)
            assert isinstance(await known.call(Attach("1", pod="shop/web-1")), ProxyConfiguration)
            assert isinstance(await known.call(API), Destination)

            async def away(_: web.Request) -> web.StreamResponse:
                return web.Response(status=503)

            plane.cluster.interfere = away
            plane.cluster.break_watches()
            token = plane.token("shop", "web")
            new = await plane.connect(controller)
            answer = await new.call(Attach("1", token=token, pod="shop/web-2"))
            assert "the API server does not review the token now" in refused(answer)
            assert isinstance(answer, Refused)
            assert answer.retry
            back = await plane.connect(controller, held)
            assert isinstance(await back.call(Attach("1", pod="shop/web-1")), ProxyConfiguration)
            served = await back.call(API)
            assert isinstance(served, Destination)
            assert served.found is not None
            assert "cannot be read now" in refused(await plane_attach(plane, controller, held, "shop/web-2"))
            await eventually(lambda: not controller.core.discovery.health()[-1].healthy, "it is said", 90.0)
            plane.cluster.interfere = None
            plane.replace_slice("shop", slice_api(1, 7))
            await eventually(
                lambda: any("192.0.2.7" in str(each) for each in back.heard.get(2, ())), "what came meanwhile", 90.0
            )
            for each in (first, known, new, back):
                await each.close()

    aio.run(main())


def test_nothing_is_reported_before_a_sidecar_is_attached(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A controller that waits for the API server is told of the sidecar when it knows it, and refuses nothing."""

    async def main() -> None:
        async with control_plane(tmp_path) as plane, plane.controller() as controller:
            plane.pod("shop", "web-1", "web")
            asked, let = asyncio.Event(), asyncio.Event()

            async def slow(request: web.Request) -> web.StreamResponse | None:
                if request.path.endswith("/pods/web-1"):
                    asked.set()
                    await let.wait()
                return None

            plane.cluster.interfere = slow
            async with client(Way(plane, plane.issue(WEB), controller)) as sidecar:
                await asked.wait()
                sidecar.report_state(ReportState(1, ("the destinations",), ()))
                sidecar.report_stats(ReportStats("x", (traffic("shop/web"),)))
                sidecar.watch("api.shop:80", "shop", (heard := list[EndpointSet | None]()).append)
                await eventually(lambda: heard, "what was said before it is read")
                let.set()
                await eventually(lambda: controller.core.status(60.0).edges, "what it counted is known")
                assert controller.core.status(60.0).workloads[0].waiting_for == ("web-1: the destinations",)
        assert "refused Report" not in caplog.text

    aio.run(main())


def test_a_controller_that_is_started_while_the_api_server_is_away_waits_for_it(tmp_path: Path) -> None:
    """Nobody reviews its token, so that it has no certificate; it is not ready, says why, and needs no restart."""

    async def main() -> None:
        async with control_plane(tmp_path) as plane:

            async def away(_: web.Request) -> web.StreamResponse:
                return web.Response(status=503)

            plane.cluster.interfere = away
            controller = plane.made()
            starting = asyncio.get_running_loop().create_task(controller.start())
            try:
                await eventually(lambda: controller.own.trouble, "it has asked for its certificate")
                (why,) = controller.waiting_for()
                assert why.startswith("its certificate (the CA is away:")
                assert not controller.server.is_open
                plane.cluster.interfere = None
                async with asyncio.timeout(90):
                    await starting
                assert controller.waiting_for() == ()
            finally:
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
                await controller.stop()

    aio.run(main())


async def plane_attach(plane: ControlPlane, controller: Controller, held: Held, pod: str) -> object:
    sidecar = await plane.connect(controller, held)
    answer = await sidecar.call(Attach("1", pod=pod))
    await sidecar.close()
    return answer


def test_the_ca_is_away_and_a_namespace_is_deleted(tmp_path: Path) -> None:
    async def main() -> None:
        async with control_plane(tmp_path) as plane, plane.controller() as controller:
            plane.pod("shop", "web-1", "web")
            lay_api(plane, 1)
            first = await plane.connect(controller)
            held = await certified(plane, first)
            await plane.ca.stop()
            _, request = csr()
            answer = await first.call(SignCertificate("shop/web", request, plane.token("shop", "web")))
            assert "the CA is away" in refused(answer)
            assert isinstance(answer, Refused)
            assert answer.retry
            sidecar = await plane.connect(controller, held)
            assert isinstance(await sidecar.call(Attach("1", pod="shop/web-1")), ProxyConfiguration)
            watch = sidecar.say(API)
            assert isinstance(await sidecar.answer(watch), Destination)
            plane.cluster.api.delete(ApiPlace(NAMESPACES, "", "shop"), {}, "test")

            def stale() -> bool:
                last = sidecar.heard[watch][-1]
                return isinstance(last, Destination) and last.found is not None and last.found.stale

            await eventually(stale, "what was there last is gone on with, as after a slip of the hand")
            await first.close()
            await sidecar.close()

    aio.run(main())


def test_many_at_once_are_served_and_too_many_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with control_plane(tmp_path) as plane, plane.controller() as controller:
            for number in range(40):
                plane.pod("shop", f"web-{number}", "web")
            token = plane.token("shop", "web")
            clients = await asyncio.gather(*(plane.connect(controller) for _ in range(40)))
            answers = await asyncio.gather(
                *(each.call(Attach("1", token=token, pod=f"shop/web-{number}")) for number, each in enumerate(clients))
            )
            assert all(isinstance(answer, ProxyConfiguration) for answer in answers)
            monkeypatch.setattr(serving, "MAX_STRANGERS_AT_AN_ADDRESS", 40)
            one_more = await plane.connect(controller)
            assert "too many connections already" in refused(await one_more.answer(0))
            await one_more.closed()
            proven = await plane.connect(controller, plane.issue(WEB))  # who has a certificate is served all the same
            assert isinstance(await proven.call(Attach("1", pod="shop/web-1")), ProxyConfiguration)
            monkeypatch.setattr(serving, "MAX_OF_A_WORKLOAD_AT_AN_ADDRESS", 1)
            second = await plane.connect(controller, plane.issue(WEB))
            assert "too many connections already" in refused(await second.answer(0))
            await second.closed()
            for each in (*clients, one_more, proven, second):
                await each.close()
            await eventually(lambda: controller.server.connections == 0, "all are gone")
            assert controller.server.strangers == 0

    aio.run(main())


def test_what_was_denied_before_a_restart_is_denied_from_the_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with control_plane(tmp_path) as plane:
            (tmp_path / "controller-1").mkdir()
            pinned = hashlib.sha256(plane.bundle_pem.encode()).hexdigest()
            heard = Trust(sequence=1 << 60, denied=(Denial("identity", WEB),), pinned=pinned)  # later than all there is
            TrustFile(tmp_path / "controller-1" / FILE_NAME).keep(heard)
            async with plane.controller() as controller:
                sidecar = await plane.connect(controller, plane.issue(WEB))
                assert "is denied" in refused(await sidecar.answer(0))
                await sidecar.close()

    aio.run(main())


def test_operators_see_it_in_the_controllers_pod(tmp_path: Path) -> None:
    async def main() -> None:
        async with control_plane(tmp_path) as plane, plane.controller() as controller:
            plane.pod("shop", "web-1", "web")
            lay_api(plane, 1)
            sidecar = await plane.connect(controller, plane.issue(WEB))
            assert isinstance(await sidecar.call(Attach("1", pod="shop/web-1")), ProxyConfiguration)
            assert isinstance(await sidecar.call(API), Destination)
            sidecar.say(ReportStats("x", (traffic("shop/web"), traffic("shop/other"))))
            socket = tmp_path / "controller-1" / "meshd.sock"
            assert socket.stat().st_mode & 0o777 == 0o600
            status = await said("status", "--socket", str(socket))
            assert "controller" in status
            assert "shop" in status
            assert "shop/other" not in status
            (edge,) = controller.core.status(60.0).edges
            assert (edge.source, edge.service) == ("shop/web", "api.shop:80")
            assert "192.0.2.1" in await said("endpoints", "api.shop:80", "--socket", str(socket))
            assert "api" in await said("services", "--socket", str(socket))
            address = controller.admin.address
            async with ClientSession() as session, session.get(f"http://{address}/metrics") as response:
                page = await response.text()
            assert "meshd_controller_sidecars 1.0" in page
            samples = [line.rpartition(" ")[0] for line in page.splitlines() if not line.startswith("#")]
            assert len(set(samples)) == len(samples)
            assert 'meshd_controller_token_reviews_total{result="good"} 0.0' in page
            await sidecar.close()

    aio.run(main())


async def said(*arguments: str) -> str:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "meshd.cli", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await child.communicate()
    assert child.returncode == 0, output
    return output.decode()


def traffic(workload: str) -> Traffic:
    buckets = (1, *(0,) * len(LATENCY_BOUNDS_MS))
    return Traffic("outbound", workload, "", "api.shop:80", "http", True, 1, 1, 0, buckets, 0.1, 1, 10, 10)


def test_only_the_controller_is_believed_and_by_the_roots_of_now(tmp_path: Path) -> None:
    """Another root becomes the mesh's while the proxy runs; a workload's certificate is not the controller's."""
    before, after = Root(), Root()
    (tmp_path / "token").write_text("a.b.c")

    async def main() -> None:
        async with answering(after, CONTROLLER) as port, answering(after, WEB) as workload:
            environment = {
                "MESHD_PROXY_TRUST_DOMAIN": DOMAIN, "MESHD_PROXY_TRUST_ANCHORS": before.bundle_pem,
                "MESHD_PROXY_POD": "shop/web-1", "MESHD_PROXY_TOKEN_FILE": str(tmp_path / "token"),
            }  # fmt: skip
            way = ControllerWay(place(f"127.0.0.1:{port}", environment), lambda: None, lambda _: None)
            with pytest.raises(NoWay, match="its certificate is not good: unable to get local issuer"):
                await way.connect()
            way.use(configuration(after.bundle_pem))
            _, writer = await way.connect()
            writer.transport.abort()
            way.use(configuration("no bundle"))  # what is none changes nothing
            _, writer = await way.connect()
            writer.transport.abort()
            other = ControllerWay(place(f"127.0.0.1:{workload}", environment), lambda: None, lambda _: None)
            other.use(configuration(after.bundle_pem))
            with pytest.raises(NoWay, match=f"it is {WEB}, and must be {CONTROLLER}"):
                await other.connect()

    aio.run(main())


def configuration(bundle_pem: str) -> ProxyConfiguration:
    return ProxyConfiguration(DOMAIN, bundle_pem, "", "", "", ())


@asynccontextmanager
async def answering(root: Root, identity: str) -> AsyncIterator[int]:
    """A server that shows a certificate of identity, and says nothing."""
    held = root.held(identity)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.set_alpn_protocols([CONTROL_ALPN])
    present(tls, held.key_pem + held.certificate.chain_pem.encode())
    server = await asyncio.start_server(lambda _, writer: None, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def test_an_agent_that_does_not_read_makes_nothing_grow(tmp_path: Path) -> None:
    """It hangs: what it is told waits up to a bound, and then the proxy connects anew."""
    connections: list[asyncio.StreamWriter] = []

    async def main() -> None:
        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            attach = msgspec.json.decode(await reader.readline(), type=Call)
            writer.write(frame(Answer(attach.id, configuration("no bundle"))))
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            connections.append(writer)

        server = await asyncio.start_unix_server(hang, str(tmp_path / "meshd.sock"))
        attached: list[ProxyConfiguration] = []
        async with client(UnixSocket(str(tmp_path / "meshd.sock")), attached.append) as proxy:
            await eventually(lambda: attached and connections, "it is attached")
            rows = tuple(traffic(f"default/web-{number}") for number in range(2000))
            said = 0
            while len(connections) < 2 and said < 100:
                proxy.report_stats(ReportStats("x", rows))
                said += 1
                await asyncio.sleep(0)
            await eventually(lambda: len(connections) > 1, "it connects anew")
        for each in connections:
            each.transport.abort()
        server.close()

    aio.run(main())
