"""Pods and a real control plane: the injector's manifests as they are, tokens, a real CA, a real controller."""

import json
from collections.abc import Iterator

import pytest

from tests.support.controllers import DOMAIN
from tests.support.kubelet.cluster import NAMESPACE, Cluster, cluster
from tests.support.kubelet.life import Life
from tests.support.kubelet.mesh import application, plain, program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.peer("nft", "ip", "nsenter", "unshare", "setpriv", "curl")

WEB = f"spiffe://{DOMAIN}/ns/{NAMESPACE}/sa/web"


class Shop:
    """Pods of a shop, which the controller has told what they are."""

    def __init__(self, made: Cluster) -> None:
        self.cluster = made
        made.start_controller()
        store = plain("db-0", application("http", "0.0.0.0:8080"), namespace=NAMESPACE, serviceAccountName="db")
        mail = plain("mail", application("greet", "0.0.0.0:2525"), namespace=NAMESPACE)
        mail["metadata"]["annotations"] = {"config.meshd.io/opaque-ports": "2525"}
        self.out = made.begin(plain("out", application("http", "0.0.0.0:8080"), namespace=NAMESPACE), meshed=False)
        self.api, self.db, self.mail = (
            made.begin(each)
            for each in (plain("api", application("http", "0.0.0.0:8080"), namespace=NAMESPACE), store, mail)
        )
        self.api_address = made.serve("api", 80, 8080, self.api)
        made.serve("db", 8080, 8080, self.db, clusterIP="None")
        self.mail_address = made.serve("mail", 25, 2525, self.mail)
        made.names |= {"api.shop.svc.cluster.local": self.api_address, "db-0.db": self.db.address}
        self.web = made.begin(plain("web", application("http", "0.0.0.0:8080"), namespace=NAMESPACE), native=False)
        for each in (self.out, self.api, self.db, self.mail, self.web):
            each.wait_ready()

    def asked(self, by: Life, url: str) -> dict[str, str]:
        done = by.run("app", "curl", "-sS", "--max-time", "60", url)
        assert done.returncode == 0, (done.stdout, done.stderr, by.logs())
        fields: dict[str, str] = json.loads(done.stdout)
        return fields


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield Shop(made)


def test_a_service_is_called_by_mutual_tls(shop: Shop) -> None:
    for host in (shop.api_address, "api.shop.svc.cluster.local"):
        got = shop.asked(shop.web, f"http://{host}/")
        assert got["l5d-client-id"] == WEB
        assert got["host"] == host


def test_a_pod_of_a_stateful_set_is_called_by_name(shop: Shop) -> None:
    got = shop.asked(shop.web, "http://db-0.db:8080/")
    assert got["l5d-client-id"] == WEB
    assert got["host"] == "db-0.db:8080"


def test_metrics_of_sidecars_are_scraped_through_a_service(shop: Shop) -> None:
    address = shop.cluster.serve("metrics", 4191, 4191, shop.api)
    done = shop.web.run("app", "curl", "-sSf", "--max-time", "60", f"http://{address}:4191/metrics")
    assert done.returncode == 0, (done.stderr, shop.web.logs())
    assert "process_start_time_seconds" in done.stdout


def test_an_annotation_makes_a_port_opaque(shop: Shop) -> None:
    done = shop.web.run("app", *program("hear", f"{shop.mail_address}:25"))
    assert done.stdout == "b'220 hello\\r\\nheard me\\r\\n'\n", done.stderr
    page = shop.cluster.node.run("curl", "-sS", f"http://{shop.mail.address}:4191/metrics")
    assert any(WEB in line and "2525" in line for line in page.splitlines() if line.startswith("tcp_open_total"))


def test_who_is_not_in_the_mesh_is_called_and_calls(shop: Shop) -> None:
    assert "l5d-client-id" not in shop.asked(shop.web, f"http://{shop.out.address}:8080/")
    assert "l5d-client-id" not in shop.asked(shop.out, f"http://{shop.api.address}:8080/")


def test_traffic_goes_on_without_a_controller(shop: Shop) -> None:
    for url in (f"http://{shop.api_address}/", "http://db-0.db:8080/"):
        shop.asked(shop.web, url)
    shop.cluster.stop_controller()
    assert shop.asked(shop.web, f"http://{shop.api_address}/")["l5d-client-id"] == WEB
    assert shop.asked(shop.web, "http://db-0.db:8080/")["l5d-client-id"] == WEB
    app = application("http", "0.0.0.0:8080", readinessProbe={"tcpSocket": {"port": 8080}})
    late = shop.cluster.begin(plain("late", app, namespace=NAMESPACE))
    wait_until(lambda: "meshd-controller" in late.log("meshd-proxy"), "it looks for a controller")
    assert ("started", "app") not in late.events
    shop.cluster.start_controller()
    late.wait_ready()
    assert shop.asked(late, f"http://{shop.api_address}/")["l5d-client-id"] == WEB.replace("web", "late")
