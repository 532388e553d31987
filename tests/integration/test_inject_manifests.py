"""`meshd inject` and `meshd uninject` of manifests as people type them, and what the real kubectl reads of it."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from k8s.settings_text import dumped
from meshd import __version__
from tests.support import aio, injections, peers
from tests.support.injections import FOLDER, SETTINGS, WAYS
from tests.support.kubernetes import Cluster
from tests.support.kubernetes.api import Place
from tests.support.kubernetes.core import CONFIG_MAPS, NAMESPACES
from tests.support.meshed import MESHD

VOTES = injections.manifest("votes.yaml")


def run(argv: list[str], directory: Path, given: bytes = b"", status: int = 0) -> tuple[str, str]:
    """(standard output, standard error) of a command that is to end so."""
    environment = {"HOME": str(directory), "PATH": "/usr/bin:/bin", "KUBECONFIG": str(directory / "kubeconfig")}
    done = subprocess.run(argv, input=given, env=environment, capture_output=True, timeout=120, check=False)
    output, errors = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == status, f"{argv}: {done.returncode}\n{output}\n{errors}"
    return output, errors


def meshd(directory: Path, *arguments: str, given: str = "", status: int = 0) -> tuple[str, str]:
    return run([*MESHD, *arguments], directory, given.encode(), status)


REPORT = """
namespace "votes" injected
serviceaccount "web" skipped
deployment "web" injected
service "web" skipped
cronjob "count" injected

