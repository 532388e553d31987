"""A service manager, as far as daemons talk to it: the socket of sd_notify(3), and what was said there."""

import socket
from pathlib import Path

from tests.support.waiting import wait_until


class Manager:
    """A service manager: what it is told, each message a list of lines."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "notify.sock")
        self.told: list[list[str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)

    def hears(self, line: str) -> list[str]:
        """The first message from now on with a line that begins so."""
        return wait_until(lambda: self._hear(line), f"the manager hears {line}")

    def _hear(self, line: str) -> list[str]:
        try:
            self.told.append(self._socket.recv(4096).decode().split("\n"))
        except BlockingIOError:
            return []
        return self.told[-1] if any(each.startswith(line) for each in self.told[-1]) else []

    def close(self) -> None:
        self._socket.close()
