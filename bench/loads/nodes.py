"""Load on a CA: nodes of its mesh that have certificates signed, over TLS in which each shows its own.

python -m bench.loads.nodes PORT DIRECTORY NODES AT_ONCE SECONDS KEPT    # prints one line of JSON

The loop is closed: so many requests are under way at once, the nodes taking turns. A request has a connection of its
own, as those of agents do, or with `KEPT` the connections are opened beforehand and kept. What a request takes is from
before its connection to the end of its answer, all of which is looked at: a status other than 200 is a failure.
"""

import asyncio
import itertools
import json
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from bench.configure.ca import IDENTITY
from bench.loads import driven
from bench.scenario import Load, Target
from meshd.ca.wire import SignRequest


@dataclass(frozen=True, slots=True)
class Sign:
    """A run of it, in a process of its own. Its value is in certificates a second."""

    nodes: int
    at_once: int
    kept: bool = False

    def missing(self) -> str | None:
        return None

    def drive(self, target: Target, seconds: float, core: int, directory: Path) -> Load:  # noqa: ARG002
        what = (self.nodes, self.at_once, seconds, *(("KEPT",) if self.kept else ()))
        return driven.as_rate(driven.run(__name__, core, target.port, target.directory, *what))


@dataclass(frozen=True, slots=True)
class Asking:
    """A node, as the load has it: what it is connected with, and what it sends."""

    tls: ssl.SSLContext
    request: bytes


def asking(directory: Path, number: int) -> Asking:
    """The node of that number among those laid there."""
    tls = ssl.create_default_context(cafile=directory / "ca" / "bundle.pem")
    tls.load_cert_chain(directory / "nodes" / f"{number}.pem")
    csr = (directory / "nodes" / f"{number}.csr").read_text(encoding="utf-8")
    body = msgspec.json.encode(SignRequest(csr, IDENTITY))
    head = (
        f"POST /v1/sign HTTP/1.1\r\nHost: ca\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return Asking(tls, head.encode() + body)


class Connection(asyncio.Protocol):
    """A connection, and the answer to what was sent last."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes) -> "asyncio.Future[bool]":
        """Whether the answer is of status 200; a ConnectionError when there is none."""
        self._answer, self._answered = b"", asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answered

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, self.body = self._answer.partition(b"\r\n\r\n")
        if end and len(self.body) >= _length(head) and not self._answered.done():
            self._answered.set_result(head.startswith(b"HTTP/1.1 200"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        answered = getattr(self, "_answered", None)
        if answered is not None and not answered.done():
            answered.set_exception(ConnectionResetError("the connection ended before its answer"))

    def close(self) -> None:
        self._transport.abort()


def _length(head: bytes) -> int:
    fields = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return next(int(value) for name, _, value in fields if name.lower() == b"content-length")


async def connect(port: int, node: Asking) -> Connection:
    """A connection on which the node showed its certificate, and believed the server's."""
    made = await asyncio.get_running_loop().create_connection(
        Connection, "127.0.0.1", port, ssl=node.tls, server_hostname="127.0.0.1"
    )
    return made[1]


@dataclass(slots=True)
class _Seen:
    took_s: list[float]
    failed: int = 0


async def _ask(port: int, nodes: Iterator[Asking], end: float, seen: _Seen) -> None:
    while time.monotonic() < end:
        node, begun = next(nodes), time.monotonic()
        try:
            connection = await connect(port, node)
            good = await connection.ask(node.request)
            connection.close()
        except OSError:
            good = False
        _note(seen, good, begun)


async def _ask_kept(connection: Connection, node: Asking, end: float, seen: _Seen) -> None:
    while (begun := time.monotonic()) < end:
        _note(seen, await connection.ask(node.request), begun)
    connection.close()


def _note(seen: _Seen, good: bool, begun: float) -> None:
    if good:
        seen.took_s.append(time.monotonic() - begun)
    else:
        seen.failed += 1


async def _run(
    port: int, directory: Path, nodes: int, at_once: int, seconds: float, *, kept: bool
) -> dict[str, object]:
    all_nodes, seen = [asking(directory, number) for number in range(nodes)], _Seen([])
    taken = itertools.cycle(all_nodes)
    opened = [(await connect(port, node), node) for node in itertools.islice(taken, at_once)] if kept else []
    begun = time.monotonic()
    end = begun + seconds
    if kept:
        await asyncio.gather(*(_ask_kept(*each, end, seen) for each in opened))
    else:
        await asyncio.gather(*(_ask(port, taken, end, seen) for _ in range(at_once)))
    return {"duration_s": time.monotonic() - begun, "failed": seen.failed, **quantiles(seen.took_s)}


def quantiles(took_s: list[float]) -> dict[str, float | None]:
    """How many there were, and the latency of the middle one and of the one that 99 of 100 are below, in ms."""
    ordered = sorted(took_s)
    p50_ms, p99_ms = (1e3 * ordered[len(ordered) * each // 100] if ordered else None for each in (50, 99))
    return {"count": len(ordered), "p50_ms": p50_ms, "p99_ms": p99_ms}


if __name__ == "__main__":
    _port, _directory, _nodes, _at_once, _seconds, *_kept = sys.argv[1:]
    print(
        json.dumps(
            uvloop.run(
                _run(int(_port), Path(_directory), int(_nodes), int(_at_once), float(_seconds), kept=bool(_kept))
            )
        )
    )
