"""What bad peers do to the program itself: it stays small, counts them, and serves others meanwhile."""

import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from proxy.admin import MAX_OPEN
from proxy.http2 import frames
from proxy.http2.engine import MAX_QUEUED_BYTES, MAX_STREAMS, OUR_MAX_FRAME_BYTES, STREAM_WINDOW
from proxy.http2.fields import encode
from proxy.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    MAX_WINDOW,
    PING,
    PREFACE,
    SETTINGS,
    Code,
    Setting,
    frame,
    rst_stream,
    window_update,
)  # fmt: skip
from tests.support import peers
from tests.support.ports import free_ports
from tests.support.processes import running
from tests.support.waiting import DEADLINE_S, wait_until

LIMITED = (
    "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2);"
    " os.execv(sys.executable, [sys.executable, '-m', 'proxy.main', *sys.argv[2:]])"
)
FLOOD_BYTES = 48 << 20
ALLOWED_AT_FIRST = 4 << 20
"""Of what is sent on a connection."""
GROWTH_BYTES = 24 << 20
"""What the process may grow by: one connection's 16 MiB, what is copied of it at a time, and what Python keeps."""


class Endpoint:
    """An endpoint: it answers `GET /` with ok and `GET /large` with as much as it is let; of anything else it reads the
    head alone."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self.asked = 0
        self._kept: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._kept.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                head = b""
                while b"\r\n\r\n" not in head:
                    data = connection.recv(1)
                    if not data:
                        return
                    head += data
                self.asked += 1
                if head.startswith(b"GET / "):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                elif head.startswith(b"GET /large "):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + bytes(1 << 20))
                else:
                    return  # and keep it open

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._kept:
            connection.close()


class Proxy:
    """The program before `Endpoint`, with so many descriptors."""

    def __init__(self, directory: Path, descriptors: int) -> None:
        self.endpoint = Endpoint()
        self.upstream, self.admin = free_ports(2)
        self.file = directory / "proxy.yaml"
        self.file.write_text(
            f"trustDomain: mesh.example\nadmin: 127.0.0.1:{self.admin}\n"
            f"workloads: [{{name: web, upstreams: [{{service: api, listen: '127.0.0.1:{self.upstream}'}}]}}]\n"
            "services:\n- name: api\n  port: 80\n  protocol: http1\n"
            f"  endpoints: [{{address: 127.0.0.1, port: {self.endpoint.port}}}]\n"
        )
        self.argv = [sys.executable, "-c", LIMITED, str(descriptors), "--config", str(self.file)]
        self.log = directory / "proxy.log"
        self.pid = 0

    def get(self, port: int, path: str) -> str:
        connection = HTTPConnection("127.0.0.1", port, timeout=60.0)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read().decode()
            assert answer.status == 200, body
            return body

    def ready(self) -> bool:
        with contextlib.suppress(OSError, AssertionError):
            return bool(self.get(self.admin, "/ready"))
        return False

    def counted(self, word: str, direction: str = "") -> float:
        """How often this was done, by the metrics."""
        sample = rf'{direction}[a-z_]*_errors_total{{error="{word}"}} ([0-9.]+)'
        found = re.findall(sample, self.get(self.admin, "/metrics"))
        return sum(float(each) for each in found)

    def peak_bytes(self) -> int:
        """The most memory that was ever resident."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) << 10


@contextlib.contextmanager
def program(directory: Path, descriptors: int = 4096) -> Iterator[Proxy]:
    proxy = Proxy(directory, descriptors)
    try:
        with running(proxy.argv, proxy.log, proxy.ready) as process:
            proxy.pid = process.pid
            assert proxy.get(proxy.upstream, "/") == "ok"
            yield proxy
    finally:
        proxy.endpoint.close()


def request(number: int, *more: tuple[bytes, bytes], ended: bool = True, path: bytes = b"/no") -> bytes:
    fields = [(b":method", b"GET" if ended else b"POST"), (b":scheme", b"http"), (b":authority", b"api"), *more]
    return frames.headers(number, encode([*fields[:3], (b":path", path), *fields[3:]]), ended)


