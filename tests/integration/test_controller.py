"""A cluster's controller and the sidecars that it serves, from the first token on: with a real CA, and real proxies."""

import asyncio
import ssl
import sys
import time
from pathlib import Path

from msgspec.structs import replace

from meshd.agent.settings import Discovery, FileDiscovery
from meshd.api.control import (
    Attach,
    Cancel,
    Certificate,
    Destination,
    DestinationChange,
    GetStatus,
    IdentifyCaller,
    ProxyConfiguration,
    Refused,
    SignCertificate,
    WatchDestination,
)
from meshd.api.names import Address
from proxy.controller import TOKEN_FILE
from proxy.mesh.keys import make
from proxy.mesh.tls import Held, control_context
from tests.support import aio
from tests.support.certificates import Root
from tests.support.control import ControlClient
from tests.support.controllers import DOMAIN, ControlPlane, control_plane
from tests.support.kubernetes.bodies import endpoint, service, slice_of
from tests.support.waiting import eventually

WEB = f"spiffe://{DOMAIN}/ns/shop/sa/web"


def csr(identity: str = WEB) -> tuple[bytes, str]:
    key, begin, request = make(identity).partition(b"-----BEGIN CERTIFICATE REQUEST-----")
    return key, (begin + request).decode()


def refused(answer: object) -> str:
    assert isinstance(answer, Refused), answer
    return answer.reason


async def nothing_heard(address: Address, tls: ssl.SSLContext, said: bytes = b"") -> bool:
    """Whether the connection ends with nothing but a refusal, in the handshake or after it."""
    try:
        reader, writer = await asyncio.open_connection(*address, ssl=tls, server_hostname="x")
        writer.write(said)
        answer = await reader.read()
        writer.transport.abort()
    except OSError:
        return True
    return not answer or b"(ALPN)" in answer


