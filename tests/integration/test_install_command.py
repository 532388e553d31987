"""What `meshd install` prints, against the API's own types, the real kubectl, and a cluster."""

import base64
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from k8s.cluster import Cluster, Refused
from k8s.manifests.identity import make
from tests.support import aio, installs
from tests.support.installs import World, at
from tests.support.kubernetes import POWERLESS, models
from tests.support.waiting import wait_until


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("name", installs.SETTINGS)
def test_every_object_is_of_its_kinds_type(name: str) -> None:
    for each in yaml.safe_load_all(installs.printed(name)):
        kind = f"V1{each['kind']}"
        assert models.unknown(kind, each) == []
        assert models.misfit(kind, each) == ""


def test_a_field_that_is_none_would_be_found() -> None:
    (*_, each) = yaml.safe_load_all(installs.printed("default"))
    each["webhooks"][0]["timeout"] = 5
    assert models.unknown("V1ValidatingWebhookConfiguration", each) == ["webhooks[0].timeout"]
    each["webhooks"][0]["timeoutSeconds"] = "5"
    assert "timeoutSeconds" in models.misfit("V1ValidatingWebhookConfiguration", each)


@pytest.mark.peer("kubectl")
def test_kubectl_makes_it_and_finds_nothing_to_be_changed(world: World) -> None:
    def scene() -> None:
        printed = world.meshd("install", "--ha")
        kinds = [each["kind"] for each in yaml.safe_load_all(printed)]
        made = world.kubectl("apply", "-f", "-", given=printed)
        assert made.count(" created\n") == len(kinds)
        again = world.kubectl("apply", "-f", "-", given=printed).splitlines()
        # of a budget, newer ones of kubectl always send the selector: its patch says `replace`
        changed = [each for each in again if not each.endswith(" unchanged") and "poddisruptionbudget" not in each]
        assert (changed, len(again)) == ([], len(kinds))
        refused = world.meshd("install", status=1)
        assert "has an installation in the namespace meshd" in refused
        assert "meshd upgrade" in refused
        assert "kind: Deployment" in world.meshd("install", "--ignore-cluster")

    aio.run(at(world, scene))


@pytest.mark.peer("kubectl")
def test_applying_it_again_leaves_what_the_controllers_wrote(world: World) -> None:
    def scene() -> None:
        printed = world.meshd("install")
        world.kubectl("apply", "-f", "-", given=printed)
        name = "mutatingwebhookconfiguration/meshd-injector"
        bundle = '[{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": "Y2E="}]'
        world.kubectl("patch", name, "--type=json", "-p", bundle)
        world.kubectl("patch", "-n", "meshd", "secret/meshd-injector-tls", "-p", '{"data": {"tls.key": "a2V5"}}')
        changed = printed.replace("failurePolicy: Ignore", "failurePolicy: Fail")
        world.kubectl("apply", "-f", "-", given=changed)
        where = "jsonpath={.webhooks[0].clientConfig.caBundle} {.webhooks[0].failurePolicy}"
        assert world.kubectl("get", name, "-o", where) == "Y2E= Fail"
        kept = world.kubectl("get", "-n", "meshd", "secret/meshd-injector-tls", "-o", "jsonpath={.data}")
        assert kept == '{"tls.key":"a2V5"}'

    aio.run(at(world, scene))


def test_with_files_the_output_is_the_same_each_time(world: World) -> None:
    """And what was made here can be given again: that is how the first root is brought to a second cluster."""
    world.environment["KUBECONFIG"] = ""
    first = world.meshd("install", "--root-key-file", str(world.directory / "root.key"))
    assert (world.directory / "root.key").stat().st_mode & 0o777 == 0o600
    assert (world.directory / "root.key").read_text() not in first
    found = {each["metadata"]["name"]: each for each in yaml.safe_load_all(first) if each["kind"] in ("ConfigMap",)}
    (world.directory / "anchors").write_text(found["meshd-config"]["data"]["trust-anchors.pem"])
    (secret,) = [each for each in yaml.safe_load_all(first) if each["metadata"]["name"] == "meshd-identity-issuer"]
    options = ["--identity-trust-anchors-file", str(world.directory / "anchors")]
    for option, key in (("certificate", "tls.crt"), ("key", "tls.key")):
        file = world.directory / option
        file.touch(mode=0o600)
        file.write_text(base64.b64decode(secret["data"][key]).decode())
        options += [f"--identity-issuer-{option}-file", str(file)]
    assert world.meshd("install", *options) == first
    without = world.meshd("install", *options[:2], "--identity-external-issuer")
    assert "name: meshd-identity-issuer" not in without
    assert "secretName: meshd-identity-issuer" in without
    assert "--identity-external-issuer" in world.meshd("install", *options[:2], status=2)
    assert "goes with --identity-trust-anchors-file" in world.meshd("install", *options[2:], status=2)
    other = ("--set", "trustDomain=prod.example")
    assert "is of cluster.local" in world.meshd("install", *options, *other, status=1)