BEGIN = PREFACE + frames.settings({})
NUMBERS = range(1, 2 * MAX_STREAMS, 2)


def endless(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece * max(1, (64 << 10) // len(piece))


def resets() -> Iterator[bytes]:
    for number in range(1, 1 << 20, 2):
        yield request(number) + rst_stream(number, Code.CANCEL)


def bombs() -> Iterator[bytes]:
    """A field of 4,000 bytes goes to the table, and then by one byte each to the list."""
    table = b"\x40\x01x" + b"\x7f\xa1\x1e" + b"y" * 4000
    first = b"\x82\x86\x84" + encode([(b":authority", b"api")])
    for number in range(1, 1 << 20, 2):
        yield frame(HEADERS, END_HEADERS | 1, number, first + table + b"\xbe" * 15_000)


def continuations() -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, request(1)[9:])
    yield from endless(frame(CONTINUATION, 0, 1, b"\x00\x01x\x01y" * 1000))


ATTACKS: dict[str, tuple[str, Callable[[], Iterator[bytes]]]] = {
    "PING": ("ping flood", lambda: endless(frame(PING, 0, 0, bytes(8)))),
    "SETTINGS": ("settings flood", lambda: endless(frames.settings({Setting.INITIAL_WINDOW_SIZE: 1}))),
    "unknown frames": ("frame flood", lambda: endless(frame(77, 0, 0, bytes(9000)))),
    "rapid reset": ("rapid reset", resets),
    "CONTINUATION": ("continuation flood", continuations),
    "HPACK bomb": ("compression", bombs),
    "a window beyond all bounds": ("flow control", lambda: iter([window_update(0, MAX_WINDOW)])),
    "HTTP/1: an endless head": ("head too large", lambda: iter([b"GET / HTTP/1.1\r\nX: ", *[b"x" * 65536] * 99])),
    "HTTP/1: endless trailers": ("malformed", lambda: iter([
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", *[b"x" * 65536] * 99])),
}  # fmt: skip


def flood(port: int, pieces: Iterator[bytes], http2: bool) -> socket.socket:
    """Send until all is sent, the other side ends it, or it takes no more; nothing is read."""
    peer = socket.create_connection(("127.0.0.1", port))
    peer.settimeout(10.0)
    sent = 0
    with contextlib.suppress(OSError):
        if http2:
            peer.sendall(BEGIN)
        for piece in pieces:
            peer.sendall(piece)
            sent += len(piece)
            if sent > FLOOD_BYTES:
                break
    return peer


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_flood_is_counted_and_fills_no_memory(attack: str, tmp_path: Path) -> None:
    word, pieces = ATTACKS[attack]
    http2 = not attack.startswith("HTTP/1")
    with program(tmp_path) as proxy:
        before = proxy.peak_bytes()
        with contextlib.closing(flood(proxy.upstream, pieces(), http2)):
            wait_until(lambda: proxy.counted(word), f"{attack} is counted")
            assert proxy.get(proxy.upstream, "/") == "ok"
        assert proxy.peak_bytes() - before < GROWTH_BYTES


def test_uploads_that_nobody_reads_fill_no_memory(tmp_path: Path) -> None:
    """The peer keeps to what it is allowed, of the streams and the connection, and takes all of that."""
    with program(tmp_path) as proxy:
        before = proxy.peak_bytes()
        peer = socket.create_connection(("127.0.0.1", proxy.upstream))
        with contextlib.closing(peer):
            sent = _all_that_is_allowed(peer)
            assert proxy.get(proxy.upstream, "/") == "ok"
        assert sent > ALLOWED_AT_FIRST
        assert proxy.peak_bytes() - before < 3 * GROWTH_BYTES


def _all_that_is_allowed(peer: socket.socket) -> int:
    """What was sent until, for a second, no more was allowed; longer where that is still what is allowed at first.
    SETTINGS are acknowledged, and not heeded."""
    peer.settimeout(1.0)
    peer.sendall(BEGIN + b"".join(request(number, ended=False) for number in NUMBERS))
    window, windows, sent, rest = ALLOWED_AT_FIRST, dict.fromkeys(NUMBERS, STREAM_WINDOW), 0, b""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        for number in NUMBERS:
            while (size := min(window, windows[number], OUR_MAX_FRAME_BYTES)) > 0:
                peer.sendall(frame(DATA, 0, number, bytes(size)))
                window, sent = window - size, sent + size
                windows[number] -= size
        try:
            data = peer.recv(65536)
        except TimeoutError:
            if sent > ALLOWED_AT_FIRST or time.monotonic() > deadline:
                return sent
            continue
        if not data:
            return sent
        rest += data
        while len(rest) >= 9 and len(rest) >= (end := 9 + int.from_bytes(rest[:3], "big")):
            kind, flags, number = rest[3], rest[4], int.from_bytes(rest[5:9], "big")
            if kind == frames.WINDOW_UPDATE and number == 0:
                window += int.from_bytes(rest[9:13], "big")
            elif kind == frames.WINDOW_UPDATE:
                windows[number] += int.from_bytes(rest[9:13], "big")
            elif kind == SETTINGS and not flags:
                peer.sendall(frames.SETTINGS_ACK)
            rest = rest[end:]


def test_answers_that_nobody_reads_fill_no_memory(tmp_path: Path) -> None:
    with program(tmp_path) as proxy:
        before = proxy.peak_bytes()
        peer = socket.create_connection(("127.0.0.1", proxy.upstream))
        with contextlib.closing(peer):
            peer.sendall(PREFACE + frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}) + window_update(0, 1 << 30))
            peer.sendall(b"".join(request(number, path=b"/large") for number in NUMBERS))
            wait_until(lambda: proxy.endpoint.asked >= MAX_STREAMS, "all are asked for")
            assert proxy.get(proxy.upstream, "/") == "ok"
        assert proxy.peak_bytes() - before < MAX_QUEUED_BYTES + GROWTH_BYTES


def test_the_metrics_are_had_whoever_else_keeps_connections_to_them(tmp_path: Path) -> None:
    with program(tmp_path, descriptors=400) as proxy, contextlib.ExitStack() as stack:
        for _ in range(3 * MAX_OPEN):
            stack.enter_context(socket.create_connection(("127.0.0.1", proxy.admin)))
        assert "request_total" in proxy.get(proxy.admin, "/metrics")
        assert len(list(Path(f"/proc/{proxy.pid}/fd").iterdir())) < 2 * MAX_OPEN
        assert proxy.get(proxy.upstream, "/") == "ok"


@pytest.mark.peer("h2load")
@pytest.mark.parametrize("bits", [14, 16, 20])
def test_downloads_side_by_side_all_come_whatever_their_windows(bits: int, tmp_path: Path) -> None:
    """A hundred at a time, each of more than is let wait for its window; windows of 16 KiB, 64 KiB and 1 MiB."""
    with program(tmp_path) as proxy:
        url = f"http://127.0.0.1:{proxy.upstream}/large"
        argv = [peers.path("h2load"), "-n", "300", "-c", "1", "-m", "100", "-w", str(bits), "-W", "22", url]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
        assert "300 succeeded, 0 failed, 0 errored" in done.stdout
        assert "300 2xx" in done.stdout


def test_as_many_connections_as_may_be_and_then_no_more_for_a_while(tmp_path: Path) -> None:
    """They say nothing, and are kept till the protocol is told; the descriptors never run out."""
    with program(tmp_path, descriptors=100) as proxy, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", proxy.upstream))) for _ in range(150)]
        wait_until(lambda: proxy.ready() and proxy.counted("connection limit", "outbound_tcp"), "the limit is reached")
        assert proxy.get(proxy.admin, "/ready")
        assert len(list(Path(f"/proc/{proxy.pid}/fd").iterdir())) < 100
        waits = socket.create_connection(("127.0.0.1", proxy.upstream))
        with contextlib.closing(waits):
            waits.sendall(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
            for one in idle:
                one.close()
            waits.settimeout(60.0)
            assert waits.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert "connections are accepted again" in proxy.log.read_text()
