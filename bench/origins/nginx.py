"""The origin of HTTP: nginx, answering every GET with the same bytes.

It shares a core with the load generator on a machine of two, so it has to cost little: the usual answer comes from its
configuration, zeros of other sizes (`/sizes/BYTES`) from files that it keeps open. What is sent to `/sink` is read to
its end before it answers.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from bench.configure.nginx import http_section, main_section
from bench.contenders import NGINX
from bench.scenario import Origin
from meshd.api.problems import Problem
from tests.support import peers

Speaks = Literal["http1", "http1-tls", "h2-tls"]

USUAL_BYTES = 1024
SINK = "/sink"
SINK_BYTES = 1 << 20
"""The longest request body that it reads without a file."""


def body(size_bytes: int) -> bytes:
    """What it usually answers: text, the same in every run."""
    line = b"the quick brown fox jumps over the lazy dog, and the mesh saw every hop of it\n"
    return (line * (size_bytes // len(line) + 1))[:size_bytes]


def path(size_bytes: int) -> str:
    """Where it has an answer of that size."""
    return f"/sizes/{size_bytes}"


def origin(sizes: Sequence[int] = (), *, load: Speaks = "http1", h2c: bool = False) -> Origin:
    """One that has files of those sizes. Proxies speak HTTP/1.1 to it, or with `h2c` HTTP/2 by prior knowledge; what
    the load speaks, it speaks at the port where it is asked directly."""

    def configuration(listen: int, direct: int, directory: Path) -> str:
        files = directory / "sizes"
        files.mkdir()
        for size in sizes:
            with (files / str(size)).open("wb") as file:
                file.truncate(size)
        server = f"""\
  sendfile on;
  open_file_cache max=8;
  default_type text/plain;
  client_max_body_size 0;
  upstream itself {{ server 127.0.0.1:{listen}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{listen} backlog=4096{" http2" if h2c else ""};
    listen 127.0.0.1:{direct} backlog=4096{_LISTEN[load]};
    ssl_certificate {directory}/api.pem;
    ssl_certificate_key {directory}/api.key;
    http2_max_concurrent_streams 1024;
    location / {{ return 200 "{body(USUAL_BYTES).decode()}"; }}
    location /sizes/ {{ root {directory}; }}
    location {SINK} {{
      client_body_buffer_size {SINK_BYTES};
      proxy_pass http://itself/;
      proxy_http_version 1.1;
      proxy_method GET;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header Connection "";
    }}
  }}"""
        return main_section() + http_section(server)

    version = b"HTTP/2 200" if load == "h2-tls" else b"HTTP/1.1 200"
    return Origin(NGINX, configuration, lambda port: _get(port, load), body(USUAL_BYTES) + version)


_LISTEN: dict[Speaks, str] = {"http1": "", "http1-tls": " ssl", "h2-tls": " ssl http2"}
_CURL: dict[Speaks, tuple[str, str]] = {
    "http1": ("--http1.1", "http"),
    "http1-tls": ("--http1.1", "https"),
    "h2-tls": ("--http2", "https"),
}


def _get(port: int, load: Speaks) -> bytes:
    """The answer, the version of HTTP that it came by, and its status, as curl has them."""
    version, scheme = _CURL[load]
    if (curl := peers.find("curl")) is None:
        raise Problem("answers are checked with curl: apt-get install curl")
    argv = (curl, "--silent", "--show-error", "--max-time", "10", "--noproxy", "*", "--insecure", version)
    written = ("--write-out", "HTTP/%{http_version} %{http_code}")
    return subprocess.run((*argv, *written, f"{scheme}://127.0.0.1:{port}/"), capture_output=True, check=False).stdout
