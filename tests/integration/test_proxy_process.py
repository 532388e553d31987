"""The program itself: `meshd-proxy --config FILE` started, drained, reloaded, killed and started again."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support import peers
from tests.support.certificates import Root, identity, write
from tests.support.ports import accepts, free_ports
from tests.support.processes import running
from tests.support.waiting import wait_until

PROXY = [sys.executable, "-m", "proxy.main"]
TIMES = 5


class Application(BaseHTTPRequestHandler):
    """An application: it says what it was asked, and by whom."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        body = f"{self.path} {self.headers.get('l5d-client-id')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: pytest shows enough."""


@contextlib.contextmanager
def application() -> Iterator[int]:
    """The port of an application."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Application)
    server.socket.listen(128)  # more than the few that it lets wait, for when it is held up
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Files:
    """The configuration of two proxies: web, which calls, and api, which answers for the application at `port`."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.outbound, self.upstream, self.inbound, self.web_admin, self.api_admin = free_ports(5)
        root = Root()
        (directory / "bundle.pem").write_text(root.bundle_pem)
        for name in ("web", "api"):
            write(root.held(identity(name)), directory, name)
        self.web, self.api = directory / "web.yaml", directory / "api.yaml"
        self.write_web()
        self.api.write_text(
            "trustDomain: mesh.example\ntrustBundle: bundle.pem\n"
            f"inbound: 127.0.0.1:{self.inbound}\nadmin: 127.0.0.1:{self.api_admin}\n"
            f"workloads: [{{name: api, certificate: api.pem, key: api.key, ports: [{{port: {port}}}]}}]\n"
        )

    def write_web(self, service: str = "api") -> None:
        self.web.write_text(
            "trustDomain: mesh.example\ntrustBundle: bundle.pem\n"
            f"outbound: 127.0.0.1:{self.outbound}\nadmin: 127.0.0.1:{self.web_admin}\n"
            "workloads:\n- name: web\n  certificate: web.pem\n  key: web.key\n"
            f"  upstreams: [{{service: {service}, listen: '127.0.0.1:{self.upstream}'}}]\n"
            f"services:\n- name: {service}\n  port: 80\n"
            f"  endpoints: [{{address: 127.0.0.1, port: {self.port}, workload: api, inboundPort: {self.inbound}}}]\n"
            "  timeouts: {connect: 60s}\n"  # no second of a machine that does something else makes it one that is away
        )

    def started(
        self, file: Path, admin: int, *flags: str
    ) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        return running([*PROXY, "--config", str(file), *flags], file.with_suffix(".log"), lambda: ready(admin))


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    with application() as port:
        yield Files(tmp_path, port)


def get(port: int, path: str, timeout_s: float = 60.0, host: str = "127.0.0.1") -> tuple[int, str]:
    connection = HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def ready(admin: int) -> bool:
    try:
        return get(admin, "/ready")[0] == 200
    except OSError:
        return False


class Load:
    """Callers, each on a connection that it keeps, in threads. `errors` has what was no answer of 200, with the second
    since the first request at which it was so."""

    def __init__(self, port: int, callers: int) -> None:
        self.statuses: list[int] = []
        self.errors: list[str] = []
        self._began = time.monotonic()
        self._port = port
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]

    def _call(self) -> None:
        connection: HTTPConnection | None = None
        while not self._ending.is_set():
            sent = False
            try:
                if connection is None:
                    connection = HTTPConnection("127.0.0.1", self._port, timeout=60.0)
                    connection.connect()
                sent = True
                connection.request("GET", "/load")
                answer = connection.getresponse()
                body = answer.read()
                self.statuses.append(answer.status)
                if answer.status != 200:
                    self._failed(f"{answer.status}: {answer.headers['l5d-proxy-error']}: {body!r}")
                if answer.will_close:
                    connection.close()
                    connection = None
            except (OSError, HTTPException) as error:
                if sent:
                    self._failed(repr(error))
                if connection is not None:
                    connection.close()
                    connection = None
                self._ending.wait(0.01)
        if connection is not None:
            connection.close()

    def _failed(self, how: str) -> None:
        self.errors.append(f"{how} after {time.monotonic() - self._began:.1f} s")

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int = 50) -> None:
        """Wait for so many more answers."""
        seen = len(self.statuses)
        wait_until(lambda: len(self.statuses) >= seen + count, "traffic")


def test_two_programs_make_a_mesh(files: Files) -> None:
    with files.started(files.api, files.api_admin), files.started(files.web, files.web_admin) as web:
        assert get(files.upstream, "/x") == (200, f"/x {identity('web')}")
        assert get(files.outbound, "http://api/y") == (200, f"/y {identity('web')}")
        assert get(files.web_admin, "/live") == (200, "live\n")
        assert get(files.web_admin, "/nothing")[0] == 404
        page = get(files.web_admin, "/metrics")[1]
        series = [line for line in page.splitlines() if line.startswith("request_total{")]
        assert len(series) == 1
        for label in ('tls="true"', f'server_id="{identity("api")}"', 'dst_service="api"', 'direction="outbound"'):
            assert label in series[0]
        assert series[0].endswith(" 2.0")
        web.terminate()
        assert web.wait(60) == 0


@pytest.mark.parametrize("which", ["web", "api"])
def test_a_drain_under_load_loses_nothing(files: Files, which: str) -> None:
    """The one that drains is replaced, as a supervisor would, and its sockets outlive it. What waits in them waits for
    as long as a caller is content to, which is some seconds of a proxy: where the machine took longer to start the
    program, that is said, and shows nothing. Then once more."""
    for _ in range(TIMES - 1):
        errors = while_one_is_replaced(files, which)
        if which == "web" or not all("no endpoint of the service can be reached" in each for each in errors):
            assert errors == []
        if not errors:
            return
    assert while_one_is_replaced(files, which) == []


def while_one_is_replaced(files: Files, which: str) -> list[str]:
    """What was wrong with the answers meanwhile."""
    with contextlib.ExitStack() as stack:
        listening = {port: stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=512)) for port in
                     (files.upstream, files.inbound)}  # fmt: skip
        keeper = files.upstream if which == "web" else files.inbound
        other = files.inbound if which == "web" else files.upstream
        listening.pop(other).close()
        file, admin = (files.web, files.web_admin) if which == "web" else (files.api, files.api_admin)
        stack.enter_context(
            files.started(files.api, files.api_admin) if which == "web" else files.started(files.web, files.web_admin)
        )
        first = inheriting(file, listening[keeper])
        try:
            wait_until(lambda: ready(admin), "ready")
            with Load(files.upstream, 6) as load:
                load.more()
                first.terminate()
                assert first.wait(60) == 0, file.with_suffix(".log").read_text()
                second = inheriting(file, listening[keeper])
                try:
                    load.more()
                finally:
                    load.end()
                    second.terminate()
                    second.wait(60)
        finally:
            first.kill()
            first.wait()
        return load.errors


def inheriting(file: Path, listener: socket.socket, *flags: str) -> subprocess.Popen[bytes]:
    """The program with a listening socket, by systemd's protocol: descriptor 3, LISTEN_PID its own."""
    script = 'exec 3<&"$1"; export LISTEN_PID=$$ LISTEN_FDS=1; shift; exec "$@"'
    number = listener.fileno()
    with file.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            ["/bin/bash", "-c", script, "sh", str(number), *PROXY, "--config", str(file), *flags],
            pass_fds=[number], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip


def test_inherited_sockets_make_callers_wait_across_a_kill(files: Files) -> None:
    with files.started(files.api, files.api_admin), socket.create_server(("127.0.0.1", files.upstream)) as listener:
        first = inheriting(files.web, listener)
        wait_until(lambda: ready(files.web_admin), "ready")
        assert get(files.upstream, "/one")[0] == 200
        first.send_signal(signal.SIGKILL)
        first.wait()
        answers: list[tuple[int, str]] = []
        waiting = threading.Thread(target=lambda: answers.append(get(files.upstream, "/two")))
        waiting.start()
        second = inheriting(files.web, listener)
        try:
            waiting.join(60.0)
            assert [status for status, _ in answers] == [200]
        finally:
            second.terminate()
            assert second.wait(60) == 0


def test_sighup_takes_the_file_anew_and_a_bad_one_leaves_what_was(files: Files) -> None:
    with files.started(files.api, files.api_admin), files.started(files.web, files.web_admin) as web:
        log = files.web.with_suffix(".log")
        good = files.web.read_text()
        for bad in ("]", good + "unknown: 1\n", good.replace("web.key", "api.key"), good.replace("web.pem", "no.pem")):
            before = log.read_text().count("not reloaded")
            # Other addresses too, so that half of a bad file taken would show.
            files.web.write_text(bad.replace(str(files.upstream), "1").replace(str(files.outbound), "2"))
            web.send_signal(signal.SIGHUP)
            wait_until(lambda: log.read_text().count("not reloaded") > before, "it says so")  # noqa: B023 - waited for here
            assert get(files.upstream, "/still")[0] == 200
            assert get(files.outbound, "http://api/still")[0] == 200
        files.write_web("other")
        web.send_signal(signal.SIGHUP)
        wait_until(lambda: "was read again" in log.read_text(), "it is in force")
        wait_until(lambda: get(files.outbound, "http://other/")[0] == 200, "the new service is there")
        assert "Traceback" not in log.read_text()


def test_a_drain_ends_at_its_deadline_and_a_second_signal_ends_it_at_once(files: Files) -> None:
    for flags, signals in ((("--drain-timeout", "0.5"), 1), (("--drain-timeout", "120"), 2)):
        with (
            files.started(files.api, files.api_admin),
            files.started(files.web, files.web_admin, *flags) as web,
            socket.create_connection(("127.0.0.1", files.upstream)) as stuck,
        ):
            stuck.sendall(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 10\r\n\r\nhalf")
            wait_until(lambda: "request_total{" in get(files.web_admin, "/metrics")[1], "it is under way")
            web.terminate()
            if signals == 2:
                wait_until(lambda: not accepts(files.upstream), "it drains")
                web.terminate()
            assert web.wait(100) == 0


def test_sighup_does_not_end_a_proxy_that_an_agent_configures(tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = [*PROXY, "--control", str(tmp_path / "no-agent.sock")]
    with running(argv, log, lambda: "no agent answers" in log.read_text()) as proxy:
        proxy.send_signal(signal.SIGHUP)
        wait_until(lambda: "SIGHUP" in log.read_text(), "it says what it made of it")
        assert proxy.poll() is None


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda text: text + "colour: red\n", "web.yaml: unknown field `colour`"),
        (lambda text: text.replace("trustDomain: mesh.example", "trustDomain: Mesh"), "'Mesh' is not a trust domain"),
        (lambda text: text.replace("port: 80\n", "port: eighty\n"), "services[0].port: expected `int`, got `str`"),
        (lambda text: text.replace("web.pem", "gone.pem"), "workloads[0].certificate: "),
        (lambda text: text.replace("web.pem", "web.key"), "workloads[0].certificate: not a certificate (PEM)"),
        (lambda text: text.replace("web.key", "api.key"), "do not fit"),
        (lambda text: text.replace("bundle.pem", "web.key"), "trustBundle: "),
        (lambda text: "[" + text, "web.yaml: line"),
    ],
)
def test_a_bad_file_ends_the_start_with_a_line_that_says_where(
    files: Files, change: Callable[[str], str], found: str
) -> None:
    files.web.write_text(change(files.web.read_text()))
    ended = subprocess.run(
        [*PROXY, "--config", str(files.web)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert found in ended.stderr
    assert "Traceback" not in ended.stderr
    assert str(files.web) in ended.stderr


def test_a_taken_port_ends_the_start(files: Files) -> None:
    with socket.create_server(("127.0.0.1", files.upstream)):
        ended = subprocess.run(
            [*PROXY, "--config", str(files.web)], capture_output=True, text=True, timeout=60, check=False
        )
    assert ended.returncode == 1
    assert f"{files.web}: cannot listen at 127.0.0.1:{files.upstream}: Address already in use" in ended.stderr


# --- ring 4

NGINX = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;
events {{ }}
http {{
  access_log off; client_body_temp_path {directory}; client_max_body_size 64m;
  proxy_temp_path {directory}; fastcgi_temp_path {directory}; uwsgi_temp_path {directory}; scgi_temp_path {directory};
  server {{
    listen 127.0.0.1:{port};
    location / {{ return 200 "$request_method $uri $http_l5d_client_id\\n"; }}
    location /small {{ client_max_body_size 1k; root {directory}; }}
    location /file {{ root {directory}; }}
  }}
}}
"""


@pytest.mark.peer("nginx", "curl")
def test_curl_reaches_nginx_through_the_mesh(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    files = Files(tmp_path, port)
    (tmp_path / "nginx.conf").write_text(NGINX.format(directory=tmp_path, port=port))
    (tmp_path / "file").write_bytes(os.urandom(5 << 20))
    (tmp_path / "upload").write_bytes(b"x" * (3 << 20))
    nginx = [peers.path("nginx"), "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)]

    def curl(*arguments: str) -> str:
        done = subprocess.run(
            [peers.path("curl"), "-sS", "--max-time", "20", *arguments], capture_output=True, text=True, check=False,
            env={name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        )  # fmt: skip
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    with (
        running(nginx, tmp_path / "nginx.log", lambda: accepts(port)),
        files.started(files.api, files.api_admin),
        files.started(files.web, files.web_admin),
    ):
        through, upstream = ("-x", f"http://127.0.0.1:{files.outbound}"), f"http://127.0.0.1:{files.upstream}"
        said = f" {identity('web')}\n"
        assert curl(*through, "http://api/a") == "GET /a" + said
        assert curl(f"{upstream}/b") == "GET /b" + said
        assert curl("--http1.0", f"{upstream}/c") == "GET /c" + said
        assert curl(*through, "-p", "http://api:80/e") == "GET /e" + said, "a tunnel hides nobody"
        assert curl(f"{upstream}/f", f"{upstream}/g") == "GET /f" + said + "GET /g" + said
        assert "200 OK" in curl("-I", f"{upstream}/h")
        assert curl("-H", "l5d-client-id: spoofed", f"{upstream}/i") == "GET /i" + said
        curl("-o", str(tmp_path / "copy"), f"{upstream}/file")
        assert (tmp_path / "copy").read_bytes() == (tmp_path / "file").read_bytes()
        upload = str(tmp_path / "upload")
        for extra in ((), ("-H", "Transfer-Encoding: chunked"), ("-H", "Expect: 100-continue"), ("-H", "Expect:")):
            assert curl(*extra, "-T", upload, f"{upstream}/up") == "PUT /up" + said
            code = curl(*extra, "-T", upload, "-o", "/dev/null", "-w", "%{http_code}", f"{upstream}/small")
            assert code == ("405" if "chunked" in "".join(extra) else "413"), "an early answer is heard"
        page = get(files.web_admin, "/metrics")[1]
        assert 'tls="true"' in page
        assert 'status_code="413"' in page
