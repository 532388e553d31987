"""Meshed pods, played: real rules of nftables in namespaces of their own, real proxies as the user and with the
capabilities that a pod gives them, applications that know nothing of it."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from k8s.init import nftables
from k8s.init.plan import PodPlan
from meshd.api.names import Address
from tests.support.kubelet.life import Life
from tests.support.kubelet.mesh import Mesh, application, injected, mesh, plain, program
from tests.support.kubelet.node import NODE_OUTSIDE
from tests.support.waiting import wait_until

pytestmark = pytest.mark.peer("nft", "ip", "nsenter", "unshare", "setpriv", "curl")

Manifest = dict[str, Any]

HEARD = "b'220 hello\\r\\nheard me\\r\\n'\n"
IDENTITY = "spiffe://cluster.local/ns/default/sa/web"


class Pods:
    """The mesh, and the pods that most tests use."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        probes: Manifest = {
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
            "ports": [{"name": "http", "containerPort": 8080, "hostPort": 18080}],
        }
        api = injected(
            "api",
            application("http", "[::]:8080", "127.0.0.1:9999", **probes),
            application(
                "greet", "0.0.0.0:3306", "0.0.0.0:7000", name="mail", readinessProbe={"tcpSocket": {"port": 7000}}
            ),
        )
        begun = [
            mesh.begin(api, opaque_ports=(3306,)),
            mesh.begin(injected("web", application("http", "0.0.0.0:8080"))),
            mesh.begin(plain("out", application("http", "0.0.0.0:8080"))),
        ]
        for each in begun:
            each.wait_ready()
        self.api, self.web, self.out = begun

    def asked(self, by: Life, url: str, *flags: str) -> dict[str, str]:
        """What an application got of a request."""
        done = by.run("app", "curl", "-sS", "--max-time", "60", *flags, url)
        assert done.returncode == 0, (done.stdout, done.stderr, self.api.logs(), self.web.logs())
        fields: dict[str, str] = json.loads(done.stdout)
        return fields

    def said(self, by: Life, *arguments: str) -> str:
        done = by.run("app", *program(*arguments))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def metrics(self, of: Life) -> str:
        return self.mesh.node.run("curl", "-sS", f"http://{of.address}:4191/metrics")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    directory = tmp_path_factory.mktemp("pods")
    with mesh(directory) as made:
        yield Pods(made)


def test_pods_speak_to_each_other_by_mutual_tls(cluster: Pods) -> None:
    mapped = f"[::ffff:{cluster.api.address}]"  # which is the first, by a socket of IPv6
    for address in (cluster.api.address, f"[{cluster.api.network.address6}]", mapped):
        got = cluster.asked(cluster.web, f"http://{address}:8080/here", "-H", "l5d-client-id: forged")
        assert got["l5d-client-id"] == IDENTITY
        assert got[":path"] == "/here"
    counted = [line for line in cluster.metrics(cluster.api).splitlines() if line.startswith("request_total{")]
    assert any(f'client_id="{IDENTITY}"' in line and 'target_port="8080"' in line for line in counted), counted


def test_http2_without_tls(cluster: Pods) -> None:
    got = cluster.asked(cluster.web, f"http://{cluster.api.address}:8080/", "--http2-prior-knowledge")
    assert got[":version"] == "2"
    assert got["l5d-client-id"] == IDENTITY


def test_a_server_that_speaks_first_on_an_opaque_port(cluster: Pods) -> None:
    assert cluster.said(cluster.web, "hear", f"{cluster.api.address}:3306") == HEARD
    counted = [line for line in cluster.metrics(cluster.api).splitlines() if 'target_port="3306"' in line]
    assert any(line.startswith("tcp_open_total") and IDENTITY in line for line in counted)
    assert cluster.said(cluster.out, "hear", f"{cluster.api.address}:3306") == HEARD


def test_the_address_of_a_service_leads_to_its_pods(cluster: Pods) -> None:
    control = cluster.mesh.control
    control.services["10.96.0.10:80"] = control.endpoints(80, Address(cluster.api.address, 8080))
    got = cluster.asked(cluster.web, "http://10.96.0.10/")
    assert got["l5d-client-id"] == IDENTITY
    assert got["host"] == "10.96.0.10"


