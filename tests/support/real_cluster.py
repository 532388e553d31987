"""The cluster that `MESHD_TEST_KUBECONFIG` names, with `MESHD_TEST_IMAGE` as the image of meshd, and of the
applications, which run Python of it. What a test makes there goes again, whatever comes of the test."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import yaml

from k8s.manifests import objects
from k8s.manifests.identity import KeyMaterial
from k8s.settings_text import loaded
from tests.support.clusters import APPLICATIONS, AnyCluster
from tests.support.installs import ANCHORS
from tests.support.kubernetes.worlds import REAL

IMAGE: Final = "MESHD_TEST_IMAGE"
CONTROL_PLANE: Final = "meshd"
MESHES: Final = ("meshd", "linkerd", "istio")
"""By the names of their webhooks."""


class Unfit(Exception):
    """A cluster that the tests are not to run at; the message says why."""


class RealCluster(AnyCluster):
    """See the module."""

    python = "/usr/lib/meshd/bin/python3"

    def __init__(self, directory: Path, kubeconfig: Path, image: str) -> None:
        super().__init__(directory, kubeconfig)
        self.image = image

    def refuse_what_is_unfit(self) -> None:
        """Unfit, with one sentence; nothing is made."""
        if not self.image:
            raise Unfit(f"{IMAGE} is not set: the image of meshd that this cluster's nodes can pull")
        answered = self.tried("kubectl", "get", "--raw", "/version", "--request-timeout=20s")
        if answered.returncode != 0:
            raise Unfit(f"the API server of {self.kubeconfig} cannot be reached: {answered.stderr.strip()}")
        hooks = self.kubectl("get", "mutatingwebhookconfigurations", "-o", "name").split()
        if found := [each for each in hooks if any(mesh in each for mesh in MESHES)]:
            raise Unfit(f"there is a mesh in the cluster of {self.kubeconfig} already: {', '.join(found)}")
        wanted = [*of_the_cluster(), *(f"namespace/{each}" for each in namespaces())]
        if there := self.kubectl("get", "--ignore-not-found", "-o", "name", *wanted).split():
            raise Unfit(f"the cluster of {self.kubeconfig} has what these tests would make: {', '.join(there)}")

    def said(self) -> str:
        """Of each container the last lines, and what has happened in the namespaces."""
        told: list[str] = []
        for namespace in namespaces():
            lines = (
                ("get", "pods", "-n", namespace, "-o", "wide"),
                ("get", "events", "-n", namespace, "--sort-by=.lastTimestamp"),
                ("logs", "-n", namespace, "--prefix", "--all-containers", "--tail=20", "-l", "!nothing-has-this"),
            )
            told += [self.tried("kubectl", *line).stdout[-5000:] for line in lines]
        return "\n".join(told)

    def clear(self) -> None:
        """Remove all that tests and `meshd install` make."""
        done = [
            self.tried("kubectl", "delete", "--ignore-not-found", *of_the_cluster()),
            self.tried("kubectl", "delete", "--ignore-not-found", "namespace", *namespaces()),
        ]
        assert not any(each.returncode for each in done), "".join(each.stderr for each in done)


def of_the_cluster() -> list[str]:
    """What `meshd install` makes outside its namespace, as `kind/name`; webhooks first, since no pod is to wait for one
    that goes."""
    made = list(objects(loaded("", "", {}), KeyMaterial(ANCHORS.read_text())))
    wide = [each for each in made if "namespace" not in each["metadata"] and each["kind"] != "Namespace"]
    return [f"{each['kind'].lower()}/{each['metadata']['name']}" for each in reversed(wide)]


def namespaces() -> list[str]:
    """Those of the applications, and the control plane's."""
    found = [
        str(each["metadata"]["name"])
        for file in sorted(APPLICATIONS.glob("*.yaml"))
        for each in yaml.safe_load_all(file.read_text())
        if each and each["kind"] == "Namespace"
    ]
    return [*found, CONTROL_PLANE]


@contextmanager
def real_cluster(directory: Path) -> Iterator[RealCluster]:
    """Unfit before anything is made."""
    made = RealCluster(directory, Path(os.environ[REAL]), os.environ.get(IMAGE, ""))
    made.refuse_what_is_unfit()
    try:
        yield made
    finally:
        made.clear()
