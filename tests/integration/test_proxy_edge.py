"""TLS on an upstream's listener, for callers outside the mesh: curl, openssl and nghttp2's programs as such callers."""

import asyncio
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from meshd.api.documents import ListenerTls, Protocol, Upstream
from meshd.api.endpoints import Endpoint
from meshd.api.loading import ConfigurationError
from proxy.metrics import Metrics, State
from proxy.runtime import Proxy
from proxy.sockets import Sockets
from proxy.static import StaticResolver, load
from tests.integration.test_proxy_process import PROXY, application, get, inheriting, ready
from tests.support.aio import output, run
from tests.support.certificates import Root, identity, write
from tests.support.http import Client, origin
from tests.support.meshes import Node, running, service
from tests.support.peers import path
from tests.support.ports import accepts, free_port, free_ports
from tests.support.waiting import eventually, wait_until


class Site:
    """A certificate for `localhost` in files of directory, and the root that callers check it against."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = Root()
        self.ca = directory / "site-ca.pem"
        self.ca.write_text(self.root.bundle_pem)
        self.renew()

    def renew(self, ends_s: float = 3600.0) -> None:
        """Another certificate in the same files, which others cannot read."""
        write(self.root.held(hosts=("localhost",), ends_s=ends_s), self.directory, "site")
        (self.directory / "site.key").chmod(0o600)

    def tls(self, client_ca: Path | None = None) -> ListenerTls:
        files = (str(self.directory / "site.pem"), str(self.directory / "site.key"))
        return ListenerTls(*files, None if client_ca is None else str(client_ca))

    def trusting(self, *alpn: str) -> ssl.SSLContext:
        """What a caller that trusts it begins handshakes with."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


def edge(port: int, tls: ListenerTls, protocol: Protocol = "auto") -> tuple[Node, int]:
    """A proxy whose upstream has TLS and leads to what is at `port`, and that upstream's own port."""
    listen, root = free_port(), Root()
    upstreams = (Upstream("api", f"127.0.0.1:{listen}", protocol, tls),)
    resolver = StaticResolver(service("api", Endpoint("127.0.0.1", port, protocol="http1")))
    return Node("web", root, root.held(identity("web")), (), upstreams, resolver), listen


def before_origin(tls: ListenerTls, calls: Callable[[int, Node], Awaitable[None]], protocol: Protocol = "auto") -> None:
    """Do `calls`, to a listener with TLS that leads to an origin of HTTP/1.1."""

    async def conversation() -> None:
        async with origin() as made:
            node, listen = edge(made.port, tls, protocol)
            async with running(node):
                await calls(listen, node)

    run(conversation())


def page(node: Node) -> str:
    """The metrics of its traffic."""
    return Metrics(node.proxy.stats, lambda: State((), (), True, 0, 0)).page().decode()


@pytest.mark.peer("curl")
def test_curl_speaks_what_was_agreed_on(tmp_path: Path) -> None:
    site = Site(tmp_path)

    async def calls(port: int, node: Node) -> None:
        for flags, version in ((("--http1.1",), b"1.1"), (("--http2",), b"2"), (("--no-alpn",), b"1.1")):
            for tls in (("--tlsv1.2", "--tls-max", "1.2"), ("--tlsv1.3",)):
                curl = (path("curl"), "-sS", "--cacert", str(site.ca), *flags, *tls)
                told = await output(*curl, "-w", " %{http_version}", f"https://localhost:{port}/x")
                assert told == b"ok " + version, flags
        sources = [line for line in page(node).splitlines() if line.startswith("tcp_open_total") and "src" in line]
        assert len(sources) == 1
        assert 'tls="true"' in sources[0]
        assert 'no_tls_reason=""' in sources[0]
        assert sources[0].endswith(" 6.0")

    before_origin(site.tls(), calls)


