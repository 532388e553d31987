"""The back ends of discovery behind one face, each with a registry that runs: for a suite that all of them pass.

A new back end is an entry of `BACKENDS`: how a registry of its kind is started, stopped and told that the service
`web` (port 80) has endpoints at ports of 127.0.0.1; and how an agent's settings name it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tests.support.nameservers import NameServer


class Backend(Protocol):
    """A registry that runs, and knows nothing at first."""

    settings: dict[str, Any]
    """An item of the agent's `discovery`."""

    authority: str
    """How `web` is asked for."""

    def serve(self, *ports: int) -> None:
        """The service has endpoints at these ports of 127.0.0.1, and no others."""

    def goes(self) -> None:
        """It cannot be read from now on."""

    def returns(self) -> None:
        """It can be again, and knows what it knew."""


class FileBackend:
    authority = "web"

    def __init__(self, directory: Path) -> None:
        self._directory, self._away = directory / "documents", directory / "away"
        self._directory.mkdir()
        self.settings = {"file": {"path": str(self._directory)}}

    def serve(self, *ports: int) -> None:
        endpoints = ", ".join(f"{{address: 127.0.0.1, port: {port}}}" for port in ports)
        (self._directory / "web.yaml").write_text(
            "apiVersion: meshd.io/v1\nkind: Service\nmetadata: {name: web}\n"
            f"spec: {{port: 80, endpoints: [{endpoints}]}}\n"
        )

    def goes(self) -> None:
        self._directory.rename(self._away)

    def returns(self) -> None:
        self._away.rename(self._directory)


class DnsBackend:
    authority = "web"

    def __init__(self, directory: Path) -> None:
        self._server = NameServer(directory)
        self._server.serve("")
        self._running: AbstractContextManager[Any] | None = None
        self.settings = {
            "dns": {
                "services": {
                    "web": {"srv": "_web._tcp.example", "port": 80},
                    "nobody": {"name": "no.example", "port": 1},
                },
                "resolvers": [str(self._server.address)],
            }
        }

    def serve(self, *ports: int) -> None:
        records = "".join(f"_web._tcp 1 IN SRV 0 1 {port} here\n" for port in ports)
        self._server.serve(f"here 1 IN A 127.0.0.1\n{records}", negative_s=1)

    def goes(self) -> None:
        assert self._running is not None
        self._running.__exit__(None, None, None)
        self._running = None

    def returns(self) -> None:
        self._running = self._server.running()
        self._running.__enter__()

    def close(self) -> None:
        if self._running is not None:
            self.goes()


@contextmanager
def _file(directory: Path) -> Iterator[Backend]:
    yield FileBackend(directory)


@contextmanager
def _dns(directory: Path) -> Iterator[Backend]:
    backend = DnsBackend(directory)
    try:
        backend.returns()
        yield backend
    finally:
        backend.close()


class Kind(NamedTuple):
    """How one of a kind is begun in a directory, the programs it needs, and whether it is doubted, and what it said is
    kept: a file is at hand, and believed."""

    begun: Callable[[Path], AbstractContextManager[Backend]]
    programs: tuple[str, ...] = ()
    doubts: bool = True


BACKENDS = {
    "file": Kind(_file, doubts=False),
    "dns": Kind(_dns, ("nsd",)),
}