def ssl_without_alpn(bundle_pem: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.load_verify_locations(cadata=bundle_pem)
    return made


async def certified(plane: ControlPlane, client: ControlClient, account: str = "web") -> Held:
    """What the controller gets for who shows the account's token."""
    key, request = csr(f"spiffe://{DOMAIN}/ns/shop/sa/{account}")
    answer = await client.call(SignCertificate(f"shop/{account}", request, plane.token("shop", account)))
    assert isinstance(answer, Certificate), answer
    return Held(answer, key)


def test_a_sidecar_from_its_token_to_a_destination(tmp_path: Path) -> None:
    async def main() -> None:
        async with control_plane(tmp_path) as plane, plane.controller() as controller:
            plane.cluster.add_node("node-1", zone="east")
            plane.pod("shop", "web-1", "web", {"config.meshd.io/opaque-ports": "3306,9000-9002"}, nodeName="node-1")
            first = await plane.connect(controller)
            configured = await first.call(Attach("1", token=plane.token("shop", "web"), pod="shop/web-1"))
            assert isinstance(configured, ProxyConfiguration)
            (workload,) = configured.workloads
            assert (workload.namespace, workload.name, workload.any_port) == ("shop", "web", True)
            assert workload.opaque_ports == (3306, 9000, 9001, 9002)
            assert configured.zone == "east"
            assert configured.capture is not None
            assert configured.capture.caller == "shop/web"
            assert configured.trust_bundle_pem == plane.bundle_pem
            assert "connect with one" in refused(await first.call(WatchDestination("api", "shop")))
            held = await certified(plane, first)
            second = await plane.connect(controller, held)
            assert isinstance(await second.call(Attach("1", pod="shop/web-1")), ProxyConfiguration)
            assert await second.call(WatchDestination("api", "shop")) == Destination(None)
            assert controller.core.sidecars.count == 2
            await first.close()
            await second.close()
            await eventually(lambda: controller.core.sidecars.count == 0, "both are gone")

    aio.run(main())


def test_where_a_service_leads_and_what_differs(tmp_path: Path) -> None:
    """Two sidecars that follow a service hear the same of it, with the identity of its pod."""

    async def main() -> None:
        async with control_plane(tmp_path) as plane, plane.controller() as controller:
            pod = plane.pod("shop", "api-1", "api")
            plane.service("shop", service("api", ("http", 80, 8080), selector={"app": "api"}))
            plane.slice("shop", slice_of("api", "api-a", endpoint("192.0.2.1", pod), ports={"http": 8080}))
            plane.pod("shop", "web-1", "web")
            first = await plane.connect(controller)
            held = await certified(plane, first)
            clients = [await plane.connect(controller, held) for _ in range(2)]
            asked = WatchDestination("api.shop.svc.cluster.local:80", "shop", differences=True)
            watches = [client.say(asked) for client in clients]
            heard = [await client.answer(watch) for client, watch in zip(clients, watches, strict=True)]
            assert heard[0] == heard[1]
            assert isinstance(heard[0], Destination)
            assert heard[0].found is not None
            (found,) = heard[0].found.endpoints
            assert (found.address, found.port, found.inbound_port) == ("192.0.2.1", 8080, 4143)
            assert found.identity == f"spiffe://{DOMAIN}/ns/shop/sa/api"
            assert len(controller.core.destinations) == 1
            more = [endpoint(f"192.0.2.{host}") for host in range(2, 12)]
            plane.slice("shop", slice_of("api", "api-b", *more, ports={"http": 8080}))
            assert isinstance(await clients[0].answer(watches[0], 2), Destination)  # most of it is new
            plane.slice("shop", slice_of("api", "api-c", endpoint("192.0.2.99"), ports={"http": 8080}))
            changes = [await client.answer(watch, 3) for client, watch in zip(clients, watches, strict=True)]
            assert changes[0] == changes[1]
            assert isinstance(changes[0], DestinationChange)
            assert [each.address for each in changes[0].now.endpoints] == ["192.0.2.99"]
            clients[0].say(Cancel(), watches[0])
            for client in (first, *clients):
                await client.close()
            await eventually(lambda: len(controller.core.destinations) == 0, "nobody follows it any more")
            assert controller.core.destinations.watches == 0

    aio.run(main())


def test_other_back_ends_come_after_the_cluster(tmp_path: Path) -> None:
    async def main() -> None:
        async with control_plane(tmp_path) as plane:
            documents = tmp_path / "conf.d"
            documents.mkdir()
            for name in ("api", "legacy"):
                (documents / f"{name}.yaml").write_text(
                    f"apiVersion: meshd.io/v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n"
                    "spec: {port: 80, endpoints: [{address: 192.0.2.9, port: 80}]}\n"
                )
            more = Discovery(name="more", file=FileDiscovery(str(documents)))
            plane.installation = replace(plane.installation, discovery=(more,))
            plane.service("shop", service("api", ("http", 80, 8080), selector={"app": "api"}))
            plane.slice("shop", slice_of("api", "api-a", endpoint("192.0.2.1"), ports={"http": 8080}))
            async with plane.controller() as controller:
                sidecar = await plane.connect(controller, plane.issue(WEB))
                for name, address in (("api", "192.0.2.1"), ("legacy", "192.0.2.9")):
                    answer = await sidecar.call(WatchDestination(name, "shop"))
                    assert isinstance(answer, Destination)
                    assert answer.found is not None
                    assert [each.address for each in answer.found.endpoints] == [address]
                await sidecar.close()

    aio.run(main())


def test_what_is_refused_and_why(tmp_path: Path) -> None:
    async def main() -> None:
        async with control_plane(tmp_path) as plane, plane.controller() as controller:
            plane.pod("shop", "web-1", "web")
            plane.pod("shop", "api-1", "api")
            web, api = plane.token("shop", "web"), plane.token("shop", "api")
            other = plane.cluster.add("system:serviceaccount:shop:web", "vault")
            expired = plane.signed("shop", "web", exp=int(time.time()) - 1)
            bound = plane.signed("shop", "web", pod="web-2")
            _, request = csr()
            client = await plane.connect(controller)
            for asked, reason, retry in (
                (Attach("1", pod="shop/web-1"), "neither a certificate nor a token", False),
                (Attach("1", token="x", pod="shop/web-1"), "no service account's token", True),
                (Attach("1", token=other, pod="shop/web-1"), "does not know the service account's token", True),
                (Attach("1", token=expired, pod="shop/web-1"), "does not know the service account's token", True),
                (Attach("1", token=bound, pod="shop/web-1"), "of the pod shop/web-2, and not of shop/web-1", False),
                (Attach("1", token=web, pod="shop/api-1"), "of the service account shop/api, and not of", False),
                (Attach("1", token=web, pod="shop/web-9"), "there is no pod shop/web-9", True),
                (Attach("1", token=web, pod="../x"), "not the name of a pod", False),
                (SignCertificate("shop/web", request), "there is no token", False),
                (
                    SignCertificate("shop/web", request, api),
                    "is not the workload of this pod, which is shop/api",
                    False,
                ),
                (SignCertificate("shop/web", "x" * 20_000, web), "a CSR has at most 16 KiB", False),
                (SignCertificate("shop/web", "none", web), "the CA does not sign this", True),
                (WatchDestination("api", "shop"), "connect with one", False),
                (GetStatus(), "connect with one", False),
            ):
                answer = await client.call(asked)
                assert reason in refused(answer)
                assert isinstance(answer, Refused)
                assert answer.retry == retry, asked
            held = await certified(plane, client)
            proven = await plane.connect(controller, held)
            _, apis = csr(f"spiffe://{DOMAIN}/ns/shop/sa/api")
            assert "which is shop/web" in refused(await proven.call(SignCertificate("shop/api", apis, api)))
            assert "and not of shop/web" in refused(await proven.call(Attach("1", pod="shop/api-1")))
            assert "does not answer IdentifyCaller" in refused(await proven.call(IdentifyCaller(1, 1)))
            await client.close()
            await proven.close()

    aio.run(main())


def test_a_certificate_that_is_denied_or_of_others_is_turned_away(tmp_path: Path) -> None:
    async def main() -> None:
        async with control_plane(tmp_path) as plane, plane.controller() as controller:
            first = await plane.connect(controller)
            held = await certified(plane, first)
            open_ = await plane.connect(controller, held)
            assert await open_.call(WatchDestination("nobody", "shop")) == Destination(None)
            controller.server.deny(frozenset({WEB}))
            await open_.closed()
            assert "is denied" in refused(open_.heard[0][0])
            again = await plane.connect(controller, held)
            assert "is denied" in refused(await again.answer(0))
            await again.closed()
            stranger = Root().held(WEB)
            assert await nothing_heard(controller.server.address, control_context(plane.bundle_pem, stranger))
            assert await nothing_heard(controller.server.address, ssl_without_alpn(plane.bundle_pem), b"Attach")
            host = await plane.connect(controller, plane.issue(f"spiffe://{DOMAIN}/node/vm1"))
            assert "of the host vm1, and no workload's" in refused(await host.answer(0))
            for client in (first, open_, again, host):
                await client.close()

    aio.run(main())


def test_a_real_sidecar_gets_its_certificate_and_shows_it(tmp_path: Path) -> None:
    """The program itself, as the injector would start it. What is denied of it, it has anew."""

    async def main() -> None:
        async with control_plane(tmp_path) as plane, plane.controller() as controller:
            plane.pod("shop", "web-1", "web")
            log = (tmp_path / "proxy.log").open("wb")
            environment = plane.environment("shop/web-1", "web", controller.server.address)
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "proxy.main", env=environment, stdout=log, stderr=log
            )
            try:
                server = controller.server
                await eventually(
                    lambda: server.connections == 1 and server.strangers == 0 and controller.core.sidecars.count == 1,
                    "the sidecar is attached by its certificate",
                )
                (status,) = controller.core.status(60.0).workloads
                assert (status.namespace, status.name) == ("shop", "web")
                await eventually(
                    lambda: controller.core.status(60.0).workloads[0].certificate_not_after > 0.0, "it says so"
                )
                (serial,) = plane.serials(WEB)
                server.deny(frozenset({serial}))
                await eventually(lambda: len(plane.serials(WEB)) == 2, "it has another certificate")
                await eventually(
                    lambda: server.connections == 1 and server.strangers == 0 and controller.core.sidecars.count == 1,
                    "and is served by that",
                )
            finally:
                child.terminate()
                await child.wait()
                log.close()
            text = (tmp_path / "proxy.log").read_text()
            assert text.count("certificate until") == 2
            assert "is denied" in text
            assert "eyJ" not in text  # no token

    aio.run(main())


