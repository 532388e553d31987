"""The agent that a workload registers with: the host's, or the user's own.

    --socket, $MESHD_SOCKET          that one; it must be there
    --state-dir DIR                  the user's own in DIR
    /run/meshd/meshd.sock exists     the host's; it must answer
    otherwise                        the user's own in $XDG_STATE_HOME/meshd

The user's own (`meshd agent --embedded`) is started when it is not there, in a session of its own, and is shared by all
of the user's workloads: it outlives the one that started it, and ends by itself after the last.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from meshd.api.problems import Misuse, Problem
from meshd.client import sockets
from meshd.run import logs, programs
from meshd.run.child import Child, describe

ANSWERS_WITHIN_S = 15.0
LOOK_AGAIN_S = 0.02


class Agent(Protocol):
    """Where an agent is, and a way to make sure that it is there."""

    socket: Path

    async def present(self) -> None:
        """Returns when it answers; Problem when it does not."""


class HostAgent:
    """An agent that somebody else starts and stops."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    async def present(self) -> None:
        if not sockets.answers(self.socket):
            raise Problem(
                f"no agent answers at {self.socket}: start it (meshd agent), "
                "or give --state-dir DIR for an agent of your own"
            )


class EmbeddedAgent:
    """The user's own agent, with a certificate authority of its own, in a state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.socket = state_dir / sockets.SOCKET_NAME
        self._state_dir = state_dir
        self._log = state_dir / "agent.log"
        self._child: Child | None = None

    async def present(self) -> None:
        if sockets.answers(self.socket):
            return
        if self._child is None or self._child.ended.done():
            self._child = self._start()
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                await self._answers(self._child)
        except TimeoutError as error:
            raise self._failed(f"it did not answer at {self.socket} within {ANSWERS_WITHIN_S:g} s") from error

    def _start(self) -> Child:
        try:
            self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            output = logs.open_log(self._log)
        except OSError as error:
            where = error.filename or self._state_dir
            raise Problem(f"{where}: {error.strerror}: give another directory with --state-dir") from error
        argv = [*programs.MESHD, "agent", "--embedded", "--state-dir", str(self._state_dir)]
        with output:
            return Child.spawn(argv, os.environ, output=output, new_session=True, outlives_us=True, cwd=Path("/"))

    async def _answers(self, child: Child) -> None:
        """A child that ends well found that another holds the directory: then it is that one that will answer."""
        while not sockets.answers(self.socket):
            if child.ended.done() and (status := child.ended.result()) != 0:
                raise self._failed(f"it ended: {describe(status)}")
            await asyncio.sleep(LOOK_AGAIN_S)

    def _failed(self, why: str) -> Problem:
        return Problem(f"the embedded agent could not be started: {why}; {self._log} ends with\n{logs.tail(self._log)}")


def choose(socket: Path | None, state_dir: Path | None, environment: Mapping[str, str]) -> Agent:
    """The agent to register with. Misuse when two were asked for."""
    if state_dir is not None:
        if socket is not None:
            raise Misuse("--socket names an agent that runs, --state-dir one to start: give one of them")
        return EmbeddedAgent(state_dir.absolute())
    asked = sockets.chosen(socket, environment)
    if asked is not None:
        return HostAgent(asked.absolute())
    if sockets.HOST_SOCKET.exists():
        return HostAgent(sockets.HOST_SOCKET)
    return EmbeddedAgent(sockets.state_directory(environment))
