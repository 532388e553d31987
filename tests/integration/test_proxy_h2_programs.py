"""Programs that speak HTTP/2 by prior knowledge: curl and nghttp2's as callers, nginx as the application."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshd.api.documents import Upstream
from meshd.api.endpoints import Endpoint
from proxy.static import StaticResolver
from tests.support.aio import output, run
from tests.support.certificates import Root, identity
from tests.support.meshes import Node, mesh, running, service
from tests.support.peers import path
from tests.support.ports import accepts, free_port
from tests.support.processes import running as process_running

NGINX = """
daemon off;
master_process off;
pid {directory}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{port} http2;
        location / {{ root {directory}; dav_methods PUT; }}
        location /method {{ return 200 "$request_method $server_protocol"; }}
        location /nothing {{ return 204; }}
    }}
}}
"""

LARGE = bytes(range(256)) * (10 << 12)  # 10 MiB

PATHS = pytest.mark.parametrize("meshed", [False, True], ids=["one proxy", "two proxies"])


@contextmanager
def nginx(directory: Path) -> Iterator[int]:
    """nginx at a port of 127.0.0.1, HTTP/2 alone; it serves what lies in directory."""
    port = free_port()
    configuration = directory / "nginx.conf"
    configuration.write_text(NGINX.format(directory=directory, port=port))
    (directory / "large").write_bytes(LARGE)
    (directory / "small").write_bytes(b"small")
    argv = [path("nginx"), "-p", str(directory), "-c", str(configuration)]
    with process_running(argv, directory / "nginx.log", lambda: accepts(port)):
        yield port


def before_nginx(meshed: bool, directory: Path, calls: Callable[[str], Awaitable[None]]) -> None:
    """Do `calls`, to the URL of an upstream listener that leads to nginx."""

    async def conversation(port: int) -> None:
        if meshed:
            world = mesh(port)
            listen, nodes = world.upstream, [world.api, world.web]
        else:
            listen, root = free_port(), Root()
            upstreams = (Upstream("api", f"127.0.0.1:{listen}"),)
            resolver = StaticResolver(service("api", Endpoint("127.0.0.1", port)))
            nodes = [Node("web", root, root.held(identity("web")), (), upstreams, resolver)]
        async with running(*nodes):
            await calls(f"http://127.0.0.1:{listen}")

    with nginx(directory) as port:
        run(conversation(port))


@PATHS
@pytest.mark.peer("curl", "nginx")
def test_curl_to_nginx(meshed: bool, tmp_path: Path) -> None:
    """One request a connection: curl 7.88 cannot reuse one that began by prior knowledge, to nginx alone either."""

    async def calls(url: str) -> None:
        curl = (path("curl"), "-sS", "--http2-prior-knowledge")
        assert await output(*curl, f"{url}/method") == b"GET HTTP/2.0"
        head = await output(*curl, "-I", f"{url}/large")
        assert head.startswith(b"HTTP/2 200")
        assert b"content-length: %d" % len(LARGE) in head
        assert await output(*curl, f"{url}/large") == LARGE
        await output(*curl, "--fail", "-T", "-", f"{url}/put", stdin=LARGE)
        assert (tmp_path / "put").read_bytes() == LARGE
        told = await output(*curl, "-w", "%{http_version} %{http_code}", f"{url}/nothing")
        assert told == b"2 204"

    before_nginx(meshed, tmp_path, calls)


@PATHS
@pytest.mark.peer("nghttp", "nginx")
def test_nghttp_with_small_windows_padding_continuation_and_no_table(meshed: bool, tmp_path: Path) -> None:
    async def calls(url: str) -> None:
        nghttp = (path("nghttp"), "--no-dep")
        assert await output(*nghttp, "-w", "14", "-W", "15", f"{url}/large") == LARGE
        assert await output(*nghttp, "--padding=255", "--continuation", f"{url}/small") == b"small"
        assert await output(*nghttp, "--header-table-size=0", f"{url}/small", f"{url}/method") == b"smallGET HTTP/2.0"
        upload = tmp_path / "upload"
        upload.write_bytes(LARGE)
        await output(*nghttp, "--padding=100", "-H", ":method: PUT", "-d", str(upload), f"{url}/sent")
        assert (tmp_path / "sent").read_bytes() == LARGE

    before_nginx(meshed, tmp_path, calls)


@PATHS
@pytest.mark.peer("h2load", "nginx")
def test_h2load(meshed: bool, tmp_path: Path) -> None:
    async def calls(url: str) -> None:
        found = await output(path("h2load"), "-n", "3000", "-c", "4", "-m", "100", f"{url}/small")
        assert b"3000 succeeded, 0 failed, 0 errored, 0 timeout" in found
        found = await output(path("h2load"), "-n", "40", "-c", "2", "-m", "10", "-w", "16", "-W", "17", f"{url}/large")
        assert b"40 succeeded, 0 failed, 0 errored, 0 timeout" in found

    before_nginx(meshed, tmp_path, calls)