def test_a_real_sidecar_whose_token_is_not_good_waits_for_one_that_is(tmp_path: Path) -> None:
    """One for another audience, one that has expired; the kubelet then writes one that is good."""

    async def main() -> None:
        async with control_plane(tmp_path) as plane, plane.controller() as controller:
            plane.pod("shop", "web-1", "web")
            environment = plane.environment("shop/web-1", "web", controller.server.address)
            file, results = tmp_path / "shop-web-1.token", controller.core.reviews.results
            assert environment[TOKEN_FILE] == str(file)
            good = file.read_text()
            file.write_text(plane.cluster.add("system:serviceaccount:shop:web", "vault"))
            log = tmp_path / "proxy.log"
            with log.open("wb") as output:
                child = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "proxy.main", env=environment, stdout=output, stderr=output
                )
            try:
                await eventually(lambda: results["refused"] >= 1, "the other audience is refused")
                refused_before = results["refused"]
                file.write_text(plane.signed("shop", "web", exp=int(time.time()) - 1))
                await eventually(lambda: results["refused"] >= refused_before + 2, "and one that has expired")
                said = "does not take this proxy: the cluster does not know the service account's token"
                await eventually(lambda: said in log.read_text(), "which is said")
                assert controller.core.sidecars.count == 0
                assert plane.serials(WEB) == []
                file.write_text(good)
                await eventually(lambda: len(plane.serials(WEB)) == 1, "it has its certificate", 60.0)
                await eventually(lambda: controller.core.sidecars.count == 1, "it is attached", 60.0)
            finally:
                child.kill()
                await child.wait()
            assert log.read_text().count(said) == 1

    aio.run(main())
