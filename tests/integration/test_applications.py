"""Three applications in a cluster that is played, and a virtual machine beside it: one mesh.

The control plane is what `meshd install` prints, as pods; sidecars are what its webhook puts into the applications'
manifests as the API server admits their pods. Nothing of them knows of the mesh.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.kubelet.life import Life
from tests.support.kubelet.played import PlayedCluster, played_cluster
from tests.support.meshed import MESHD
from tests.support.processes import running
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces and becomes other users: needs root"),
    pytest.mark.peer("kubectl", "nft", "ip", "nsenter", "unshare", "setpriv", "curl"),
    pytest.mark.timeout(600),
]

APPLICATIONS = Path(__file__).parents[1] / "applications"
TIER = [sys.executable, "-P", str(Path(__file__).parents[1] / "support" / "programs" / "tier.py")]
IMAGES = {
    f"docker.example/{name}": TIER
    for name in ("emoji", "voting", "web", "todo-backend", "todo-frontend", "store", "reader")
}


def identity(namespace: str, account: str) -> str:
    return f"spiffe://cluster.local/ns/{namespace}/sa/{account}"


def callers(said: dict[str, Any]) -> dict[str, set[str]]:
    """Who called whom, in all that was asked for an answer."""
    found: dict[str, set[str]] = {said["name"]: {said["caller"]}}
    for each in said.get("behind", ()):
        for name, by in callers(each).items():
            found.setdefault(name, set()).update(by)
    return found


class Machine:
    """A virtual machine: an agent that joined, its proxy, and the database as a process on loopback."""

    def __init__(self, cluster: PlayedCluster, held: ExitStack) -> None:
        self._cluster, self._directory = cluster, cluster.directory / "vm"
        (self._directory / "conf.d").mkdir(parents=True)
        hosts = self._directory / "hosts"
        hosts.write_text(
            "".join(f"{address} {name}\n" for name, address in cluster.hosts.items() if " " not in address)
        )
        script = f'mount --bind {hosts} /etc/hosts && exec "$@"'
        self._on = cluster.node.neighbour(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "vm"])
        self._join()
        self._begin(held)

    def does(self, *argv: str) -> str:
        return self._cluster.node.run(*self._on[2:], *argv, within=self._cluster.node.outside)

    def _join(self) -> None:
        ca = self._cluster.lives["meshd", "meshd-ca-0"]
        made = ca.run("ca", "meshd", "ca", "token", "create", "--node", "vm1", "--workload", "todo/db")
        assert made.returncode == 0, made.stderr
        place = self._directory
        settings = ("--config", str(place / "meshd.yaml"), "--state-dir", str(place / "state"))
        self.does(
            *MESHD,
            "join",
            "https://meshd-ca.meshd.svc:4180",
            "--node",
            "vm1",
            "--token",
            made.stdout.strip(),
            *settings,
        )
        (place / "conf.d" / "db.yaml").write_text(
            "apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {name: db, namespace: todo}\n"
            "spec: {ports: [{port: 5432, protocol: tcp}]}\n"
        )
        with (place / "meshd.yaml").open("a") as file:
            file.write(
                f"socket: {place}/meshd.sock\nadmin: ''\nnames: {{listen: ''}}\ncapture: {{enabled: false}}\n"
                "workloadApi: {enabled: false}\ndiscovery:\n"
                f"- file: {{path: {place}/conf.d}}\n- kubernetes: {{kubeconfig: {self._cluster.kubeconfig}}}\n"
            )

    def _begin(self, held: ExitStack) -> None:
        place = self._directory
        held.enter_context(running([*self._on, *TIER, "db", "--store", "5432"], place / "db.log", lambda: True))
        agent = [*self._on, *MESHD, "agent", "--config", str(place / "meshd.yaml")]
        held.enter_context(running(agent, place / "agent.log", (place / "meshd.sock").exists))
        proxy = [*self._on, sys.executable, "-P", "-m", "proxy.main", "--control", f"{place}/meshd.sock"]
        held.enter_context(running(proxy, place / "proxy.log", lambda: True))
        ready = ["curl", "-sf", "--max-time", "5", "http://127.0.0.1:4191/ready"]
        node = self._cluster.node
        wait_until(lambda: node.tried(*ready, within=node.outside).returncode == 0, "the machine's proxy is ready", 90)

    def metrics(self) -> str:
        return self.does("curl", "-sf", "http://127.0.0.1:4191/metrics")


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
