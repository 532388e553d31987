"""Installations in a cluster: who administers one, and the golden files, of fixed settings and key material.

python -m tests.support.installs

writes the files anew, for somebody to read what became different. VERSION stands there for the version.
"""

import asyncio
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner

from k8s.manifests import objects
from k8s.manifests.identity import KeyMaterial
from k8s.manifests.text import as_yaml
from k8s.settings_text import loaded
from meshd import __version__
from meshd.api.loading import ConfigurationError
from meshd.api.problems import Misuse, Problem
from meshd.ca import certificates
from meshd.ca.certificates import ROOT_LIFE_S, Life
from meshd.cli import cli
from tests.support import peers
from tests.support.kubernetes import Cluster

FOLDER = Path(__file__).resolve().parents[1] / "recordings" / "install"
ANCHORS = FOLDER / "anchors.pem"

SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "ha": {
        "namespace": "mesh", "image": "registry.example/meshd:1", "trustDomain": "prod.example",
        "clusterDomain": "k8s.example", "highAvailability": "true", "replicas": "3", "failurePolicy": "Fail",
        "ca.storage": "kubernetes", "ca.replicas": "3", "ca.names": "ca.example, 192.0.2.7",
        "proxy.cpuRequest": "100m",
    },
    "volume": {"ca.storageClass": "fast", "ca.storageSize": "5Gi", "priorityClass": "system-cluster-critical"},
    "external": {"ca.storage": "ephemeral", "ca.logLevel": "debug", "controllerLogLevel": "debug"},
}  # fmt: skip
"""File → settings. In `external` the issuer's Secret is somebody else's."""


def printed(name: str) -> str:
    """What `install` prints for the settings of that name, but for the definitions, which have files of their own."""
    anchors = ANCHORS.read_text()
    keys = KeyMaterial(anchors) if name == "external" else KeyMaterial(anchors, "the chain\n", "the key\n")
    made = objects(loaded("", "", SETTINGS[name]), keys)
    text = as_yaml(each for each in made if each["kind"] != "CustomResourceDefinition")
    return text.replace(f"meshd:{__version__}", "meshd:VERSION").replace(f"version: {__version__}", "version: VERSION")


class World:
    """A cluster, and the commands of who administers it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cluster = Cluster(directory)
        self.output = ""
        """What the last command printed on standard output."""
        kubeconfig = str(directory / "kubeconfig")
        self.environment = {"HOME": str(directory), "PATH": "/usr/bin:/bin", "KUBECONFIG": kubeconfig}

    def meshd(self, *arguments: str, status: int = 0) -> str:
        """What the command says on standard output, or what is wrong where it is to end with that status. In this
        process: each of its own would load the library anew."""
        result = CliRunner(env=self.environment).invoke(cli, arguments, prog_name="meshd")
        logging.disable(logging.NOTSET)  # which a command does, for its process
        match result.exception:
            case Problem() as problem:
                ended, said = problem.exit_status, str(problem)
            case ConfigurationError() as error:
                ended, said = Misuse.exit_status, str(error)
            case SystemExit() | None:
                ended, said = result.exit_code, result.stdout
            case other:
                raise other
        self.output = result.stdout
        assert ended == status, f"{arguments}: {ended}: {said}"
        return said

    def kubectl(self, *arguments: str, given: str = "") -> str:
        argv = [peers.path("kubectl"), *arguments]
        done = subprocess.run(
            argv, input=given, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


async def at(world: World, scene: Callable[[], None]) -> None:
    async with world.cluster.serves():
        world.cluster.kubeconfig()
        await asyncio.to_thread(scene)


if __name__ == "__main__":
    if not ANCHORS.exists():
        root = certificates.make_root("prod.example", Life.starting(0.0, 100 * ROOT_LIFE_S / 10))
        ANCHORS.write_bytes(certificates.pem(root.certificate))
    for each in SETTINGS:
        (FOLDER / f"{each}.yaml").write_text(printed(each))