@pytest.mark.peer("openssl")
@pytest.mark.parametrize(
    ("protocol", "flags", "said"),
    [
        ("auto", ("-alpn", "h2,http/1.1"), "ALPN protocol: h2"),
        ("auto", ("-alpn", "http/1.1,h2"), "ALPN protocol: h2"),
        ("auto", ("-alpn", "http/1.1"), "ALPN protocol: http/1.1"),
        ("auto", ("-alpn", "imap"), "No ALPN negotiated"),
        ("tcp", ("-alpn", "h2"), "No ALPN negotiated"),
        ("auto", ("-tls1_2",), "Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("auto", ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"), "Cipher is ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("auto", ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA384"), "handshake failure"),
        ("auto", ("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"), "alert protocol version"),
        ("auto", ("-tls1_2",), "Secure Renegotiation IS supported"),
    ],
)
def test_what_a_handshake_agrees_on(tmp_path: Path, protocol: Protocol, flags: tuple[str, ...], said: str) -> None:
    site = Site(tmp_path)

    async def calls(port: int, node: Node) -> None:
        client = await asyncio.create_subprocess_exec(
            path("openssl"), "s_client", "-connect", f"localhost:{port}", "-CAfile", str(site.ca), *flags,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        heard, _ = await client.communicate()
        assert said in heard.decode()

    before_origin(site.tls(), calls, protocol)


@pytest.mark.peer("nghttp", "h2load")
def test_many_streams_over_tls(tmp_path: Path) -> None:
    site = Site(tmp_path)

    async def calls(port: int, node: Node) -> None:
        assert await output(path("nghttp"), "--no-verify-peer", f"https://localhost:{port}/") == b"ok"
        found = await output(path("h2load"), "-n", "500", "-c", "2", "-m", "20", f"https://localhost:{port}/")
        assert b"500 succeeded, 0 failed, 0 errored, 0 timeout" in found

    before_origin(site.tls(), calls)


@pytest.mark.peer("curl")
def test_callers_must_show_a_certificate_where_a_client_ca_is_named(tmp_path: Path) -> None:
    site, clients = Site(tmp_path), Root()
    (tmp_path / "clients.pem").write_text(clients.bundle_pem)
    write(clients.held(hosts=("someone",)), tmp_path, "known")
    write(clients.held(hosts=("someone",), ends_s=-1.0), tmp_path, "expired")
    write(Root().held(hosts=("someone",)), tmp_path, "unknown")

    def shown(name: str) -> tuple[str, ...]:
        return "--cert", str(tmp_path / f"{name}.pem"), "--key", str(tmp_path / f"{name}.key")

    async def calls(port: int, node: Node) -> None:
        curl = [path("curl"), "-sS", "--cacert", str(site.ca), f"https://localhost:{port}/"]
        for name in ("", "expired", "unknown"):
            for version in ("1.2", "1.3"):
                refused = await asyncio.create_subprocess_exec(
                    *curl, *(shown(name) if name else ()), "--tls-max", version, stderr=asyncio.subprocess.DEVNULL
                )
                assert await refused.wait() != 0, (name, version)
        assert await output(*curl, *shown("known")) == b"ok"
        assert 'outbound_tcp_errors_total{error="tls handshake"} 6.0' in page(node)

    before_origin(site.tls(tmp_path / "clients.pem"), calls)


def test_without_alpn_the_first_bytes_tell(tmp_path: Path) -> None:
    site = Site(tmp_path)

    async def calls(port: int, node: Node) -> None:
        reader, writer = await asyncio.open_connection("localhost", port, ssl=site.trusting())
        client = Client(reader, writer)
        for _ in range(2):
            assert (await client.ask("GET", "/")).body == b"ok"
        client.close()
        reader, writer = await asyncio.open_connection("localhost", port, ssl=site.trusting())
        writer.write(b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n" + b"x" * 100_000)  # malformed, with more behind it
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()

    before_origin(site.tls(), calls)


def test_one_who_never_ends_the_handshake_is_counted_and_ended(tmp_path: Path) -> None:
    site = Site(tmp_path)

    async def calls(port: int, node: Node) -> None:
        (found,) = node.proxy.edges
        reader, writer = await asyncio.open_connection("localhost", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.read()
        writer.close()
        assert 'error="tls handshake"} 1.0' in page(node)
        _, writer = await asyncio.open_connection("localhost", port)
        await eventually(lambda: found.begun == 2, "it was accepted")
        for second in range(20):
            found.sweep(1e9 + second)
        assert 'error="tls handshake timeout"} 1.0' in page(node)
        writer.close()

    before_origin(site.tls(), calls)


# --- opaque bytes: TLS ends both directions at once


@asynccontextmanager
async def server(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """The port of an application of opaque bytes."""
    made = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield made.sockets[0].getsockname()[1]
    finally:
        made.close()
        await made.wait_closed()


def test_an_application_that_ends_first_ends_the_callers_connection(tmp_path: Path) -> None:
    site = Site(tmp_path)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"*" * 300_000)
        writer.close()

    async def conversation() -> None:
        async with server(serve) as port:
            node, listen = edge(port, site.tls(), "tcp")
            async with running(node):
                reader, writer = await asyncio.open_connection("localhost", listen, ssl=site.trusting())
                assert await reader.read() == b"*" * 300_000
                writer.close()
                await eventually(lambda: all(s.open == 0 for s in node.proxy.stats.tcp_series), "all are closed")
                assert all(set(s.closed) == {""} for s in node.proxy.stats.tcp_series if s.opened)

    run(conversation())


def test_what_a_caller_said_before_it_closed_arrives_whole(tmp_path: Path) -> None:
    """A log shipper says what it has and closes, and an application may be slow to read it."""
    site = Site(tmp_path)
    heard: list[bytes] = []
    slowly = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await slowly.wait()
        heard.append(await reader.read(-1))
        writer.close()

    async def conversation() -> None:
        async with server(serve) as port:
            node, listen = edge(port, site.tls(), "tcp")
            async with running(node):
                _, writer = await asyncio.open_connection("localhost", listen, ssl=site.trusting())
                writer.write(b"*" * (8 << 20))
                writer.close()
                slowly.set()
                await eventually(lambda: heard, "it arrives")
                assert heard == [b"*" * (8 << 20)]
                await eventually(lambda: all(s.open == 0 for s in node.proxy.stats.tcp_series), "all are closed")

    run(conversation())


# --- the files


def presented(port: int, site: Site) -> bytes:
    """The certificate that a new connection meets (DER)."""
    with (
        socket.create_connection(("127.0.0.1", port), 5.0) as plain,
        site.trusting().wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        found = secured.getpeercert(binary_form=True)
        assert found is not None
        return found


class Files:
    """The configuration of one proxy, whose upstream has TLS and leads to `port`."""

    def __init__(self, directory: Path, port: int = 9) -> None:
        self.site = Site(directory)
        self.listen, self.admin = free_ports(2)
        self.file = directory / "proxy.yaml"
        self.log = directory / "proxy.log"
        self.text = (
            f"trustDomain: mesh.example\nadmin: 127.0.0.1:{self.admin}\n"
            "workloads:\n- name: web\n"
            f"  upstreams: [{{service: api, listen: '127.0.0.1:{self.listen}',"
            " tls: {certificate: site.pem, key: site.key}}]\n"
            f"services:\n- name: api\n  port: 80\n  endpoints: [{{address: 127.0.0.1, port: {port}}}]\n"
        )
        self.file.write_text(self.text)

    def said(self, text: str) -> bool:
        return text in self.log.read_text()


def test_renewed_files_are_taken_and_bad_ones_are_not(tmp_path: Path) -> None:
    with application() as port:
        files = Files(tmp_path, port)
        site, listen = files.site, files.listen
        with socket.create_server(("127.0.0.1", listen)) as listener:
            proxy = inheriting(files.file, listener)
            try:
                wait_until(lambda: ready(files.admin), "ready")
                first = presented(listen, site)
                site.renew()
                wait_until(lambda: presented(listen, site) != first, "it is seen that the files changed")
                second = presented(listen, site)
                (tmp_path / "site.key").write_text("no key")
                wait_until(lambda: files.said("not taken"), "it says so")
                assert files.said(f"{tmp_path}/site.key: not a private key (PEM)")
                assert presented(listen, site) == second
                site.renew(7200.0)
                proxy.send_signal(signal.SIGHUP)
                wait_until(lambda: presented(listen, site) != second, "SIGHUP makes it look at once")
                found = get(files.admin, "/metrics")[1]
                label = f'{{listen="127.0.0.1:{listen}"'
                assert f'meshd_listener_cert_refreshes_total{label},result="error"}} 1.0' in found
                (expires,) = [
                    float(line.split()[1])
                    for line in found.splitlines()
                    if line.startswith(f"meshd_listener_cert_expiration_timestamp_seconds{label}")
                ]
                assert abs(expires - time.time() - 7200.0) < 60.0
                assert "Traceback" not in files.log.read_text()
                assert b"PRIVATE" not in files.log.read_bytes()
            finally:
                proxy.terminate()
                assert proxy.wait(60) == 0


def encrypted(key_pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(key_pem, None)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"secret"))


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda d: (d / "site.key").unlink(), "tls.key: {d}/site.key: cannot be read: No such file or directory"),
        (lambda d: (d / "site.pem").unlink(), "tls.certificate: {d}/site.pem: cannot be read: No such file"),
        (lambda d: (d / "site.pem").write_text("no"), "tls.certificate: {d}/site.pem: not a certificate (PEM)"),
        (lambda d: (d / "site.key").write_text("no"), "tls.key: {d}/site.key: not a private key (PEM)"),
        (
            lambda d: (d / "site.pem").write_text(Root().held().certificate.chain_pem),
            "tls.key: {d}/site.key: the key is not that of {d}/site.pem",
        ),
        (
            lambda d: (d / "site.key").write_bytes(encrypted((d / "site.key").read_bytes())),
            "tls.key: {d}/site.key: the key is encrypted",
        ),
        (
            lambda d: (d / "proxy.yaml").write_text(
                (d / "proxy.yaml").read_text().replace("key: site.key}", "key: site.key, clientCa: site.key}")
            ),
            "tls.clientCa: {d}/site.key: no certificates (PEM)",
        ),
    ],
)
def test_bad_files_are_said_with_their_place(tmp_path: Path, break_it: Callable[[Path], object], said: str) -> None:
    files = Files(tmp_path)
    break_it(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        load(files.file)
    assert f"{files.file}: workloads[0].upstreams[0].{said.format(d=tmp_path)}" in str(refused.value)


def test_a_bad_file_ends_the_check_and_the_start(tmp_path: Path) -> None:
    files = Files(tmp_path)
    (tmp_path / "site.key").unlink()
    for flags in (["--check"], []):
        ended = subprocess.run(
            [*PROXY, "--config", str(files.file), *flags], capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 2, ended.stderr
        assert f"{tmp_path}/site.key: cannot be read" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_what_is_only_doubtful_is_warned_of(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.site.renew(ends_s=-1.0)
    (tmp_path / "site.key").chmod(0o644)
    ended = subprocess.run(
        [*PROXY, "--config", str(files.file), "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0
    expired, open_to_all = ended.stderr.splitlines()
    assert f"warning: {tmp_path}/site.pem: expired at " in expired
    assert f"warning: {tmp_path}/site.key: every user of this host can read the key" in open_to_all


def test_a_listener_waits_for_its_files(tmp_path: Path) -> None:
    """As an agent configures it: what is missing keeps that listener closed, and is said."""
    site = Site(tmp_path)
    key = (tmp_path / "site.key").read_bytes()
    (tmp_path / "site.key").unlink()

    async def conversation() -> None:
        async with origin() as made:
            node, listen = edge(made.port, site.tls())
            node.proxy = Proxy(Sockets([]))
            try:
                await node.proxy.apply(node.configuration(), node.resolver)
                await eventually(lambda: "site.key" in "".join(node.proxy.waiting_for()), "it says what it lacks")
                assert not accepts(listen)
                (tmp_path / "site.key").write_bytes(key)
                await eventually(lambda: str(listen) not in "".join(node.proxy.waiting_for()), "it opens")
                reader, writer = await asyncio.open_connection("localhost", listen, ssl=site.trusting())
                assert (await Client(reader, writer).ask("GET", "/")).body == b"ok"
                writer.close()
            finally:
                await node.close()

    run(conversation())
