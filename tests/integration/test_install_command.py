"""What `meshd install` prints, against the API's own types, the real kubectl, and a cluster."""

import asyncio
import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support import aio, installs, peers
from tests.support.kubernetes import POWERLESS, Cluster, models
from tests.support.meshed import MESHD

NAMESPACE = "/api/v1/namespaces/meshd"


class World:
    """A cluster, and the commands of who administers it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cluster = Cluster(directory)
        self.environment = {"HOME": str(directory), "PATH": "/usr/bin:/bin"}

    def meshd(self, *arguments: str, status: int = 0) -> str:
        """What the command says: on standard output, or on standard error where it is to end with that status."""
        return self._said([*MESHD, *arguments], "", status)

    def kubectl(self, *arguments: str, given: str = "", status: int = 0) -> str:
        return self._said([peers.path("kubectl"), *arguments], given, status)

    def _said(self, argv: list[str], given: str, status: int) -> str:
        environment = self.environment | {"KUBECONFIG": str(self.directory / "kubeconfig")}
        done = subprocess.run(
            argv, input=given, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == status, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr if status else done.stdout


async def at(world: World, scene: Callable[[], None]) -> None:
    async with world.cluster.serves():
        world.cluster.kubeconfig()
        await asyncio.to_thread(scene)


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
        made = world.kubectl("apply", "--validate=false", "-f", "-", given=printed)
        assert made.count(" created\n") == len(kinds)
        again = world.kubectl("apply", "--validate=false", "-f", "-", given=printed).splitlines()
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
        world.kubectl("apply", "--validate=false", "-f", "-", given=printed)
        name = "mutatingwebhookconfiguration/meshd-injector"
        bundle = '[{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": "Y2E="}]'
        world.kubectl("patch", name, "--type=json", "-p", bundle)
        world.kubectl("patch", "-n", "meshd", "secret/meshd-injector-tls", "-p", '{"data": {"tls.key": "a2V5"}}')
        changed = printed.replace("failurePolicy: Ignore", "failurePolicy: Fail")
        world.kubectl("apply", "--validate=false", "-f", "-", given=changed)
        where = "jsonpath={.webhooks[0].clientConfig.caBundle} {.webhooks[0].failurePolicy}"
        assert world.kubectl("get", name, "-o", where) == "Y2E= Fail"
        kept = world.kubectl("get", "-n", "meshd", "secret/meshd-injector-tls", "-o", "jsonpath={.data}")
        assert kept == '{"tls.key":"a2V5"}'

    aio.run(at(world, scene))


def test_with_files_the_output_is_the_same_each_time(world: World) -> None:
    """And what was made here can be given again: that is how the first root is brought to a second cluster."""
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
    assert "kind: Deployment" in world.meshd("install")