def test_a_cluster_that_does_not_answer_is_no_empty_one(world: World) -> None:
    def scene() -> None:
        world.cluster.kubeconfig(POWERLESS)
        refused = world.meshd("install", status=1)
        assert "--ignore-cluster prints all the same" in refused

    aio.run(at(world, scene))
    world.cluster.kubeconfig()
    assert "Connection refused: whether there is an installation already cannot be seen" in world.meshd(
        "install", status=1
    )
    (world.directory / "kubeconfig").unlink()
    assert "there is no such kubeconfig" in world.meshd("install", status=1)
    world.environment["KUBECONFIG"] = ""
    assert "kind: Deployment" in world.meshd("install")  # there is none at the usual place, and no cluster to be asked


def test_nothing_is_left_open_at_a_cluster_that_refused(world: World) -> None:
    connections = set[Any]()

    async def interfere(request: web.Request) -> None:
        connections.add(request.transport)

    def scene() -> None:
        file = world.cluster.kubeconfig(POWERLESS)
        with pytest.raises(Refused) as refused, Cluster(str(file)) as cluster:
            cluster.get("/api/v1/namespaces/meshd/configmaps/meshd-config")
        wait_until(lambda: all(each.is_closing() for each in connections), "the connection is closed")
        assert refused.value.status == 403  # and so it was there until now, with its traceback
        assert len(connections) == 1

    world.cluster.interfere = interfere
    aio.run(at(world, scene))


# --- an installation that is there


def applied(world: World, *options: str) -> str:
    """An installation; what was printed."""
    printed = world.meshd("install", *options)
    world.kubectl("apply", "-f", "-", given=printed)
    return printed


@pytest.mark.peer("kubectl")
def test_an_upgrade_keeps_settings_and_keys(world: World) -> None:
    def scene() -> None:
        assert "has no installation in the namespace meshd" in world.meshd("upgrade", status=1)
        options = ("--ha", "--set", "proxy.cpuRequest=100m", "--set", "image=registry.example/meshd:1")
        printed = applied(world, *options, "--root-key-file", str(world.directory / "root.key"))
        assert world.meshd("upgrade") == printed
        five = ("--set", "replicas=5", "--set", "ca.replicas=5")
        changed = world.meshd("upgrade", "--set", "image=registry.example/meshd:2", *five)
        wanted = printed.replace("meshd:1", "meshd:2").replace("replicas: 3", "replicas: 5")
        assert changed == wanted.replace(configuration(printed), configuration(changed))
        for given, what in (
            ("trustDomain=b.example", "trustDomain: an installation keeps what it was made with ('cluster.local')"),
            ("namespace=other", "--set namespace"),
        ):
            assert what in world.meshd("upgrade", "--set", given, status=2)
        one = ("--set", "ca.storage=persistent", "--set", "ca.replicas=1")
        assert "the CA would forget which hosts joined" in world.meshd("upgrade", *one, status=2)
        assert "PersistentVolumeClaim" in world.meshd("upgrade", *one, "--force")
        renewed = world.meshd("upgrade", "--root-key-file", str(world.directory / "root.key"))
        assert (chain(renewed) != chain(printed), anchors(renewed)) == (True, anchors(printed))
        damaged = '{"data": {"tls.crt": "bm9uZQ=="}}'
        world.kubectl("patch", "-n", "meshd", "secret/meshd-identity-issuer", "-p", damaged)
        assert "tls.crt or tls.key cannot be read" in world.meshd("upgrade", status=1)
        world.kubectl("delete", "-n", "meshd", "secret/meshd-identity-issuer")
        assert "Secret meshd/meshd-identity-issuer: is missing" in world.meshd("upgrade", status=1)
        again = world.meshd("upgrade", "--root-key-file", str(world.directory / "root.key"))
        assert chain(again) not in (chain(renewed), chain(printed))

    aio.run(at(world, scene))


