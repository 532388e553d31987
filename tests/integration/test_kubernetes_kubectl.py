"""The double of the Kubernetes API server is one that the real kubectl writes to as it does by itself: fields are
validated at the server, and objects may come in protobuf."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support import aio, peers
from tests.support.installs import World, at

pytestmark = pytest.mark.peer("kubectl")

SHOP = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: prices, namespace: shop}
data: {pears: "3"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web}]}
"""


def test_kubectl_writes_what_the_server_has_validated(tmp_path: Path) -> None:
    world = World(tmp_path)

    def tried(*arguments: str, given: str) -> str:
        """What is said, whatever comes of it: versions before 1.24 ask the server for no more than a warning."""
        argv = [peers.path("kubectl"), *arguments]
        done = subprocess.run(
            argv, input=given, env=world.environment, capture_output=True, text=True, timeout=120, check=False
        )
        return done.stdout + done.stderr

    def scene() -> None:
        world.kubectl("create", "namespace", "shop")
        assert json.loads(world.kubectl("get", "namespace", "shop", "-o", "json"))["status"]["phase"] == "Active"
        assert world.kubectl("apply", "-f", "-", given=SHOP).count(" created\n") == 2
        said = world.kubectl("apply", "-f", "-", given=SHOP.replace('"3"', '"4"'))
        assert said == "configmap/prices configured\ndeployment.apps/web unchanged\n"
        said = tried("apply", "-f", "-", given=SHOP.replace("image:", "imagge:"))
        assert 'unknown field "spec.template.spec.containers[0].imagge"' in said
        world.kubectl("annotate", "namespace", "shop", "meshd.io/inject=enabled")
        world.kubectl("-n", "shop", "rollout", "restart", "deploy")
        web = json.loads(world.kubectl("-n", "shop", "get", "deploy", "web", "-o", "json"))
        assert "kubectl.kubernetes.io/restartedAt" in web["spec"]["template"]["metadata"]["annotations"]
        world.kubectl("delete", "namespace", "shop")
        assert "shop" not in world.kubectl("get", "namespaces", "-o", "name")

    aio.run(at(world, scene), 120.0)
