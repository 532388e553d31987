"""Applications in a cluster, and a virtual machine beside it: one mesh, by what docs/kubernetes.md says to type.

The cluster is played, or the one that `make test-k8s` names (`tests.support.clusters`). The control plane is what
`meshd install` prints, as pods; sidecars are what its webhook puts into the applications' manifests as the API server
admits their pods. Nothing of them knows of the mesh. The tests are one walk, in their order.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.guide import Guide
from tests.support.applications import Machine, callers, identity
from tests.support.clusters import APPLICATIONS, AnyCluster
from tests.support.kubelet.played import PlayedCluster, played_cluster
from tests.support.kubernetes.worlds import REAL
from tests.support.real_cluster import Unfit, real_cluster

IS_REAL = bool(os.environ.get(REAL))

pytestmark = [
    pytest.mark.skipif(
        not IS_REAL and os.geteuid() != 0, reason="makes namespaces and becomes other users: needs root"
    ),
    pytest.mark.peer("kubectl", *(() if IS_REAL else ("nft", "ip", "nsenter", "unshare", "setpriv", "curl"))),
    pytest.mark.timeout(2400 if IS_REAL else 600),
]

MESHED = {
    "emojivoto": ("deploy/emoji", "deploy/voting", "deploy/web"),
    "todo": ("deploy/backend", "deploy/frontend"),
    "store": ("sts/store", "deploy/reader"),
}
"""Namespace → what is in it, of those with sidecars because a manifest says so."""


UNTYPED = {"The image", "Another root", "Manifests", "The webhooks"} | (
    {"Hosts in the same mesh"} if IS_REAL else set()
)
"""The first two have tests of their own, the next two are no commands. There is no machine beside a real cluster."""


class World:
    """A cluster with the mesh and the applications in it, made by the page."""

    def __init__(self, cluster: AnyCluster) -> None:
        self.cluster, self.guide = cluster, Guide("kubernetes.md")
        cluster.applies("shop")
        cluster.rolled("shop", "deploy/web")
        self.types("Install", {"registry.example/meshd:0.1.0": cluster.image + " --set replicas=2"})
        cluster.rolled("shop", "deploy/web")
        for name in MESHED:
            cluster.applies(name)
        for namespace, workloads in MESHED.items():
            cluster.rolled(namespace, *workloads)

    def types(self, section: str, words: Mapping[str, str] | None = None) -> list[str]:
        """What was printed, command by command."""
        return [self.cluster.types(each) for each in self.guide.commands(section, words)]

    def votes(self) -> dict[str, set[str]]:
        return callers(self.cluster.asks("store", "reader", "http://web-svc.emojivoto/"))


VOTES = {
    "web": {identity("store", "reader")},
    "emoji": {identity("emojivoto", "web")},
    "voting": {identity("emojivoto", "web")},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[AnyCluster]:
    with tempfile.TemporaryDirectory(prefix="meshd-cluster-") as directory:
        Path(directory).chmod(0o755)
        try:
            with real_cluster(Path(directory)) if IS_REAL else played_cluster(Path(directory)) as one:
                yield one
        except Unfit as error:
            pytest.exit(f"not tested: {error}", returncode=2)


@pytest.fixture(scope="module")
def world(cluster: AnyCluster) -> World:
    return World(cluster)


@pytest.fixture(scope="module")
def machine(world: World) -> Iterator[Machine]:
    if not isinstance(world.cluster, PlayedCluster):
        pytest.skip("there is no machine that pods of this cluster are known to reach")
    with ExitStack() as held:
        yield Machine(world.cluster, world.guide, held)


def sidecars(pod: Mapping[str, Any]) -> int:
    names = [each["name"] for each in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])]
    return names.count("meshd-proxy")


def test_every_pod_has_a_sidecar_and_no_other(world: World) -> None:
    for namespace, count in (("shop", 1), *((each, 1) for each in MESHED), ("meshd", 0)):
        pods = world.cluster.pods(namespace)
        assert pods
        assert [sidecars(each) for each in pods] == [count] * len(pods), namespace


def test_votes_go_from_one_identity_to_the_next(world: World) -> None:
    assert world.votes() == VOTES


def test_a_store_of_several_is_asked_by_its_members_names(world: World) -> None:
    said = world.cluster.asks("store", "reader", "http://127.0.0.1:8080/")
    assert [each["name"] for each in said["behind"]] == ["store-0", "store-1"]
    assert [each["kept"] for each in said["behind"]] == ["kept", "kept"]
    for name in ("store-0", "store-1"):
        page = world.cluster.metrics("store", name)
        opened = [line for line in page.splitlines() if line.startswith("tcp_open_total") and '"7000"' in line]
        assert any(identity("store", "reader") in line and 'tls="true"' in line for line in opened), opened


def test_pods_reach_the_machine_and_the_machine_pods(machine: Machine) -> None:
    got = machine.does(
        "curl", "-sS", "--fail", "--max-time", "60", "-x", "http://127.0.0.1:4140", "http://frontend.todo.svc/"
    )
    said = json.loads(got)
    assert callers(said) == {
        "frontend": {identity("todo", "db")},
        "backend": {identity("todo", "frontend")},
        "db": {""},
    }
    opened = [line for line in machine.metrics().splitlines() if line.startswith("tcp_open_total")]
    assert any(identity("todo", "backend") in line and 'tls="true"' in line for line in opened), opened


def test_a_job_ends(world: World) -> None:
    """And its sidecar with it."""
    world.cluster.applies("once")
    world.cluster.kubectl("wait", "-n", "todo", "--for=condition=complete", "job/once", "--timeout=300s")
    (pod,) = world.cluster.pods("todo", "app=once")
    assert (sidecars(pod), pod["status"]["phase"]) == (1, "Succeeded")
    world.cluster.kubectl("delete", "-n", "todo", "job/once")


def test_the_mesh_is_found_to_be_well(world: World) -> None:
    """By who administers the cluster, from outside and in the controller's own pod."""
    said = world.cluster.does("meshd", "check", "--kubernetes", "--proxy", "--wait", "5m")
    assert "Status check results are √" in said, said
    (first, *_) = world.cluster.pods("meshd", "app.kubernetes.io/name=meshd-controller")
    status = world.cluster.exec("meshd", first["metadata"]["name"], "controller", "meshd", "status")
    assert status.returncode == 0, status.stderr


