"""The CA and a controller as their manifests have them run: made by kubectl at a double of the API server, their
containers played with their own arguments, files, user and rights; a pod asks for its service account's certificate."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from k8s.manifests.identity import make
from tests.support.asking import SHOP, asks_at, pod_spec
from tests.support.kubernetes.administered import Kubectl
from tests.support.meshed import MESHD
from tests.support.pods import Manifest, Pod
from tests.support.processes import running
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces and becomes other users: needs root"),
    pytest.mark.timeout(900),  # it starts some thirty processes that load half a second's worth of Python each
    pytest.mark.peer("kubectl", "unshare", "nsenter", "setpriv", "ip", "curl"),
]

API = ("127.98.0.1", 443)
HERE = "127.0.0.1"
"""All pods are in one network here, and listen at ports of their own."""
CA = "https://meshd-ca.meshd.svc:4180"


class World:
    """One network for a cluster's API server and its pods."""

    def __init__(self, directory: Path, pid: int) -> None:
        self.directory = directory
        self.enter = ["nsenter", f"--net=/proc/{pid}/ns/net"]
        self.kubectl = Kubectl(directory, self.says)

    def says(self, *argv: str, given: str = "", status: int = 0) -> str:
        environment = {**os.environ, "HOME": str(self.directory), "KUBECONFIG": str(self.directory / "kubeconfig")}
        done = subprocess.run(
            [*self.enter, *argv], input=given, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == status, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr if status else done.stdout

    def install(self) -> None:
        self.kubectl.apply(self.says(*MESHD, "install"))

    def find(self, kind: str, namespace: str, name: str) -> Manifest:
        return self.kubectl.find(kind, namespace, name)

    def pod(self, manifest: Manifest, namespace: str, name: str) -> Pod:
        ours = dict.fromkeys(("meshd-ca.meshd.svc", "meshd-ca.meshd.svc.cluster.local"), HERE)
        around = self.kubectl.surroundings(API, {"kubernetes.default.svc": API[0]} | ours)
        claims = self.directory / "claims"
        return Pod(manifest, namespace, name, around, self.directory / f"pod-{name}", self.enter, claims=claims)

    def ca(self) -> Pod:
        template = self.find("StatefulSet", "meshd", "meshd-ca")["spec"]["template"]
        return self.pod(template, "meshd", "meshd-ca-0")

    def controller(self) -> Pod:
        template = self.find("Deployment", "meshd", "meshd-controller")["spec"]["template"]
        return self.pod(template, "meshd", "meshd-controller-0")

    def execute(self, pod: Pod, *argv: str) -> str:
        """As `kubectl exec`."""
        (container,) = pod.containers()
        return self.says(*pod.prepared(container, argv)[len(self.enter) :])

    def anchors(self) -> str:
        return str(self.find("ConfigMap", "meshd", "meshd-config")["data"]["trust-anchors.pem"])

    def asks(self, identity: str) -> Pod:
        """A pod of the service account shop/web, as an injector would have it, that asks for a certificate."""
        spec = pod_spec(identity, self.anchors(), asks_at(CA))
        spec["containers"][0]["securityContext"] = {
            "runAsUser": 2102, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
        }  # fmt: skip
        return self.pod({"spec": spec}, "shop", "web-0")

    def refused(self, identity: str) -> str:
        pod = self.asks(identity)
        (container,) = pod.containers()
        return self.says(*pod.prepared(container)[len(self.enter) :], status=1)

    def signed(self, identity: str) -> x509.Certificate:
        pod = self.asks(identity)
        (container,) = pod.containers()
        return x509.load_pem_x509_certificate(self.says(*pod.prepared(container)[len(self.enter) :]).encode())


@contextmanager
def network() -> Iterator[int]:
    """A network namespace with a loopback of its own: the process that holds it."""
    argv = ["unshare", "--net", "sh", "-c", "ip link set lo up && exec sleep 3600"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: "UP" in _links(process.pid), "there is a network")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _links(pid: int) -> str:
    argv = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "link", "show", "up"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout if _is_apart(pid) else ""


def _is_apart(pid: int) -> bool:
    return os.stat(f"/proc/{pid}/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("cluster")
    for each in (directory, directory.parent):
        each.chmod(0o755)
    with network() as pid:
        made = World(directory, pid)
        argv = [*made.enter, sys.executable, "-m", "tests.support.kubernetes", str(directory), f"{API[0]}:{API[1]}"]
        with running(argv, directory / "api.log", (directory / "kubeconfig").exists, deadline_s=180.0):
            made.install()
            made.kubectl.apply(SHOP)
            yield made


def test_the_ca_of_a_cluster_from_its_manifest(world: World) -> None:
    """One story, since a start of the CA takes seconds: it signs for pods, keeps what it was told over its restart,
    takes up other trust anchors with that, and says what it lacks."""
    pod = world.ca()
    with pod.runs() as processes:
        issued = world.signed("spiffe://cluster.local/ns/shop/sa/web")
        (uri,) = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert uri.value == "spiffe://cluster.local/ns/shop/sa/web"
        assert "is not the service account shop/web's" in world.refused("spiffe://cluster.local/ns/shop/sa/api")
        status = Path(f"/proc/{processes['ca'].pid}/status").read_text()
        assert "Uid:\t2102\t2102\t2102\t2102" in status
        assert "CapEff:\t0000000000000000" in status
        assert "CapBnd:\t0000000000000000" in status
        controller = world.controller()
        with controller.runs():  # which is to be ready, and so to have a certificate
            assert "meshd-controller" in world.execute(controller, "meshd", "status")
            for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
                (webhook,) = world.find(kind, "meshd", "meshd-injector")["webhooks"]
                assert x509.load_pem_x509_certificates(base64.b64decode(webhook["clientConfig"]["caBundle"]))
        world.execute(pod, "meshd", "ca", "issued", "revoke", "--workload", "shop/gone")
    keys = world.directory / "claims" / "meshd-ca" / "meshd-ca"
    assert not any(file.stat().st_mode & 0o007 for file in keys.iterdir() if file.suffix == ".key")

    before, other = world.anchors(), make("cluster.local", 1_800_000_000.0)[0].anchors
    patch = {"data": {"trust-anchors.pem": before + other}}
    world.kubectl("patch", "configmap", "-n", "meshd", "meshd-config", "-p", json.dumps(patch))
    pod = world.ca()
    with pod.runs():
        world.signed("spiffe://cluster.local/ns/shop/sa/web")
        assert "/ns/shop/sa/gone" in world.execute(pod, "meshd", "ca", "issued", "denied")
        bundle = world.execute(pod, "meshd", "ca", "bundle")
        assert set(x509.load_pem_x509_certificates(bundle.encode())) == set(
            x509.load_pem_x509_certificates((before + other).encode())
        )
        world.kubectl("delete", "clusterrolebinding", "meshd-ca")
        world.refused("spiffe://cluster.local/ns/shop/sa/web")
    said = pod.log("ca").read_text()
    assert "bind its service account to the role system:auth-delegator (status 403)" in said
