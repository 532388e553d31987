"""Three applications in a cluster that is played, and a virtual machine beside it: one mesh.

The control plane is what `meshd install` prints, as pods; sidecars are what its webhook puts into the applications'
manifests as the API server admits their pods. Nothing of them knows of the mesh.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.applications import APPLICATIONS, IMAGES, Machine, callers, identity
from tests.support.kubelet.life import Life
from tests.support.kubelet.played import PlayedCluster, played_cluster
from tests.support.meshed import MESHD
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces and becomes other users: needs root"),
    pytest.mark.peer("kubectl", "nft", "ip", "nsenter", "unshare", "setpriv", "curl"),
    pytest.mark.timeout(600),
]


class World:
    """The cluster with the mesh and the applications in it."""

    def __init__(self, cluster: PlayedCluster, held: ExitStack) -> None:
        self.cluster = cluster
        cluster.install("--set", "replicas=2")
        for name in ("emojivoto", "todo", "store"):
            cluster.apply((APPLICATIONS / f"{name}.yaml").read_text())
        self.vm = Machine(cluster, held)
        for namespace, *workloads in (
            ("emojivoto", "emoji", "voting", "web"),
            ("todo", "backend", "frontend"),
            ("store", "store", "reader"),
        ):
            for name in workloads:
                cluster.begin("StatefulSet" if name == "store" else "Deployment", namespace, name)
        for life in cluster.lives.values():
            life.wait_ready()
        cluster.settle()

    def pod(self, namespace: str, name: str) -> Life:
        return self.cluster.lives[namespace, name]

    def asks(self, by: Life, url: str, *flags: str) -> dict[str, Any]:
        """What an application's own container gets of a request, once it gets something."""
        name = by.manifest.containers()[-1].name

        def got() -> dict[str, Any] | None:
            done = by.run(name, "curl", "-sS", "--fail", "--max-time", "60", *flags, url)
            self.last = done.stdout + done.stderr
            return json.loads(done.stdout) if done.returncode == 0 else None

        try:
            return wait_until(got, f"{url} answers", 60.0) or {}
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.last}\n{by.logs()}") from None

    def metrics(self, of: Life) -> str:
        return self.cluster.node.run("curl", "-sSf", f"http://{of.address}:4191/metrics")


@contextmanager
def made(directory: Path) -> Iterator[World]:
    with played_cluster(directory, IMAGES) as cluster, ExitStack() as held:
        yield World(cluster, held)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="meshd-cluster-") as directory:
        Path(directory).chmod(0o755)
        with made(Path(directory)) as one:
            yield one


def test_every_pod_has_a_sidecar_and_no_other(world: World) -> None:
    for (namespace, name), life in world.cluster.lives.items():
        names = [each["name"] for each in (*life.manifest.spec["initContainers"], *life.manifest.spec["containers"])]
        assert ("meshd-proxy" in names) == (namespace != "meshd"), (namespace, name, names)


def test_votes_go_from_one_identity_to_the_next(world: World) -> None:
    said = world.asks(world.pod("store", "reader-0"), "http://web-svc.emojivoto/")
    assert callers(said) == {
        "web": {identity("store", "reader")},
        "emoji": {identity("emojivoto", "web")},
        "voting": {identity("emojivoto", "web")},
    }


def test_a_store_of_several_is_asked_by_its_members_names(world: World) -> None:
    reader = world.pod("store", "reader-0")
    said = world.asks(reader, "http://127.0.0.1:8080/")
    assert [each["name"] for each in said["behind"]] == ["store-0", "store-1"]
    assert [each["kept"] for each in said["behind"]] == ["kept", "kept"]
    for name in ("store-0", "store-1"):
        page = world.metrics(world.pod("store", name))
        opened = [line for line in page.splitlines() if line.startswith("tcp_open_total") and '"7000"' in line]
        assert any(identity("store", "reader") in line and 'tls="true"' in line for line in opened), opened


def test_pods_reach_the_machine_and_the_machine_pods(world: World) -> None:
    got = world.vm.does(
        "curl", "-sS", "--fail", "--max-time", "60", "-x", "http://127.0.0.1:4140", "http://frontend.todo.svc/"
    )
    said = json.loads(got)
    assert callers(said) == {
        "frontend": {identity("todo", "db")},
        "backend": {identity("todo", "frontend")},
        "db": {""},
    }
    opened = [line for line in world.vm.metrics().splitlines() if line.startswith("tcp_open_total")]
    assert any(identity("todo", "backend") in line and 'tls="true"' in line for line in opened), opened


def test_the_mesh_is_found_to_be_well(world: World) -> None:
    """By who administers the cluster, from outside and in the controller's own pod."""
    said = world.cluster.does(*MESHD, "check", "--kubernetes", "--proxy")
    assert "Status check results are √" in said, said
    controller = world.pod("meshd", "meshd-controller-0")
    status = controller.run("controller", "meshd", "status")
    assert status.returncode == 0, status.stderr


def test_a_controller_that_is_lost_takes_nothing_with_it(world: World) -> None:
    """And one that starts after that finds the other."""
    cluster, reader = world.cluster, world.pod("store", "reader-0")
    cluster.delete("meshd", "meshd-controller-0")
    said = world.asks(reader, "http://web-svc.emojivoto/")
    assert callers(said)["emoji"] == {identity("emojivoto", "web")}
    cluster.settle()
    late = cluster.begin_pod(cluster.find("Deployment", "emojivoto", "voting"), "voting-late")
    late.wait_ready()
    for each in ("voting-0", "voting-1"):
        cluster.delete("emojivoto", each)
    cluster.settle()
    said = world.asks(reader, "http://web-svc.emojivoto/")
    assert callers(said)["voting"] == {identity("emojivoto", "web")}