@pytest.mark.peer("kubectl")
def test_an_upgrade_does_not_lose_the_trust_anchors(world: World) -> None:
    def scene() -> None:
        first = applied(world)
        other, _ = make("cluster.local", time.time())
        both = world.directory / "both"
        both.write_text(anchors(first) + other.anchors)
        alone = world.directory / "alone"
        alone.write_text(other.anchors)
        issuer = []
        for option, text in (("certificate", other.chain), ("key", other.key)):
            file = world.directory / f"issuer-{option}"
            file.touch(mode=0o600)
            file.write_text(text)
            issuer += [f"--identity-issuer-{option}-file", str(file)]

        def to(file: Path, *more: str, status: int = 0) -> str:
            return world.meshd("upgrade", "--identity-trust-anchors-file", str(file), *more, status=status)

        assert "lack the root of the issuer that is in use" in to(alone, status=1)
        assert "lack the root of the issuer that is in use" in to(alone, *issuer, status=1)
        assert "does not trust yet" in to(both, *issuer, status=1)
        assert "does not lead to a root" in world.meshd("upgrade", *issuer, status=1)
        assert chain(to(alone, *issuer, "--force")) == other.chain
        for file, more in ((both, []), (both, issuer), (alone, [])):  # as the page has it
            made = to(file, *more)
            world.kubectl("apply", "-f", "-", given=made)
        assert (anchors(made), chain(made)) == (other.anchors, other.chain)
        cut = '{"data": {"settings.yaml": "namespace: meshd\\n"}}'
        world.kubectl("patch", "-n", "meshd", "configmap/meshd-config", "-p", cut)
        assert "has no trust anchors" in world.meshd("upgrade", status=1)

    aio.run(at(world, scene))


@pytest.mark.peer("kubectl")
def test_what_is_uninstalled_is_all_that_was_installed(world: World) -> None:
    def scene() -> None:
        assert "has no installation" in world.meshd("uninstall", status=1)
        applied(world)
        printed = world.meshd("uninstall")
        kinds = [each["kind"] for each in yaml.safe_load_all(printed)]
        assert (kinds[0], kinds[-1]) == ("MutatingWebhookConfiguration", "Namespace")
        world.kubectl("apply", "-f", "-", given=MESHED)
        refused = world.meshd("uninstall", status=1)
        assert "1 pods have sidecars: shop/web-0" in refused
        left = world.meshd("uninstall", "--force")
        assert "CustomResourceDefinition" in left
        world.kubectl("delete", "-n", "shop", "pod/web-0", "--wait=false")
        assert "deletionTimestamp" in world.kubectl("get", "-n", "shop", "pod/web-0", "-o", "json")
        spared = world.meshd("uninstall")
        assert "services.meshd.io" not in spared
        assert "workloads.meshd.io" in spared
        world.kubectl("delete", "-f", "-", given=left)
        assert "has no installation" in world.meshd("uninstall", status=1)
        for kind in (
            "clusterroles",
            "clusterrolebindings",
            "mutatingwebhookconfigurations",
            "customresourcedefinitions",
        ):
            assert world.kubectl("get", kind, "-o", "name") == ""

    aio.run(at(world, scene))


MESHED = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {meshd.io/control-plane-ns: meshd}}
spec: {nodeName: node-a, containers: [{name: web, image: web}]}
---
apiVersion: meshd.io/v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {port: 80}
"""


def of_kind(printed: str, kind: str, name: str) -> Any:
    (found,) = [
        each for each in yaml.safe_load_all(printed) if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    return found


def configuration(printed: str) -> str:
    """What the controllers' pods are replaced for."""
    template = of_kind(printed, "Deployment", "meshd-controller")["spec"]["template"]
    return str(template["metadata"]["annotations"]["meshd.io/configuration"])


def anchors(printed: str) -> str:
    return str(of_kind(printed, "ConfigMap", "meshd-config")["data"]["trust-anchors.pem"])


def chain(printed: str) -> str:
    return base64.b64decode(of_kind(printed, "Secret", "meshd-identity-issuer")["data"]["tls.crt"]).decode()
