"""A cluster as who administers it has it, with `kubectl` and `meshd`: what a test does that is to run at a cluster that
is played (`tests.support.kubelet.played`) and at a real one (`tests.support.real_cluster`) alike.

All of it is what people type, but for `exec`, where the two differ, and for the applications' images: all containers of
`tests/applications` run `tests/support/programs/tier.py`, which comes from a ConfigMap.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support import peers
from tests.support.waiting import wait_until

Manifest = dict[str, Any]

SUPPORT: Final = Path(__file__).parent
APPLICATIONS: Final = SUPPORT.parent / "applications"
PROGRAMS: Final = ("tier.py", "unary.py")
TIER: Final = "/tier/tier.py"
APPLICATIONS_USER: Final = 1000
"""The image's own user is the sidecar's, whose traffic is not captured."""
WITHIN_S: Final = 600
"""What a command may take: images are pulled meanwhile."""
ANSWER_WITHIN_S: Final = 120.0


class AnyCluster:
    """See the module. `within` is a command line that others stand behind: to be where the cluster can be reached."""

    python: str
    """In the applications' image."""
    image: str
    """What `meshd install` is to be given."""

    def __init__(self, directory: Path, kubeconfig: Path, within: Sequence[str] = ()) -> None:
        self.directory, self.kubeconfig, self.within = directory, kubeconfig, tuple(within)
        self.desk = directory / "desk"
        """Where things are typed."""
        self.desk.mkdir()
        (self.desk / "bin").mkdir()
        (self.desk / "bin" / "kubectl").symlink_to(peers.path("kubectl"))

    # --- what is typed

    def tried(self, *argv: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        """A command of somebody who administers the cluster."""
        path = f"{self.desk}/bin:{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.desk), "PATH": path}
        return subprocess.run(
            [*self.within, *argv],
            input=given, env=environment, cwd=self.desk, capture_output=True, text=True, check=False, timeout=WITHIN_S,
        )  # fmt: skip

    def does(self, *argv: str, given: str = "") -> str:
        done = self.tried(*argv, given=given)
        assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.said()}"
        return done.stdout

    def types(self, command: str) -> str:
        """A line for a shell, all of whose parts succeed."""
        return self.does("bash", "-euo", "pipefail", "-c", command)

    def kubectl(self, *arguments: str, given: str = "") -> str:
        return self.does("kubectl", *arguments, given=given)

    def exec(self, namespace: str, pod: str, container: str, *argv: str) -> "subprocess.CompletedProcess[str]":
        """A command in a container."""
        return self.tried("kubectl", "exec", "-n", namespace, pod, "-c", container, "--", *argv)

    def said(self) -> str:
        """What pods said, for who reads why a test has failed."""
        return ""

    # --- what there is

    def find(self, kind: str, namespace: str, name: str) -> Manifest:
        found: Manifest = json.loads(self.kubectl("get", kind, "-n", namespace, name, "-o", "json"))
        return found

    def pods(self, namespace: str, labels: str = "") -> list[Manifest]:
        """Those that are not being deleted, by their names."""
        found = json.loads(self.kubectl("get", "pods", "-n", namespace, "-l", labels, "-o", "json"))["items"]
        there = [each for each in found if "deletionTimestamp" not in each["metadata"]]
        return sorted(there, key=lambda each: str(each["metadata"]["name"]))

    def pod(self, namespace: str, app: str) -> Manifest:
        """One of an application that is ready."""
        (first, *_) = [each for each in self.pods(namespace, f"app={app}") if each["status"]["phase"] == "Running"]
        return first

    def rolled(self, namespace: str, *workloads: str) -> None:
        """Wait until workloads, `deploy/NAME`, are rolled out, and nothing of before is left."""
        for each in workloads:
            self.kubectl("rollout", "status", "-n", namespace, each, f"--timeout={WITHIN_S}s")

    def metrics(self, namespace: str, pod: str) -> str:
        """What a pod's sidecar counted, by way of the API server."""
        return self.kubectl("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}:4191/proxy/metrics")

    # --- the applications

    def applies(self, name: str) -> None:
        """`tests/applications/NAME.yaml`, with images that there are."""
        self.kubectl("apply", "-f", "-", given=self.application((APPLICATIONS / f"{name}.yaml").read_text()))

    def application(self, text: str) -> str:
        made: list[Manifest] = []
        for each in filter(None, yaml.safe_load_all(text)):
            made.append(each)
            if each["kind"] == "Namespace":
                made.append(self._programs(each["metadata"]["name"]))
            elif "template" in each.get("spec", {}):
                self._give_image(each["spec"]["template"]["spec"])
        return yaml.safe_dump_all(made, sort_keys=False)

    @staticmethod
    def _programs(namespace: str) -> Manifest:
        texts = {name: (SUPPORT / "programs" / name).read_text() for name in PROGRAMS}
        meta = {"name": "tier", "namespace": namespace}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": texts}

    def _give_image(self, spec: Manifest) -> None:
        spec.setdefault("volumes", []).append({"name": "tier", "configMap": {"name": "tier"}})
        for container in spec["containers"]:
            container |= {"image": self.image, "command": [self.python, TIER]}
            container["securityContext"] = {"runAsUser": APPLICATIONS_USER}
            container["volumeMounts"] = [{"name": "tier", "mountPath": "/tier", "readOnly": True}]

    def asks(self, namespace: str, app: str, url: str) -> Mapping[str, Any]:
        """What an application's own container gets of a request, once it gets something."""
        pod = self.pod(namespace, app)
        name, container = str(pod["metadata"]["name"]), str(pod["spec"]["containers"][-1]["name"])
        last = ""

        def got() -> dict[str, Any] | None:
            nonlocal last
            done = self.exec(namespace, name, container, self.python, TIER, "--ask", url)
            last = done.stdout + done.stderr
            return json.loads(done.stdout) if done.returncode == 0 else None

        try:
            return wait_until(got, f"{url} answers", ANSWER_WITHIN_S) or {}
        except AssertionError as error:
            raise AssertionError(f"{error}: {last}\n{self.said()}") from None
