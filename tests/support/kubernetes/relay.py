"""A way to an API server that can be cut: connections go through it untouched, TLS and all, until it is."""

import asyncio
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

_PATHS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")


class Relay:
    """On a port of 127.0.0.1, to the server of a kubeconfig's current context. `open` may be set again after `cut`."""

    def __init__(self, kubeconfig: Path) -> None:
        self._config = yaml.safe_load(kubeconfig.read_text())
        for named in (*self._config["clusters"], *self._config["users"]):
            content = named.get("cluster") or named.get("user") or {}
            content |= {key: str(kubeconfig.parent / content[key]) for key in _PATHS if content.get(key)}
        current = next(each for each in self._config["contexts"] if each["name"] == self._config["current-context"])
        self._cluster = next(
            each["cluster"] for each in self._config["clusters"] if each["name"] == current["context"]["cluster"]
        )
        url = urlsplit(self._cluster["server"])
        self._to = (str(url.hostname), url.port or 443)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server: asyncio.Server | None = None
        self.open = True
        self._writers: set[asyncio.StreamWriter] = set()

    def kubeconfig(self, file: Path) -> Path:
        """Write the kubeconfig by which a client goes this way."""
        self._cluster["server"] = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._cluster.setdefault("tls-server-name", self._to[0])
        file.write_text(yaml.safe_dump(self._config))
        file.chmod(0o600)
        return file

    async def begin(self) -> None:
        """Open, until `end`."""
        self._server = await asyncio.start_server(self._accepted, sock=self._listener)

    def cut(self) -> None:
        """Nothing comes or goes any more; who connects is cut off."""
        self.open = False
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def end(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self.open:
                raise ConnectionError
            far_reader, far_writer = await asyncio.open_connection(*self._to)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        try:
            await _first_of(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            self._writers -= both
            for each in both:
                each.transport.abort()


async def _first_of(*work: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while content := await reader.read(2**16):
            writer.write(content)
            await writer.drain()
    except OSError:
        pass