"""


def test_in_and_out_again(tmp_path: Path) -> None:
    made, said = meshd(tmp_path, "inject", "-", given=VOTES)
    assert made == injections.golden("votes.yaml", "annotated").read_text(encoding="utf-8")
    assert said == REPORT
    back, said = meshd(tmp_path, "uninject", "-", given=made)
    assert back == VOTES
    assert said == REPORT.replace("injected", "uninjected")


def test_what_cannot_be_injected_leaves_nothing_to_apply(tmp_path: Path) -> None:
    agent = "kind: DaemonSet\nmetadata: {name: agent}\nspec: {template: {spec: {hostNetwork: true, containers: []}}}\n"
    made, said = meshd(tmp_path, "inject", "-", given=f"{VOTES}---\n{agent}", status=1)
    assert made == ""
    assert "‼ hostNetwork is enabled: daemonset/agent\n" in said
    assert 'daemonset "agent" skipped\n' in said
    assert "meshd: failed to inject daemonset/agent: hostNetwork is enabled\n" in said
    out = agent.replace("metadata: {name: agent}\n", "metadata: {name: agent}\n", 1).replace(
        "template: {spec", "template: {metadata: {annotations: {meshd.io/inject: disabled}}, spec"
    )
    made, said = meshd(tmp_path, "inject", "-", given=out)
    assert made == out
    assert '‼ pod has the annotation "meshd.io/inject:disabled": daemonset/agent\n' in said


def test_a_directory_is_one_stream(tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    (folder / "below").mkdir(parents=True)
    (folder / "a.yaml").write_text("kind: Pod\nmetadata: {name: a}\nspec: {containers: []}")
    (folder / "below" / "b.json").write_text('{"kind": "Pod", "metadata": {"name": "b"}, "spec": {"containers": []}}\n')
    (folder / "notes.txt").write_text("nothing of it")
    made, said = meshd(tmp_path, "inject", f"{folder}/")
    assert said == '\npod "a" injected\npod "b" injected\n\n'
    first, second = made.split("\n---\n")
    assert (first.count("meshd.io/inject"), second.count("meshd.io/inject")) == (1, 1)
    assert meshd(tmp_path, "uninject", "-", given=made)[0].replace("\n---\n", "\n") == "\n".join(
        file.read_text() for file in (folder / "a.yaml", folder / "below" / "b.json")
    )


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("inject", "-", "--port", "80"), 2, "--port is for a unit of systemd"),
        (("inject", "web", "--manual"), 2, "--manual is for manifests"),
        (("inject", "-", "--set", "image=a"), 2, "are for --manual"),
        (("inject", "-", "--manual", "--config", "none.yaml"), 2, "none.yaml: cannot be read"),
        (("inject", "-", "--manual", "--config", "/dev/null", "--set", "imag=a"), 2, "did you mean image"),
        (("inject", "./none.yaml"), 2, "none.yaml: cannot be read"),
        (("inject", "-", "--manual"), 1, "there is no such kubeconfig"),
        (("uninject", "-", "--all"), 2, "--all, --force and --restart are for units"),
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, arguments: tuple[str, ...], status: int, said: str) -> None:
    assert said in meshd(tmp_path, *arguments, status=status)[1]


def test_the_sidecar_by_a_file_of_settings(tmp_path: Path) -> None:
    settings, native = WAYS["native"]
    assert settings is not None
    assert native
    (tmp_path / "settings.yaml").write_text(dumped(settings))
    arguments = ("--manual", "--config", str(tmp_path / "settings.yaml"), "--native-sidecar")
    made, _ = meshd(tmp_path, "inject", str(FOLDER / "list.json"), *arguments)
    golden = injections.golden("list.json", "native").read_text(encoding="utf-8")
    assert made.replace(f"meshd/cli {__version__}", "meshd/cli VERSION") == golden
    assert meshd(tmp_path, "uninject", "-", given=made)[0] == injections.manifest("list.json")
    made, _ = meshd(tmp_path, "inject", str(FOLDER / "list.json"), *arguments, "--set", "image=a.example/b:2")
    assert made.count('"a.example/b:2"') == 4


def test_the_sidecar_by_the_settings_of_a_cluster(tmp_path: Path) -> None:
    """And of the kind that the cluster, which is new, has."""
    cluster = Cluster(tmp_path)

    def scene() -> str:
        missing = meshd(tmp_path, "inject", "-", "--manual", given=VOTES, status=1)[1]
        assert "ConfigMap meshd/meshd-config: is not there" in missing
        cluster.api.create(Place(NAMESPACES), {"metadata": {"name": "meshd"}}, "somebody")
        content = {"metadata": {"name": "meshd-config"}, "data": {"settings.yaml": dumped(SETTINGS)}}
        cluster.api.create(Place(CONFIG_MAPS, "meshd"), content, "somebody")
        return meshd(tmp_path, "inject", "-", "--manual", given=VOTES)[0]

    async def served() -> str:
        async with cluster.serves():
            cluster.kubeconfig()
            return await asyncio.to_thread(scene)

    made = aio.run(served())
    assert made.count("restartPolicy: Always") == 2
    assert f"image: {SETTINGS.image}" in made


@pytest.mark.peer("kubectl")
@pytest.mark.parametrize(("name", "way"), [case for case in injections.CASES if case[0] != "list.json"])
def test_kubectl_reads_what_comes_out(tmp_path: Path, name: str, way: str) -> None:
    """By its types, with no server: a field of another type is an error of its own."""
    argv = [peers.path("kubectl"), "annotate", "--local", "-f", "-", "read=here", "-o", "json"]
    output, _ = run(argv, tmp_path, injections.golden(name, way).read_bytes())
    decoder, objects = json.JSONDecoder(), []
    while output.strip():
        found, end = decoder.raw_decode(output.lstrip())
        objects.append(found)
        output = output.lstrip()[end:]
    assert len(objects) == injections.manifest(name).count("kind: ")
    pods = [found["spec"] for found in objects if found["kind"] in ("Deployment", "StatefulSet")]
    templates = [spec["template"] for spec in pods]
    if way == "annotated":
        assert [each["metadata"]["annotations"]["meshd.io/inject"] for each in templates] == ["enabled"] * len(pods)
    else:
        for each in templates:
            both = [*each["spec"]["initContainers"], *each["spec"]["containers"]]
            assert {"meshd-init", "meshd-proxy"} < {container["name"] for container in both}
