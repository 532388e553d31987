"""The origin of HTTP: nginx, answering every GET with the same bytes.

It shares a core with the load generator on a machine of two, so it has to cost little: the usual answer comes from its
configuration, larger ones (`/sizes/BYTES`) from files that it keeps open. What is sent to `/sink` is read to its end
before it answers.
"""

from collections.abc import Sequence
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

from bench.configure.nginx import http_section, main_section
from bench.contenders import NGINX
from bench.scenario import Origin

USUAL_BYTES = 1024
SINK = "/sink"
SINK_BYTES = 1 << 20
"""The longest request body that it reads without a file."""


def body(size_bytes: int) -> bytes:
    """What it answers: text, the same in every run."""
    line = b"the quick brown fox jumps over the lazy dog, and the mesh saw every hop of it\n"
    return (line * (size_bytes // len(line) + 1))[:size_bytes]


def path(size_bytes: int) -> str:
    """Where it has an answer of that size."""
    return f"/sizes/{size_bytes}"


def origin(sizes: Sequence[int] = ()) -> Origin:
    """One that speaks HTTP/1.1, and has files of those sizes."""

    def configuration(listen: int, direct: int, directory: Path) -> str:
        files = directory / "sizes"
        files.mkdir()
        for size in sizes:
            (files / str(size)).write_bytes(body(size))
        server = f"""\
  sendfile on;
  open_file_cache max=8;
  default_type text/plain;
  client_max_body_size 0;
  upstream itself {{ server 127.0.0.1:{listen}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{listen} backlog=4096;
    listen 127.0.0.1:{direct} backlog=4096;
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

    return Origin(NGINX, configuration, _get)


def _get(port: int) -> bytes:
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/")
        answer = connection.getresponse()
        return b"%d " % answer.status + answer.read()
