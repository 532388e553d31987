"""A cluster of IPv6 alone, and a machine beside it: no interface but loopback has an address of IPv4.

The control plane is what `meshd install` prints, as pods; the kubelet probes these and meshed ones at their addresses.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.guide import Guide
from tests.support.applications import Machine, callers, identity
from tests.support.clusters import APPLICATIONS
from tests.support.kubelet.node import NODE6, OUTSIDE, OUTSIDE6
from tests.support.kubelet.played import PlayedCluster, played_cluster

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces and becomes other users: needs root"),
    pytest.mark.peer("kubectl", "nft", "ip", "nsenter", "unshare", "setpriv", "curl"),
    pytest.mark.timeout(600),
]


class World:
    """The cluster with the mesh, an application of two parts, and the machine with its database."""

    def __init__(self, cluster: PlayedCluster, held: ExitStack) -> None:
        self.cluster = cluster
        cluster.types("meshd install | kubectl apply -f -")
        cluster.types("meshd check --wait 5m")
        self.machine = Machine(cluster, Guide("kubernetes.md"), held)
        cluster.rolled("meshd", "deploy/meshd-controller")
        todo = (APPLICATIONS / "todo.yaml").read_text().replace(OUTSIDE, OUTSIDE6)
        cluster.kubectl("apply", "-f", "-", given=cluster.application(todo))
        cluster.rolled("todo", "deploy/backend", "deploy/frontend")

    def address(self, namespace: str, app: str) -> str:
        return str(self.cluster.pod(namespace, app)["status"]["podIP"])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="meshd-cluster-") as directory:
        Path(directory).chmod(0o755)
        with played_cluster(Path(directory), ipv4=False) as cluster, ExitStack() as held:
            yield World(cluster, held)


def test_pods_and_the_machine_call_each_other_by_mutual_tls(world: World) -> None:
    asked = ("--max-time", "60", "-x", "http://127.0.0.1:4140", "http://frontend.todo.svc/")
    said = json.loads(world.machine.does("curl", "-sS", "--fail", *asked))
    assert callers(said) == {
        "frontend": {identity("todo", "db")},
        "backend": {identity("todo", "frontend")},
        "db": {""},
    }
    opened = [line for line in world.machine.metrics().splitlines() if line.startswith("tcp_open_total")]
    assert any(identity("todo", "backend") in line and 'tls="true"' in line for line in opened), opened


def test_nothing_had_another_address(world: World) -> None:
    for life in world.cluster.controllers.lives.values():
        assert life.address.startswith("fd00:244::")
        assert "10." not in world.cluster.node.run("ip", "-4", "address", within=life.network.file)
    assert "10." not in world.cluster.node.run("ip", "-4", "address", within=world.cluster.node.outside)


def test_metrics_of_all_are_scraped(world: World) -> None:
    ports = {"meshd-controller": 4192, "meshd-ca": 4181, "backend": 4191, "frontend": 4191}
    for namespace in ("meshd", "todo"):
        for pod in world.cluster.pods(namespace):
            (workload,) = [each for each in ports if pod["metadata"]["name"].startswith(f"{each}-")]
            url = f"http://[{pod['status']['podIP']}]:{ports.pop(workload)}/metrics"
            page = world.cluster.node.run("curl", "-sSf", url)
            assert "# TYPE" in page
            assert "::ffff:" not in page
    assert not ports


def test_who_is_not_in_the_mesh_calls_as_without_it(world: World) -> None:
    said = json.loads(
        world.cluster.node.run(
            "curl", "-sSf", "--max-time", "60", f"http://[{world.address('todo', 'frontend')}]:8080/"
        )
    )
    assert callers(said)["frontend"] == {""}
    assert callers(said)["backend"] == {identity("todo", "frontend")}


def test_the_mesh_is_found_to_be_well(world: World) -> None:
    assert world.cluster.node.address == NODE6
    said = world.cluster.does("meshd", "check", "--kubernetes", "--proxy", "--wait", "5m")
    assert "Status check results are √" in said, said


@pytest.mark.parametrize("mode", ["nft", "iptables-nft"])
def test_rules_are_seen_to_be_there(world: World, mode: str) -> None:
    node, pod = world.cluster.node, world.cluster.node.plug().file
    init = (sys.executable, "-P", "-m", "k8s.init")
    missed = node.tried(*init, "--check", "--timeout=0.5", within=pod)
    assert missed.returncode == 1
    assert "no rules are in force for IPv6, and none came" in missed.stderr
    node.run(*init, f"--mode={mode}", within=pod)
    node.run(*init, "--check", within=pod)
