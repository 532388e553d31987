"""`meshd check` of a cluster, at a double of the API server: well, and as each thing in it goes wrong."""

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.checks import api, data_plane, identity
from k8s.checks import kinds as of
from k8s.installed import Found
from k8s.manifests.identity import KeyMaterial, make
from k8s.settings import Installation
from meshd import __version__
from tests.support import aio
from tests.support.installs import World, at
from tests.support.kubernetes import ADMIN, Rule, User
from tests.support.kubernetes.api import Place
from tests.support.kubernetes.core import CONFIG_MAPS, NAMESPACES, NODES, PODS, SECRETS, SLICES
from tests.support.kubernetes.definitions import DEFINITIONS
from tests.support.kubernetes.installed import LEASES, MUTATING, STORAGE_CLASSES, VALIDATING
from tests.support.kubernetes.kinds import Kind, Object

ROOT = Path(__file__).parents[2]


class Checked:
    """A cluster whose control plane is well, and what `meshd check` says of it."""

    def __init__(self, world: World) -> None:
        self.world, self.api = world, world.cluster.api

    def add(self, kind: Kind, namespace: str, content: Object) -> None:
        self.api.create(Place(kind, namespace), content, "test")

    def merge(self, kind: Kind, namespace: str, name: str, patch: Object, subresource: str = "") -> None:
        media = "application/merge-patch+json"
        self.api.patch(Place(kind, namespace, name, subresource), patch, media, "test")

    def install(self) -> None:
        for each in yaml.safe_load_all(self.world.meshd("install", "--ha")):
            kind = next(
                kind for kind in self.api.kinds.values() if kind.name == each["kind"] and _group(each) == kind.group
            )
            self.add(kind, each["metadata"].get("namespace", ""), each)
        for number in range(3):
            self.pod("meshd", f"meshd-controller-{number}", _component("meshd-controller"), f"node-{number}")
            self.pod("meshd", f"meshd-ca-{number}", _component("meshd-ca"), f"node-{number}")
        self.add(NAMESPACES, "", {"metadata": {"name": "kube-node-lease"}})
        self.node("node-0", 0.0, "Unknown")  # what it wrote is not renewed here
        bundle = base64.b64encode(make("cluster.local", time.time())[0].anchors.encode()).decode()
        for kind in (MUTATING, VALIDATING):
            found = self.api.get(Place(kind, "", "meshd-injector"))
            found["webhooks"][0]["clientConfig"]["caBundle"] = bundle
            self.merge(kind, "", "meshd-injector", {"webhooks": found["webhooks"]})
        self.add(SLICES, "meshd", {
            "metadata": {"name": "meshd-injector-a", "labels": {"kubernetes.io/service-name": "meshd-injector"}},
            "addressType": "IPv4", "ports": [],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}],
        })  # fmt: skip

    def pod(
        self, namespace: str, name: str, labels: dict[str, str], node: str, annotations: dict[str, str] | None = None
    ) -> None:
        """One that is ready, of one container, a sidecar where the labels say so."""
        container = "meshd-proxy" if "meshd.io/control-plane-ns" in labels else "main"
        meta = {"name": name, "labels": labels, "annotations": annotations or {}}
        spec = {"nodeName": node, "containers": [{"name": container, "image": f"meshd:{__version__}"}]}
        self.add(PODS, namespace, {"metadata": meta, "spec": spec})
        self.ready(namespace, name, container)

    def node(self, name: str, ahead_s: float, ready: str = "True") -> None:
        """One whose clock is so far ahead, and what its kubelet wrote a moment ago."""
        self.add(NODES, "", {"metadata": {"name": name}})
        self.merge(NODES, "", name, {"status": {"conditions": [{"type": "Ready", "status": ready}]}}, "status")
        renewed = datetime.fromtimestamp(time.time() + ahead_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": renewed}
        self.add(LEASES, "kube-node-lease", {"metadata": {"name": name}, "spec": spec})

    def ready(self, namespace: str, name: str, container: str, why_not: str = "") -> None:
        status = "False" if why_not else "True"
        state = {"waiting": {"reason": why_not}} if why_not else {"running": {}}
        self.merge(PODS, namespace, name, {"status": {
            "phase": "Running", "conditions": [{"type": "Ready", "status": status}],
            "containerStatuses": [{"name": container, "ready": not why_not, "state": state}],
        }}, "status")  # fmt: skip

    def check(self, *options: str, status: int = 0) -> dict[str, tuple[str, str]]:
        """(result, what is said) by the ids of checks; of several, what is worst."""
        self.world.meshd("check", "--kubernetes", *options, status=status)
        printed = self.world.output
        assert printed.count("hint: ") == printed.count("see: docs/kubernetes.md#")
        self.world.meshd("check", "--kubernetes", "-o", "json", *options, status=status)
        found: dict[str, tuple[str, str]] = {}
        for category in json.loads(self.world.output)["categories"]:
            for each in category["checks"]:
                if each["id"] not in found or each["result"] != "success":
                    found[each["id"]] = (each["result"], each.get("error", ""))
        return found


def _group(manifest: Object) -> str:
    group, slash, _ = str(manifest["apiVersion"]).partition("/")
    return group if slash else ""


def _component(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "meshd"}


def checking(directory: Path, scene: Callable[[Checked], None]) -> None:
    world = World(directory)
    aio.run(at(world, lambda: scene(Checked(world))))


def test_before_there_is_anything(tmp_path: Path) -> None:
    def scene(here: Checked) -> None:
        found = here.check("--pre")
        assert {key: result for key, (result, _) in found.items() if result != "success"} == {"pre-storage": "warning"}
        assert "none" in found["pre-storage"][1]
        usual = {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}
        here.add(STORAGE_CLASSES, "", {"metadata": {"name": "fast", **usual}, "provisioner": "x"})
        here.add(NAMESPACES, "", {
            "metadata": {"name": "strict", "labels": {"pod-security.kubernetes.io/enforce": "baseline"}}
        })  # fmt: skip
        rules = (Rule(("get", "list")), Rule(("create",), ("namespaces", "services", "selfsubjectaccessreviews")))
        here.world.cluster.users[ADMIN] = User("somebody", rules=rules)
        found = here.check("--pre", status=1)
        assert found["pre-storage"][0] == "success"
        assert found["pre-pod-security"] == ("warning", "pod security forbids NET_ADMIN in strict")
        assert found["pre-may-create"] == ("error", "the API server says no")

    checking(tmp_path, scene)


def test_a_control_plane_that_is_well(tmp_path: Path) -> None:
    def scene(here: Checked) -> None:
        here.install()
        found = here.check("--proxy")
        assert {result for result, _ in found.values()} == {"success"}
        every = {each.id for each in vars(of).values() if isinstance(each, of.Kind)}
        assert {each for each in every if not each.startswith("pre-")} == set(found)
        assert here.check("--pre", status=1)["pre-nothing-left"][1].endswith("Namespace meshd")

    checking(tmp_path, scene)


def test_nodes_whose_clocks_are_wrong(tmp_path: Path) -> None:
    def scene(here: Checked) -> None:
        assert "node-clocks" not in here.check(status=1)  # there is nothing to go by
        here.install()
        for number in range(11):  # more than are named
            here.node(f"gone-{number}", -86400.0, "Unknown")
        assert here.check()["node-clocks"][0] == "success"
        here.node("fast", 58.0)
        result, said = here.check()["node-clocks"]
        assert result == "warning"
        assert re.fullmatch(r"fast is at least \d\d s ahead of the API server", said), said
        here.node("slow", -3600.0)
        result, said = here.check(status=1)["node-clocks"]
        assert result == "error"
        assert re.search(r"^slow is at least 3[56]\d\d s behind the API server$", said, re.M), said
        rules = (Rule(("get", "list"), ("*",), ("", "apiextensions.k8s.io", "admissionregistration.k8s.io")),)
        here.world.cluster.users[ADMIN] = User("somebody", rules=rules)
        assert "node-clocks" not in here.check("--pre", status=1)

    checking(tmp_path, scene)


def test_what_is_wrong_with_a_control_plane(tmp_path: Path) -> None:
    """One after the other: each thing is put right again, or is no matter to the next."""

    def scene(here: Checked) -> None:
        assert "there is none in the namespace meshd" in here.check(status=1)["installation"][1]
        here.install()

        here.ready("meshd", "meshd-controller-1", "main", "CrashLoopBackOff")
        said = here.check()["controller-ready"]
        assert said == ("warning", "2 of 3 are\nmeshd-controller-1: main: CrashLoopBackOff")
        here.ready("meshd", "meshd-ca-0", "main", "ImagePullBackOff")
        assert here.check()["ca-ready"] == ("warning", "2 of 3 are\nmeshd-ca-0: main: ImagePullBackOff")
        for number in (1, 2):
            here.ready("meshd", f"meshd-ca-{number}", "main", "ImagePullBackOff")
        assert here.check(status=1)["ca-ready"][0] == "error"
        for number in range(3):
            here.ready("meshd", f"meshd-ca-{number}", "main")

        here.api.delete(Place(PODS, "meshd", "meshd-controller-1"), {"gracePeriodSeconds": 0}, "test")
        here.pod("meshd", "meshd-controller-3", _component("meshd-controller"), "node-0")
        assert here.check()["controller-nodes"] == ("warning", "2 are on node-0")

        definition = here.api.get(Place(DEFINITIONS, "", "workloads.meshd.io"))
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "another"
        here.merge(DEFINITIONS, "", "workloads.meshd.io", {"spec": definition["spec"]})
        assert here.check()["definitions-version"] == ("warning", "workloads.meshd.io: the schema is another")
        here.api.delete(Place(DEFINITIONS, "", "services.meshd.io"), {}, "test")
        assert here.check(status=1)["definitions"] == ("error", "services.meshd.io cannot be used")

        webhooks = here.api.get(Place(MUTATING, "", "meshd-injector"))["webhooks"]
        webhooks[0]["clientConfig"]["caBundle"] = base64.b64encode(b"none").decode()
        here.merge(MUTATING, "", "meshd-injector", {"webhooks": webhooks})
        assert here.check(status=1)["webhook-trust"] == ("error", "caBundle cannot be read")
        here.api.delete(Place(VALIDATING, "", "meshd-injector"), {}, "test")
        assert "there is no validatingwebhookconfiguration" in here.check(status=1)["webhook"][1]
        here.api.delete(Place(SLICES, "meshd", "meshd-injector-a"), {}, "test")
        assert here.check(status=1)["webhook-reached"] == ("error", "it has no endpoint that is ready")

        other = base64.b64encode(make("cluster.local", time.time())[0].chain.encode()).decode()
        here.merge(SECRETS, "meshd", "meshd-identity-issuer", {"data": {"tls.crt": other}})
        assert "not below one of the trust anchors" in here.check(status=1)["issuer-read"][1]
        here.api.delete(Place(SECRETS, "meshd", "meshd-identity-issuer"), {}, "test")
        assert "is missing" in here.check(status=1)["issuer-read"][1]

        here.merge(CONFIG_MAPS, "meshd", "meshd-config", {"metadata": {"annotations": {"meshd.io/version": "0.0.9"}}})
        assert here.check(status=1)["installation-version"] == ("warning", f"it is 0.0.9, and this is {__version__}")
        for text, what in (("namespace: meshd\n", "has no trust anchors"), ("replicas: x\n", "replicas: expected")):
            here.merge(CONFIG_MAPS, "meshd", "meshd-config", {"data": {"settings.yaml": text}})
            assert what in here.check(status=1)["installation"][1]

    checking(tmp_path, scene)


def test_the_pods_of_the_mesh(tmp_path: Path) -> None:
    def scene(here: Checked) -> None:
        here.install()
        for name in ("shop", "bank"):
            here.add(NAMESPACES, "", {"metadata": {"name": name, "annotations": {"linkerd.io/inject": "enabled"}}})
        anchors = here.api.get(Place(CONFIG_MAPS, "meshd", "meshd-config"))["data"]["trust-anchors.pem"]
        good = {
            "meshd.io/proxy-version": __version__,
            "meshd.io/trust-root-sha256": hashlib.sha256(anchors.encode()).hexdigest(),
        }
        meshed = {"meshd.io/control-plane-ns": "meshd"}
        here.pod("shop", "web", meshed, "node-0", good)
        assert {result for result, _ in here.check("--proxy").values()} == {"success"}
        here.pod("shop", "old", meshed, "node-0", good | {"meshd.io/proxy-version": "0.0.9"})
        here.pod("shop", "strange", meshed, "node-0", good | {"meshd.io/trust-root-sha256": "00"})
        here.pod("shop", "bare", {}, "node-0")
        here.pod("shop", "spared", {}, "node-0", {"meshd.io/inject": "disabled"})
        here.ready("shop", "web", "meshd-proxy", "CrashLoopBackOff")
        found = here.check("--proxy", "-n", "shop", status=1)
        assert found["sidecars-ready"] == ("error", "shop/web: meshd-proxy: CrashLoopBackOff")
        assert found["sidecars-version"] == ("warning", "shop/old: 0.0.9")
        assert found["sidecars-trust"] == ("warning", "shop/strange: other trust anchors")
        assert found["all-meshed"] == ("warning", "shop/bare: has none")
        assert {result for result, _ in here.check("--proxy", "-n", "bank").values()} == {"success"}
        assert "sidecars-ready" not in here.check()

    checking(tmp_path, scene)


def test_anchors_in_another_order_are_the_same() -> None:
    one, two, three = (make("cluster.local", time.time())[0].anchors for _ in range(3))
    assert hashlib.sha256((two + one).encode()).hexdigest() in data_plane.digests(f"# both\n{one}{two}")
    assert hashlib.sha256(f"# both\n{one}{two}".encode()).hexdigest() in data_plane.digests(f"# both\n{one}{two}")
    assert not data_plane.digests(one) & data_plane.digests(one + three)


def test_a_cluster_that_does_not_answer(tmp_path: Path) -> None:
    world = World(tmp_path)
    here = Checked(world)
    with pytest.raises(AssertionError, match="kubeconfig"):  # there is none, and no agent either
        here.check()
    aio.run(at(world, lambda: None))
    assert "Connection refused" in here.check(status=1)["api-answers"][1]


@pytest.mark.parametrize(
    ("ahead_s", "result"), [(0.0, "success"), (-1.0, "success"), (40.0, "warning"), (-90.0, "error"), (None, "")]
)
def test_clocks(ahead_s: float | None, result: str) -> None:
    class Server:
        url = "https://api"

        def __init__(self) -> None:
            self.ahead_s = ahead_s

        def version(self) -> tuple[int, int]:
            return (1, 24) if ahead_s == -1.0 else (1, 30)

    server: Any = Server()
    found = {each.id: each.result for each in api.checks(server)}
    assert found.get("api-clock", "") == result
    assert found["api-version"] == ("error" if ahead_s == -1.0 else "success")


@pytest.mark.parametrize(
    ("made_days_ago", "results"),
    [
        (1, ["success"] * 5),
        (330, ["success", "success", "warning", "success", "success"]),
        (370, ["success", "error", "success", "success"]),
        (3600, ["success", "error", "success", "warning"]),
        (3700, ["success", "error", "error"]),
    ],
)
def test_what_the_ca_signs_with_as_it_ages(made_days_ago: int, results: list[str]) -> None:
    keys, _ = make("cluster.local", time.time() - made_days_ago * 86400.0)
    found = Found("", Installation(trust_anchors=keys.anchors), keys, False, "")
    assert [each.result for each in identity.checks(found)] == results
    without = found._replace(keys=KeyMaterial(keys.anchors))  # the issuer is something else's
    assert not any("issuer" in each.id for each in identity.checks(without))


def test_the_page_has_a_line_for_each_check_under_its_section() -> None:
    page = (ROOT / of.PAGE).read_text()
    sections = {text.split("\n", 1)[0]: text.split("\n## ")[0] for text in page.split("\n### ")[1:]}
    assert [each for each in sections if "kubernetes" in each] == list(of.SECTIONS)
    for each in (each for each in vars(of).values() if isinstance(each, of.Kind)):
        rows = [row for row in sections[each.category].splitlines() if row.startswith("|") and f"`{each.id}`" in row]
        assert rows, each
        assert all(part in rows[0] for part in each.description.split("{}")), each
