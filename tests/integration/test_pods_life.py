"""The life of a meshed pod, played: what starts and ends when, with native sidecars and without."""

import json
import re
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.kubelet.life import Life
from tests.support.kubelet.mesh import Mesh, application, injected, mesh, plain
from tests.support.waiting import wait_until

pytestmark = pytest.mark.peer("nft", "ip", "nsenter", "unshare", "setpriv", "curl")

Manifest = dict[str, Any]


class Cluster:
    """A mesh with `api`, whom the others call."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.api = mesh.start(injected("api", application("http", "0.0.0.0:8080")))
        self.url = f"http://{self.api.address}:8080/"

    def caller(self, *command: str) -> Manifest:
        """A container that runs a command."""
        return {**application(), "command": list(command)}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with mesh(tmp_path_factory.mktemp("life")) as made:
        yield Cluster(made)


def at(pod: Life, *event: str) -> int:
    """When it happened, among all that did."""
    assert event in pod.events, pod.events
    return pod.events.index(event)


def said(pod: Life) -> dict[str, str]:
    """The last that the application has printed."""
    fields: dict[str, str] = json.loads(pod.log("app").splitlines()[-1])
    return fields


def identity(name: str) -> str:
    return f"spiffe://cluster.local/ns/default/sa/{name}"


def test_a_job_with_a_native_sidecar_is_complete(cluster: Cluster) -> None:
    job = injected("job", cluster.caller("curl", "-sS", "--max-time", "60", cluster.url), restartPolicy="Never")
    pod = cluster.mesh.begin(job)
    pod.wait_phase("Succeeded")
    assert said(pod)["l5d-client-id"] == identity("job")
    pod.delete()
    assert at(pod, "ended", "meshd-init") < at(pod, "started", "meshd-proxy") < at(pod, "started", "app")
    assert at(pod, "ended", "app") < at(pod, "SIGTERM", "meshd-proxy") < at(pod, "ended", "meshd-proxy")


@pytest.mark.parametrize("how", ["wrapped", "asked"])
def test_a_job_without_native_sidecars_ends_its_proxy(cluster: Cluster, how: str) -> None:
    call = f"curl -sS --max-time 60 {cluster.url}"
    commands = {
        "wrapped": ["meshd-await", "--shutdown", "--", *call.split()],
        "asked": ["sh", "-c", f"{call}; curl -sS -X POST --max-time 60 http://127.0.0.1:4191/shutdown >&2"],
    }
    job = injected(f"job-{how}", cluster.caller(*commands[how]), native=False, restartPolicy="Never")
    pod = cluster.mesh.begin(job)
    pod.wait_phase("Succeeded")
    assert identity(f"job-{how}") in pod.log("app")
    assert at(pod, "postStart", "meshd-proxy") < at(pod, "started", "app")
    assert ("SIGTERM", "meshd-proxy") not in pod.events


def test_a_job_whose_command_fails_has_failed(cluster: Cluster) -> None:
    command = ["meshd-await", "--shutdown", "--", "sh", "-c", "exit 9"]
    pod = cluster.mesh.begin(injected("job-bad", cluster.caller(*command), native=False, restartPolicy="Never"))
    pod.wait_phase("Failed")
    assert pod.container("app").status == 9
    assert pod.container("meshd-proxy").status == 0


def test_the_proxy_ends_after_the_application(cluster: Cluster) -> None:
    """Which, when it is told to end, has something to say to another pod yet."""
    farewell = f"trap 'curl -sS --max-time 60 {cluster.url}bye; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    pod = cluster.mesh.start(injected("leaver", cluster.caller("bash", "-c", farewell)))
    wait_until(lambda: "up" in pod.log("app"), "it runs")
    pod.delete()
    assert said(pod)[":path"] == "/bye"
    assert said(pod)["l5d-client-id"] == identity("leaver")
    assert at(pod, "SIGTERM", "app") < at(pod, "ended", "app") < at(pod, "SIGTERM", "meshd-proxy")
    assert pod.container("meshd-proxy").status == 0


def test_a_proxy_beside_the_application_goes_on_for_as_long_as_it_is_to(cluster: Cluster) -> None:
    farewell = (
        f"trap 'sleep 1; curl -sS --max-time 60 {cluster.url}bye; touch /run/meshd/gone; exit 0' TERM; echo up; "
        "while :; do sleep 0.1; done"
    )
    manifest = injected("leaver-beside", cluster.caller("bash", "-c", farewell), native=False)
    proxy, app = manifest["spec"]["containers"]
    proxy["lifecycle"]["preStop"] = {
        "exec": {"command": ["bash", "-c", "until test -e /run/meshd/gone; do sleep 0.1; done"]}
    }
    app["volumeMounts"] = proxy["volumeMounts"]
    pod = cluster.mesh.start(manifest)
    wait_until(lambda: "up" in pod.log("app"), "it runs")
    pod.delete()
    assert said(pod)["l5d-client-id"] == identity("leaver-beside")
    assert at(pod, "preStop", "meshd-proxy") < at(pod, "SIGTERM", "meshd-proxy")


def test_a_killed_proxy_is_back_and_nothing_goes_in_plain_text_meanwhile(cluster: Cluster) -> None:
    pod = cluster.mesh.start(injected("phoenix", application("http", "0.0.0.0:8080")))
    before = pod.container("meshd-proxy").starts
    pod.container("meshd-proxy").signal(signal.SIGKILL)

    def answered() -> bool:
        done = pod.run("app", "curl", "-sS", "--fail", "--max-time", "60", cluster.url)
        if done.returncode:  # no proxy, or one that has no certificate yet
            return False
        assert json.loads(done.stdout)["l5d-client-id"] == identity("phoenix")
        return pod.container("meshd-proxy").starts > before

    wait_until(answered, "it is back", 120)
    assert pod.container("app").starts == 1


def test_a_pod_that_may_not_change_its_rules_does_not_start(cluster: Cluster) -> None:
    manifest = injected("powerless", application("http", "0.0.0.0:8080"), restartPolicy="Never")
    manifest["spec"]["initContainers"][0]["securityContext"]["capabilities"]["add"] = []
    pod = cluster.mesh.begin(manifest)
    pod.wait_phase("Failed")
    assert "lacks CAP_NET_ADMIN: its securityContext has to add it" in pod.log("meshd-init")
    assert ("started", "app") not in pod.events

    manifest = injected("unprivileged", application("http", "0.0.0.0:8080"), restartPolicy="Never")
    manifest["spec"]["initContainers"][0]["securityContext"]["runAsUser"] = 1000
    pod = cluster.mesh.begin(manifest)
    pod.wait_phase("Failed")
    assert "not to user 1000: it has to run as user 0" in pod.log("meshd-init")


def test_rules_are_found_where_they_are_and_missed_where_they_are_not(cluster: Cluster) -> None:
    validator = {**application(), "name": "check", "command": ["meshd-init", "--check", "--timeout=60"]}
    manifest = injected("checked", application("http", "0.0.0.0:8080"))
    manifest["spec"]["initContainers"].insert(1, validator)
    pod = cluster.mesh.start(manifest)
    assert "are led to its proxy" in pod.log("check")

    validator["command"][-1] = "--timeout=0.5"
    pod = cluster.mesh.begin(plain("unchecked", validator, restartPolicy="Never"))
    pod.wait_phase("Failed")
    assert "connections of this pod are not led to its proxy at port 4140" in pod.log("check")


def test_rules_of_one_family_are_not_enough_where_there_are_two(cluster: Cluster) -> None:
    node, pod = cluster.mesh.node, cluster.mesh.node.plug().file
    init = (sys.executable, "-P", "-m", "k8s.init")
    node.run(*init, "--mode=iptables-nft", within=pod)
    node.run(*init, "--check", within=pod)
    node.run("ip6tables-nft", "--table", "nat", "--flush", within=pod)
    missed = node.tried(*init, "--check", "--timeout=0.5", within=pod)
    assert "not led to its proxy at port 4140: no rules are in force for IPv6" in missed.stderr
    node.run("iptables-nft", "--table", "nat", "--flush", within=pod)
    missed = node.tried(*init, "--check", "--timeout=0.5", within=pod)
    assert "no rules are in force for IPv4 and IPv6" in missed.stderr


def test_rules_are_put_in_force_again_without_harm(cluster: Cluster) -> None:
    pod = cluster.mesh.start(injected("again", application("http", "0.0.0.0:8080")))
    done = pod.run("meshd-init", "meshd-init", "--skip-outbound-ports=9")
    assert done.returncode == 0, done.stderr
    rules = cluster.mesh.node.run("nft", "--stateless", "list", "ruleset", within=pod.network.file)
    assert rules.count("redirect to :4140") == 1
    assert "tcp dport 9 return" in re.sub(r"[{}]", "", rules)
    got = pod.run("app", "curl", "-sS", "--max-time", "60", cluster.url)
    assert json.loads(got.stdout)["l5d-client-id"] == identity("again")
