"""Where the agent's socket is.

The order, the first that applies:

    1. --socket
    2. $MESHD_SOCKET
    3. the host's agent at /run/meshd/meshd.sock, if something answers there
    4. the user's own embedded agent, $XDG_STATE_HOME/meshd/meshd.sock (by default below ~/.local/state)

One and two are what somebody asked for, so nothing else is tried when they do not answer.
"""

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from meshd.api.problems import Problem

HOST_SOCKET = Path("/run/meshd/meshd.sock")

SOCKET_NAME = "meshd.sock"
"""What an agent's socket is called in its state directory."""


class NoAgent(Problem):
    """No agent answers; the message names the sockets that were tried."""

    def __init__(self, tried: Sequence[Path]) -> None:
        names = " or ".join(str(path) for path in tried)
        super().__init__(
            f"no agent answers at {names}: start the host's (meshd agent) or a workload (meshd run), "
            "or name its socket with --socket or MESHD_SOCKET"
        )


def state_directory(environment: Mapping[str, str]) -> Path:
    """Where the user's embedded agent lives. XDG's rule: a relative $XDG_STATE_HOME is ignored."""
    state_home = Path(environment.get("XDG_STATE_HOME", ""))
    return (state_home if state_home.is_absolute() else Path.home() / ".local" / "state") / "meshd"


def chosen(explicit: Path | None, environment: Mapping[str, str]) -> Path | None:
    """The socket that somebody asked for, by flag or environment; None when nobody did."""
    if explicit is not None:
        return explicit
    named = environment.get("MESHD_SOCKET")
    return Path(named) if named else None


def candidates(explicit: Path | None, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The sockets to try, in order."""
    asked = chosen(explicit, environment)
    return (asked,) if asked is not None else (HOST_SOCKET, state_directory(environment) / SOCKET_NAME)


def answers(path: Path) -> bool:
    """Whether a process accepts connections at path. An agent that is too busy to accept at once answers too."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def find(explicit: Path | None, environment: Mapping[str, str]) -> Path:
    """The first socket that answers. NoAgent when none does."""
    tried = candidates(explicit, environment)
    for path in tried:
        if answers(path):
            return path
    raise NoAgent(tried)
