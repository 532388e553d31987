"""`meshd check` on the proxy of a host that joined, and on its workloads, which it asks for something by mutual TLS."""

import subprocess
from contextlib import ExitStack

import pytest

from tests.support.joined import Joined, wrong
from tests.support.peers import path
from tests.support.ports import accepts
from tests.support.processes import running
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Joined:
    return Joined(tmp_path_factory.mktemp("host"))


def waits_for_its_port_alone(joined: Joined) -> bool:
    workload = joined.workload()
    *others, last = workload.get("waiting_for") or ("",)
    return not others and "Address already in use" in last and bool(workload["certificate_not_after"])


def test_workloads_are_asked_by_mutual_tls_and_applications_hear_nothing(joined: Joined) -> None:
    with joined.all():
        status, checks = joined.check()
        assert (status, wrong(checks)) == (0, {})
        assert checks["workload-meshed"]["description"] == f"default/web at port {joined.port} is reached by mutual TLS"
        assert {"proxy-attached", "proxy-ready", "proxy-version", "workload-ready", "agent-version"} <= checks.keys()

        (joined.state / "node.key").rename(joined.directory / "node.key")  # a host that has none to show
        _, checks = joined.check()
        assert "workload-meshed" not in checks
        assert checks["workload-presents"]["result"] == "success"
        (joined.directory / "node.key").rename(joined.state / "node.key")
    assert "GET" not in joined.log("app")
    assert "refused" not in joined.log("proxy")


@pytest.mark.peer("openssl")
def test_somebody_else_at_the_proxy_s_port_is_not_believed(joined: Joined) -> None:
    """Somebody with a certificate of their own for the workload's name; and somebody who speaks no TLS."""
    directory = joined.directory
    subprocess.run(
        [
            path("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", directory / "thief.key", "-out", directory / "thief.pem", "-subj", "/CN=thief",
            "-addext", "subjectAltName=URI:spiffe://prod.example/ns/default/sa/web",
        ],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    at = f"127.0.0.1:{joined.inbound}"
    thief = [path("openssl"), "s_server", "-accept", at, "-alpn", "meshd/1", "-quiet", "-tls1_3"]
    thief += ["-cert", str(directory / "thief.pem"), "-key", str(directory / "thief.key")]
    stranger = ["python3", "-m", "http.server", "--bind", "127.0.0.1", str(joined.inbound)]
    with ExitStack() as held:
        for each in (joined.serves(), joined.application(), joined.agent()):
            held.enter_context(each)
        for argv, said in ((thief, "what it presents is not good: self-signed"), (stranger, "no TLS of the mesh")):
            with running(argv, directory / "thief.log", lambda: accepts(joined.inbound)):
                with joined.proxy():
                    wait_until(lambda: waits_for_its_port_alone(joined), "the proxy has all but its port")
                    status, checks = joined.check()
                found = wrong(checks)
                assert status == 1
                assert said in found["workload-meshed"], found
                assert f"listener {at} (cannot listen" in found["proxy-ready"]
                assert "(pid " in found[f"port nobody else has the port {joined.inbound}"]
                assert "meshd-ports" in checks["proxy-ready"]["hint"]
