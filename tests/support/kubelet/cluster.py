"""A cluster's control plane on a played node: the double of the API server, a real CA and a real controller, in a
thread of the test's that is in the node's network, and pods that find them there, as the injector has left them. A
control plane that is in pods itself is another's affair (`tests.support.kubelet.played`)."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from discovery.kubernetes.names import CLUSTER_DOMAIN
from k8s.settings import Installation
from meshd.api.names import Address
from tests.support import pods
from tests.support.controllers import DOMAIN, ControlPlane, control_plane
from tests.support.kubelet import life, node
from tests.support.kubelet.mesh import given_a_sidecar
from tests.support.kubernetes.bodies import endpoint, service, slice_of
from tests.support.kubernetes.core import PODS, SERVICES

Manifest = dict[str, Any]
T = TypeVar("T")

CONTROLLER = Address(node.NODE, 8086)
NAMESPACE = "shop"
_DNS = f"meshd-controller.meshd.svc.{CLUSTER_DOMAIN}"


class Cluster:
    """See the module; made by `cluster`. `names` stand for the cluster's DNS."""

    def __init__(self, directory: Path, on: node.Node, held: ExitStack) -> None:
        self.node = on
        self.names: dict[str, str] = {_DNS: node.NODE}
        self._directory, self._held = directory, held
        self._loop = uvloop.new_event_loop()
        self._stack = AsyncExitStack()
        self._serving = AsyncExitStack()
        self._thread = threading.Thread(target=self._run, name="control plane", daemon=True)
        self._thread.start()
        held.callback(self._close)
        self.plane: ControlPlane = self.wait(self._stack.enter_async_context(control_plane(directory / "plane")))
        held.callback(self._end)
        self.settings = Installation(trust_domain=DOMAIN, trust_anchors=self.plane.bundle_pem)

    def _run(self) -> None:
        node.enter(self.node.file)
        self._loop.run_forever()

    def _close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _end(self) -> None:
        self.stop_controller()
        self.wait(self._stack.aclose())

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """What work returns, there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def do(self, work: Callable[[], T]) -> T:
        async def done() -> T:
            return work()

        return self.wait(done())

    # --- the control plane

    def start_controller(self) -> None:
        self.wait(self._serving.enter_async_context(self.plane.controller(listen=CONTROLLER)))

    def stop_controller(self) -> None:
        self.wait(self._serving.aclose())

    # --- pods and services

    def begin(self, pod: Manifest, *, native: bool = True, meshed: bool = True) -> life.Life:
        """A pod of the namespace, which the API server knows."""
        made = given_a_sidecar(pod, self.settings, native=native) if meshed else pod
        name, network = pod["metadata"]["name"], self.node.plug()
        if meshed:
            marks = made["metadata"].get("annotations", {})
            spec = {which: made["spec"][which] for which in ("initContainers", "containers")}
            self.do(lambda: self.plane.pod(NAMESPACE, name, pod["spec"]["serviceAccountName"], marks, **spec))
        around = pods.Surroundings(
            _nothing, lambda space, account, _: self.plane.token(space, account), "", ("192.0.2.1", 443), self.names
        )
        return self._held.enter_context(life.living(self.node, made, around, self._directory, network))

    def serve(self, name: str, port: int, target: int, *behind: life.Life, **spec: Any) -> str:
        """A Service before these pods; its address, empty where it is headless."""
        return self.do(lambda: self._serve(name, port, target, behind, spec))

    def _serve(self, name: str, port: int, target: int, behind: tuple[life.Life, ...], spec: dict[str, Any]) -> str:
        store = self.plane.cluster.api.store
        self.plane.service(NAMESPACE, service(name, ("tcp", port, target), selector={"app": name}, **spec))
        endpoints = []
        for each in behind:
            known = store.get(PODS.key, (NAMESPACE, each.name))
            more = {"hostname": each.name} if spec.get("clusterIP") == "None" else {}
            endpoints.append(endpoint(each.address, known, **more))
        self.plane.slice(NAMESPACE, slice_of(name, f"{name}-1", *endpoints, ports={"tcp": target}))
        made = store.get(SERVICES.key, (NAMESPACE, name))
        assert made is not None
        address = str(made["spec"]["clusterIP"])
        return "" if address == "None" else address


@contextmanager
def cluster(directory: Path) -> Iterator[Cluster]:
    with node.node() as on, ExitStack() as held:
        (directory / "plane").mkdir()
        yield Cluster(directory, on, held)


def _nothing(*asked: str) -> Any:
    raise AssertionError(f"there is no {asked} in this cluster")
