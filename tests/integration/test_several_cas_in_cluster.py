"""Several CAs in a cluster, as `meshd install --ha` has them: pods of their manifest at a double of the API server,
with the rights that their role gives them, and one after the other taken away."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.asking import SHOP, asks_at, pod_spec
from tests.support.kubelet.life import Life
from tests.support.kubelet.played import PlayedCluster, played_cluster
from tests.support.meshed import MESHD
from tests.support.pods import Pod
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces and becomes other users: needs root"),
    pytest.mark.peer("kubectl", "nft", "ip", "nsenter", "unshare", "setpriv"),
    pytest.mark.timeout(600),
]

CA = "meshd-ca.meshd.svc"
NAMES = ("meshd-ca-2", "meshd-ca-1", "meshd-ca-0")
"""In the order in which they are lost."""
CERTIFICATE = "-----BEGIN CERTIFICATE-----"


class World:
    """The CAs of a cluster, and who asks them."""

    def __init__(self, cluster: PlayedCluster) -> None:
        self.cluster = cluster
        printed = cluster.does("meshd", "install", "--ha")
        self.printed = [each for each in yaml.safe_load_all(printed) if each]
        without = [each for each in self.printed if each["kind"] != "Deployment"]  # nobody asks the controllers here
        cluster.kubectl("apply", "-f", "-", given=yaml.safe_dump_all(without))
        cluster.kubectl("apply", "-f", "-", given=SHOP)
        cluster.rolled("meshd", "sts/meshd-ca")
        self._asked = 0

    def ca(self, name: str) -> Life:
        return self.cluster.controllers.life("meshd", name)

    def scaled(self, count: int) -> None:
        """There are so many of them, and nothing of the others."""
        self.cluster.kubectl("scale", "-n", "meshd", "sts/meshd-ca", f"--replicas={count}")
        self.cluster.rolled("meshd", "sts/meshd-ca")
        wait_until(
            lambda: len(self.cluster.pods("meshd")) == len(self.cluster.controllers.lives) == count,
            f"there are {count}",
            120,
        )
        gone = NAMES[: len(NAMES) - count]
        one = ("get", "pods", "-n", "meshd", "--ignore-not-found", "-o", "name")
        wait_until(lambda: not any(self.cluster.kubectl(*one, name) for name in gone), "the others are gone", 120)

    def execute(self, name: str, *argv: str) -> str:
        """As `kubectl exec` in the pod of a CA."""
        done = self.ca(name).run("ca", "meshd", "ca", *argv)
        assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def status(self, by: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.execute(by, "status", "-o", "json"))
        return found

    def alive(self, by: str) -> list[str]:
        return [each["name"] for each in self.status(by)["authorities"]]

    def sequence(self, by: str) -> int:
        return int(self.status(by)["sequence"])

    def asks(self, of: str, *command: str) -> "subprocess.CompletedProcess[str]":
        """A command of a pod of the service account shop/web, for which the CA in that pod is the only one."""
        self._asked += 1
        anchors = self.cluster.find("ConfigMap", "meshd", "meshd-config")["data"]["trust-anchors.pem"]
        spec = pod_spec("spiffe://cluster.local/ns/shop/sa/web", anchors, list(command))
        spec["containers"][0]["volumeMounts"].append({"name": "files", "mountPath": "/files"})
        spec["volumes"].append({"name": "files", "emptyDir": {}})
        around = self.cluster.surroundings({**self.cluster.hosts, CA: self.ca(of).address})
        directory = self.cluster.directory / f"asks-{self._asked}"
        enter = ["nsenter", f"--net={self.cluster.node.file}"]
        pod = Pod({"spec": spec}, "shop", f"web-{self._asked}", around, directory, enter)
        argv = pod.prepared(pod.containers()[0])
        return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)

    def certificate(self, of: str) -> "subprocess.CompletedProcess[str]":
        return self.asks(of, *asks_at(f"https://{CA}:4180"))

    def joins(self, of: str, node: str, token: str) -> "subprocess.CompletedProcess[str]":
        there = ("--config", "/files/meshd.yaml", "--state-dir", "/files/state")
        return self.asks(of, *MESHD, "join", f"https://{CA}:4180", "--token", token, "--node", node, *there)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="meshd-cas-") as directory:
        Path(directory).chmod(0o755)
        with played_cluster(Path(directory)) as cluster:
            yield World(cluster)


def test_new_pods_have_certificates_while_one_ca_after_the_other_is_lost(world: World) -> None:
    assert all(CERTIFICATE in world.certificate(name).stdout for name in NAMES)
    assert world.alive(NAMES[0]) == sorted(NAMES)

    token = world.execute(NAMES[0], "token", "create", "--node", "vm*", "--workload", "shop/web").split()[0]
    first, second = world.joins(NAMES[1], "vm1", token), world.joins(NAMES[2], "vm2", token)
    assert first.returncode == 0, first.stderr
    assert second.returncode != 0
    assert "used up" in second.stderr
    assert "vm1" in world.execute(NAMES[2], "node", "list")

    world.scaled(2)
    world.execute(NAMES[1], "issued", "revoke", "--workload", "shop/web")
    denied = world.certificate(NAMES[2])
    assert denied.returncode != 0
    assert "denied" in denied.stderr
    world.execute(NAMES[2], "issued", "allow", "--workload", "shop/web")
    assert CERTIFICATE in world.certificate(NAMES[1]).stdout

    world.scaled(1)
    assert CERTIFICATE in world.certificate(NAMES[2]).stdout
    wait_until(lambda: world.alive(NAMES[2]) == [NAMES[2]], "the others are missed", 120.0)

    before = world.sequence(NAMES[2])
    shutil.rmtree(world.cluster.directory / "meshd-pods" / NAMES[1])  # a pod's own volumes go with it
    world.scaled(2)
    assert world.sequence(NAMES[2]) > before  # the bundle came with the pod, and might be another
    assert "vm1" in world.execute(NAMES[1], "node", "list")
    assert CERTIFICATE in world.certificate(NAMES[1]).stdout
    assert world.alive(NAMES[2]) == [NAMES[2], NAMES[1]]
    anchors = ("--trust-domain", "cluster.local", "--bundle", "/etc/meshd/trust-anchors.pem")
    assert "nothing is to be done" in world.execute(NAMES[1], "init", "--again", *anchors)


def test_the_cas_may_write_their_records_and_nobody_else_and_they_nothing_else(world: World) -> None:
    roles = [each for each in world.printed if each["kind"] in {"Role", "ClusterRole"}]
    assert [each["metadata"]["name"] for each in roles if "carecords" in json.dumps(each)] == ["meshd-ca"]
    token = world.cluster.token("meshd", "meshd-ca", "")

    def may(verb: str, group: str, resource: str) -> bool:
        asked = {"verb": verb, "group": group, "resource": resource, "namespace": "meshd"}
        body = {"kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": asked}}
        body = {"apiVersion": "authorization.k8s.io/v1", **body}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        made = world.cluster.kubectl("create", "--raw", path, "-f", "-", "--token", token, given=json.dumps(body))
        return bool(json.loads(made)["status"]["allowed"])

    assert may("update", "meshd.io", "carecords")
    assert not any(may(verb, "", what) for verb in ("get", "list", "create") for what in ("secrets", "configmaps"))
