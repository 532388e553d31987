"""Which socket is the agent's."""

import socket
from pathlib import Path

import pytest

from meshd.api.backoff import Backoff
from meshd.client import sockets


@pytest.mark.parametrize(
    ("explicit", "environment", "expected"),
    [
        (Path("/a"), {"MESHD_SOCKET": "/b"}, ["/a"]),
        (None, {"MESHD_SOCKET": "/b", "XDG_STATE_HOME": "/s"}, ["/b"]),
        (None, {"MESHD_SOCKET": "", "XDG_STATE_HOME": "/s"}, ["/run/meshd/meshd.sock", "/s/meshd/meshd.sock"]),
        (None, {"XDG_STATE_HOME": "s"}, ["/run/meshd/meshd.sock", "~/.local/state/meshd/meshd.sock"]),
        (None, {}, ["/run/meshd/meshd.sock", "~/.local/state/meshd/meshd.sock"]),
    ],
)
def test_the_order(explicit: Path | None, environment: dict[str, str], expected: list[str]) -> None:
    assert sockets.candidates(explicit, environment) == tuple(Path(each).expanduser() for each in expected)


def test_a_socket_answers_only_while_someone_listens(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert not sockets.answers(path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        assert sockets.answers(path)
        assert sockets.find(path, {}) == path
    assert path.exists()
    assert not sockets.answers(path)


def test_no_agent_names_what_was_tried_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(sockets.NoAgent) as raised:
        sockets.find(None, {"XDG_STATE_HOME": str(tmp_path)})
    assert f"/run/meshd/meshd.sock or {tmp_path}/meshd/meshd.sock" in str(raised.value)
    assert "start the host's (meshd agent)" in str(raised.value)
    assert raised.value.exit_status == 1


def test_delays_double_to_a_bound_and_begin_anew_after_success() -> None:
    longest = Backoff(0.1, 0.5, draw=lambda _low, high: high)
    assert [longest.next_s() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    longest.reset()
    assert longest.next_s() == 0.1
    drawn = Backoff(1.0, 8.0)
    assert all(low <= drawn.next_s() <= 2 * low for low in (0.5, 1.0, 2.0, 4.0, 4.0))
