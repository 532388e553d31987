"""Capture end to end: a CA, an agent, its name server, a proxy and applications, on a host of the test's own."""

import json
import os
import signal
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from time import monotonic

import pytest

from meshd.capture.keeper import AWAY_S
from tests.integration.test_proxy_handover import end, main_pid
from tests.support.captured import HTTP_PORT, OPAQUE_PORT, Captured, captured
from tests.support.captures import THERE
from tests.support.managers import Manager
from tests.support.waiting import wait_until

pytestmark = pytest.mark.peer("nft", "ip", "nsenter", "unshare", "setpriv")

WEB = "spiffe://prod.example/ns/default/sa/web"


@pytest.fixture(scope="module")
def here() -> Iterator[Captured]:
    with captured() as made:
        yield made


@pytest.fixture
def manager(here: Captured) -> Iterator[Manager]:
    """One that the proxy may speak to, whose user is another."""
    made = Manager(here.directory)
    Path(made.path).chmod(0o666)
    yield made
    made.close()
    for told in made.told:  # what took the place of another is nobody's child here
        for line in told:
            if line.startswith("MAINPID="):
                end(int(line.partition("=")[2]))
    Path(made.path).unlink()


def fields(answer: str) -> dict[str, str]:
    """What the application got of a request."""
    status, _, body = answer.partition(" ")
    assert status == "200", answer
    found: dict[str, str] = json.loads(body)
    return found


def waited(here: Captured, timeout: str) -> tuple[int, str]:
    """How the command ended with which a unit waits, and what its journal has of it."""
    done = here.ran("capture", "wait", "default/web", "--config", here.settings, "--timeout", timeout)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_a_unit_waits_for_what_is_missing_and_is_told(here: Captured) -> None:
    status, said = waited(here, "0s")
    assert status == 1
    assert said.startswith("meshd: default/web: not started: the mesh is not ready after 0 s: nothing captures meshd")
    with here.agent():
        status, said = waited(here, "0s")
        assert status == 1
        assert "the proxy does not answer at 127.0.0.1:4191 ([Errno 111] Connection refused)" in said
        with here.proxy(is_ready=False):
            wait_until(lambda: "certificate of default/web" in here.ready(), "the proxy waits for certificates")
            status, said = waited(here, "300ms")
            assert status == 1
            assert "waiting for the mesh: the proxy waits for certificate of default/web" in said
            assert "default/api" not in said
            here.set(", failOpen: true")
            status, said = waited(here, "0s")
            assert status == 0
            assert "it starts all the same (capture.failOpen): the proxy waits for certificate" in said
            here.set()
            with here.serves():
                assert waited(here, "60s")[0] == 0
            stranger = here.ran("capture", "wait", "default/stranger", "--config", here.settings, "--timeout", "0s")
            assert "the agent has no Workload default/stranger" in stranger.stderr
    assert waited(here, "0s")[0] == 1  # the proxy has gone


def test_a_slice_that_was_made_anew_is_not_taken_for_the_one_that_is_captured(here: Captured) -> None:
    with here.agent():
        pass  # the table stays
    here.there.clean()
    here.there.group("")
    status, said = waited(here, "0s")
    assert status == 1
    assert "nothing captures" in said


def test_a_name_is_an_address_and_that_is_the_service(here: Captured) -> None:
    with here.all():
        v4, v6 = here.addresses("api.mesh")
        assert ip_address(v4) in ip_network("240.0.0.0/4")
        assert ip_address(v6) in ip_network("fc00::/7")
        for address in (v4, v6):
            assert fields(here.as_web("ask", address, str(HTTP_PORT)))["l5d-client-id"] == WEB
            assert here.as_web("talk", address, str(OPAQUE_PORT)) == "welcome heard \0me\n"
            assert here.as_web("ask", address, str(HTTP_PORT), group="stranger.service") == "ECONNRESET\n"
        nowhere = here.addresses("nowhere.mesh")
        assert len(nowhere) == 2
        for address in nowhere:
            assert here.as_web("ask", address, str(HTTP_PORT)).startswith("503 ")
            assert here.as_web("talk", address, str(HTTP_PORT)) == "ECONNRESET\n"
        assert here.addresses("no-such.mesh") == []
        assert here.as_web("talk", "250.1.2.3", str(OPAQUE_PORT)) == "ECONNRESET\n"  # of no service


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_captured_connections_outlive_generations_of_the_proxy(
    here: Captured, options: tuple[str, ...], manager: Manager
) -> None:
    with here.all(*options, notify=manager.path) as first:
        manager.hears("READY=1")
        with here.asking(*here.addresses("api.mesh")) as counted:
            pids = [first.pid]
            for _ in range(2):
                os.kill(pids[-1], signal.SIGHUP)
                manager.hears("READY=1")
                os.kill(pids[-1], signal.SIGUSR2)
                pids.append(main_pid(manager))
                wait_until(lambda: first.poll() is not None, "the first has drained and ended")
            for address in here.addresses("api.mesh"):
                assert here.as_web("talk", address, str(OPAQUE_PORT)) == "welcome heard \0me\n"
        assert len(set(pids)) == 3
        assert [wrong for _, wrong in counted] == [[], []]
        assert all(count for count, _ in counted)


def test_what_becomes_of_connections_while_the_proxy_is_dead_is_what_was_chosen(here: Captured) -> None:
    place = THERE, 25  # where the server speaks first, and nothing is waited for

    def called() -> str:
        return here.there.call(*place, within=here.there.group("web.service"))

    def connections(name: str) -> int:
        shown = here.ran("capture", "show", "--config", here.settings, "-o", "json")
        return int(json.loads(shown.stdout)["connections"][name])

    with here.there.serving("outside", place, outside=True):
        for capture in ("", ", failOpen: true"):
            here.set(capture)
            with here.all() as proxy:
                assert called() == "outside -"
                assert connections("outbound")
                proxy.kill()
                proxy.wait()
                assert called() == "ECONNREFUSED" or capture  # which may have begun
                if not capture:
                    over = monotonic() + AWAY_S + 2.0
                    while monotonic() < over:
                        assert called() == "ECONNREFUSED"
                    continue
                wait_until(lambda: called() == "outside -", "connections go on without a proxy")
                assert connections("passed")
                with here.proxy():
                    wait_until(lambda: called() == "outside -" and connections("outbound"), "they are captured again")
        here.set()
