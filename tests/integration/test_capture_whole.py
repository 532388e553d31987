"""Capture end to end: a CA, an agent, its name server, a proxy and applications, on a host of the test's own."""

from collections.abc import Iterator

import pytest

from tests.support.captured import Captured, captured
from tests.support.waiting import wait_until

pytestmark = pytest.mark.peer("nft", "ip", "nsenter", "unshare", "setpriv")


@pytest.fixture(scope="module")
def here() -> Iterator[Captured]:
    with captured() as made:
        yield made


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