def test_callers_outside_the_mesh_and_servers_outside_it(cluster: Pods) -> None:
    plain_ = cluster.asked(cluster.out, f"http://{cluster.api.address}:8080/", "-H", "l5d-client-id: forged")
    assert "l5d-client-id" not in plain_
    outside = cluster.asked(cluster.web, f"http://{cluster.out.address}:8080/")
    assert "l5d-client-id" not in outside
    assert outside[":from"] == cluster.web.address
    host_port = cluster.mesh.node.neighbour(["curl", "-sS", "--max-time", "60", f"http://{NODE_OUTSIDE}:18080/"])
    done = subprocess.run(host_port, capture_output=True, text=True, check=False, timeout=90)
    assert json.loads(done.stdout)["host"] == f"{NODE_OUTSIDE}:18080", done.stderr


def test_probes_find_what_is_so(cluster: Pods) -> None:
    """The kubelet's, which are no peers of the mesh; and those of who only connects."""
    wait_until(lambda: cluster.api.is_ready, "it is ready")
    cluster.asked(cluster.web, f"http://{cluster.api.address}:8080/healthz/bad", "-X", "POST")
    wait_until(lambda: not cluster.api.is_ready, "it is not ready")
    cluster.asked(cluster.web, f"http://{cluster.api.address}:8080/healthz/good", "-X", "POST")
    wait_until(lambda: cluster.api.is_ready, "it is ready again")
    assert cluster.said(cluster.out, "knock", f"{cluster.api.address}:7000") == "open\n"
    assert cluster.said(cluster.out, "knock", f"{cluster.api.address}:7001") == "refused\n"
    assert cluster.said(cluster.out, "knock", f"{cluster.api.address}:9999") == "refused\n"  # on loopback alone


def test_ports_where_nobody_is_to_be_heard(cluster: Pods) -> None:
    for port in (7001, 9999):  # nobody listens; somebody does, on loopback
        done = cluster.web.run("app", "curl", "-sS", "--max-time", "60", "-i", f"http://{cluster.api.address}:{port}/")
        assert done.stdout.startswith("HTTP/1.1 503"), (done.stdout, done.stderr)
        assert "l5d-proxy-error" in done.stdout
    for port in (4140, 4143, 4191):
        done = cluster.web.run("app", "curl", "-sS", "--max-time", "60", f"http://{cluster.api.address}:{port}/metrics")
        assert "request_total" not in done.stdout
    page = cluster.metrics(cluster.api)  # which is not led anywhere
    assert "request_total" in page
    assert 'target_port="7001"' not in page
    assert 'target_port="9999"' not in page
    assert 'target_port="4191"' not in page
    assert "the proxy's own" in cluster.api.log("meshd-proxy")


@pytest.mark.peer("iptables-legacy")
@pytest.mark.parametrize("mode", ["iptables-nft", "iptables-legacy"])
def test_rules_of_iptables_do_the_same(cluster: Pods, mode: str) -> None:
    pod = injected(mode, application("http", "0.0.0.0:8080"), init=[f"--mode={mode}", "--skip-outbound-ports=7000"])
    made = cluster.mesh.start(pod, ipv6=mode == "iptables-nft")
    got = cluster.asked(made, f"http://{cluster.api.address}:8080/")
    assert got["l5d-client-id"] == IDENTITY.replace("web", mode)
    assert cluster.asked(cluster.web, f"http://{made.address}:8080/")["l5d-client-id"] == IDENTITY
    assert cluster.said(cluster.out, "knock", f"{made.address}:7001") == "refused\n"
    assert cluster.said(made, "hear", f"{cluster.api.address}:7000") == HEARD
    assert f'{IDENTITY.replace("web", mode)}",' not in "\n".join(
        line for line in cluster.metrics(cluster.api).splitlines() if 'target_port="7000"' in line
    )


def test_a_kernel_that_cannot_see_who_listens_leaves_it_to_the_proxy(cluster: Pods) -> None:
    made = cluster.mesh.start(injected("blind", application("http", "0.0.0.0:8080")))
    rules = nftables.render(PodPlan(), looks_up=False)
    cluster.mesh.node.run("nft", "--file", "-", within=made.network.file, text=rules)
    assert "l5d-client-id" not in cluster.asked(cluster.out, f"http://{made.address}:8080/")
    refused = cluster.out.run("app", "curl", "-sS", "--max-time", "60", f"http://{made.address}:7001/")
    assert refused.returncode in (7, 52, 56), refused.stderr  # it was made, and is reset: maybe before curl looks
    page = cluster.metrics(made)
    assert 'inbound_tcp_errors_total{error="failfast"} 1' in page
    assert 'target_port="7001"' not in page