def test_a_controller_that_is_lost_takes_nothing_with_it(world: World) -> None:
    """And a pod that starts after that finds the other."""
    cluster = world.cluster
    cluster.kubectl("scale", "-n", "meshd", "deploy/meshd-controller", "--replicas=1")
    assert world.votes() == VOTES
    cluster.rolled("meshd", "deploy/meshd-controller")
    cluster.kubectl("rollout", "restart", "-n", "emojivoto", "deploy/voting")
    cluster.rolled("emojivoto", "deploy/voting")
    assert world.votes() == VOTES


def test_the_issuer_is_renewed_and_nobody_restarts(world: World) -> None:
    before = {each["metadata"]["name"] for each in world.cluster.pods("meshd")}
    world.types("Other keys")
    assert "√ the issuer can be read, and fits the trust anchors" in world.cluster.types("meshd check --wait 5m")
    assert before <= {each["metadata"]["name"] for each in world.cluster.pods("meshd")}
    assert world.votes() == VOTES


def test_a_manifest_gets_its_annotation_as_the_page_has_it(world: World) -> None:
    cluster = world.cluster
    cluster.kubectl("annotate", "namespace", "shop", "meshd.io/inject-")
    manifests = yaml.safe_load_all(cluster.application((APPLICATIONS / "shop.yaml").read_text()))
    (web,) = [each for each in manifests if each["kind"] == "Deployment"]
    (cluster.desk / "web.yaml").write_text(yaml.safe_dump(web))
    for command in world.guide.commands("Pods into the mesh"):  # each in place of the others
        cluster.types(command)
        cluster.rolled("shop", "deploy/web")
    template = cluster.find("deploy", "shop", "web")["spec"]["template"]
    assert template["metadata"]["annotations"]["meshd.io/inject"] == "enabled"
    assert callers(cluster.asks("store", "reader", "http://web.shop/"))["web"] == {identity("store", "reader")}


def test_another_version_comes_as_the_page_has_it(world: World) -> None:
    image = {} if isinstance(world.cluster, PlayedCluster) else {"registry.example/meshd:0.2.0": world.cluster.image}
    world.types("Upgrade", image)
    world.cluster.rolled("shop", "deploy/web")
    assert world.votes() == VOTES


def test_nothing_is_left_of_it(world: World) -> None:
    cluster = world.cluster
    cluster.kubectl("delete", "namespace", *MESHED)
    for command in world.guide.commands("Uninstall"):
        cluster.types(command)
        cluster.rolled("shop", "deploy/web")
    assert [sidecars(each) for each in cluster.pods("shop")] == [0]
    for kind in ("namespaces", "crd", "clusterroles", "clusterrolebindings", "mutatingwebhookconfigurations"):
        assert "meshd" not in cluster.kubectl("get", kind, "-o", "name")
    assert world.guide.untyped() - UNTYPED == set(), "a command of the page is not tried"
