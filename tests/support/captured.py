"""A whole meshed host of the test's own that captures: a CA, the agent with its name server, the proxy as a user who is
never captured, and applications in the slice, each a process, in a network namespace.

    default/web      a caller: whatever the test runs in it
    default/nowhere  a service without endpoints
    default/api      HTTP on 127.0.0.1:9000, opaque bytes on 127.0.0.1:9001: nobody but the mesh reaches it

Everything is started by hand and by its own context, so that a test may do without, and end any of it.
"""

import ctypes
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from meshd.client.sockets import answers
from tests.support.captures import PROXY_USER, Host, host
from tests.support.meshed import MESHD
from tests.support.ports import accepts
from tests.support.processes import running
from tests.support.waiting import wait_until

CLONE_NEWNET = 0x40000000
CA_PORT, OUTBOUND, INBOUND, ADMIN, NAMES = 4180, 4140, 4143, 4191, 4153
HTTP_PORT, OPAQUE_PORT = 9000, 9001

PEER = Path(__file__).parent / "programs" / "captured_peer.py"

WORKLOAD = """
apiVersion: meshd.io/v1
kind: Workload
metadata: {{name: {name}}}
spec: {{ports: [{ports}], selectors: [{{unit: {name}.service}}], capture: {{}}}}
"""

NOWHERE = """
apiVersion: meshd.io/v1
kind: Service
metadata: {name: nowhere}
spec: {port: 9000, endpoints: []}
"""


def _as_proxy(*capabilities: str) -> list[str]:
    """The beginning of a command line of the agent's or the proxy's, whose user is never captured. They may look into
    directories that are root's: an interpreter is in such a one, perhaps."""
    held = ",".join(f"+{each}" for each in ("dac_read_search", *capabilities))
    return ["setpriv", f"--reuid={PROXY_USER}", "--clear-groups", f"--inh-caps={held}", f"--ambient-caps={held}"]


class Captured:
    """See the module. All of it is in `directory`; the test is in the host's namespace meanwhile."""

    def __init__(self, there: Host, directory: Path) -> None:
        self.there, self.directory = there, directory
        self.ca, self.conf = directory / "ca", directory / "conf.d"
        self.settings, self.socket = directory / "etc" / "meshd.yaml", directory / "meshd.sock"
        self.conf.mkdir()
        self.does("ca", "init", "--trust-domain", "prod.example", "--state-dir", self.ca)
        with self.serves():
            token = self.does("ca", "token", "create", "--state-dir", self.ca, "--workload", "*/*").strip()
            where = ("--config", self.settings, "--state-dir", directory / "state")
            self.does("join", f"127.0.0.1:{CA_PORT}", "--node", "vm1", "--token", token, *where)
        self._begun = self.settings.read_text()
        self.set()
        ports = f"{{port: {HTTP_PORT}}}, {{port: {OPAQUE_PORT}, protocol: tcp}}"
        for name, declared in (("web", ""), ("api", ports)):
            (self.conf / f"{name}.yaml").write_text(WORKLOAD.format(name=name, ports=declared))
        (self.conf / "nowhere.yaml").write_text(NOWHERE)

    def set(self, capture: str = "") -> None:
        """Write the settings, with more of `capture`."""
        self.settings.write_text(
            f"{self._begun}socket: {self.socket}\nadmin: ''\ndiscovery: [{{file: {{path: {self.conf}}}}}]\n"
            f"workloadApi: {{enabled: false}}\ncontrol: {{users: [{PROXY_USER}]}}\n"
            f"capture: {{slice: {self.there.slice}, exemptUsers: [{PROXY_USER}]{capture}}}\n"
        )

    # --- what runs

    @contextmanager
    def serves(self) -> Iterator[None]:
        argv = [*MESHD, "ca", "serve", "--state-dir", str(self.ca), "--listen", f"127.0.0.1:{CA_PORT}"]
        with running(argv, self.directory / "ca.log", lambda: accepts(CA_PORT)):
            yield

    @contextmanager
    def agent(self) -> Iterator["subprocess.Popen[bytes]"]:
        """With the one capability that its unit gives it."""
        for each in (self.directory, *(self.directory / "state").rglob("*"), self.directory / "state"):
            shutil.chown(each, PROXY_USER)
        argv = [*_as_proxy("net_admin"), *MESHD, "agent", "--config", str(self.settings)]
        with running(argv, self.directory / "agent.log", lambda: answers(self.socket)) as process:
            yield process

    @contextmanager
    def proxy(self, *options: str, is_ready: bool = True, notify: str = "") -> Iterator["subprocess.Popen[bytes]"]:
        """`notify` is the socket of a service manager."""
        argv = [*_as_proxy(), sys.executable, "-P", "-m", "proxy.main", "--control", str(self.socket), *options]
        environment = {**os.environ, "NOTIFY_SOCKET": notify}
        with running(argv, self.directory / "proxy.log", lambda: True, environment) as process:
            if is_ready:
                wait_until(lambda: self.ready() == "ready", "the proxy is ready")
            yield process

    @contextmanager
    def applications(self) -> Iterator[None]:
        within = self.there.group("api.service")
        argv = [*_in(within), sys.executable, "-P", str(PEER), "serve", str(HTTP_PORT), str(OPAQUE_PORT)]
        with running(argv, self.directory / "api.log", lambda: accepts(HTTP_PORT), cwd=Path("/")):
            yield

    @contextmanager
    def all(self, *options: str, notify: str = "") -> Iterator["subprocess.Popen[bytes]"]:
        """All of it, the proxy with these options; it is the process that is given."""
        with ExitStack() as held:
            for each in (self.serves(), self.applications(), self.agent()):
                held.enter_context(each)
            yield held.enter_context(self.proxy(*options, notify=notify))

    # --- what is to be seen

    def does(self, *arguments: object) -> str:
        """What `meshd` prints that is run with these."""
        done = self.ran(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def ran(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        argv = [*MESHD, *map(str, arguments)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)

    def ready(self) -> str:
        """What the proxy says of it, empty where it does not answer."""
        return self.page("/ready").strip()

    def page(self, path: str) -> str:
        """A page of the proxy's admin port, empty where there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", ADMIN, timeout=60.0)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()

    def as_web(self, *arguments: str, group: str = "web.service") -> str:
        """What a process of the caller's prints."""
        argv = [*_in(self.there.group(group)), sys.executable, "-P", str(PEER), *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False, cwd="/").stdout

    @contextmanager
    def asking(self, *addresses: str) -> Iterator[list[tuple[int, list[str]]]]:
        """Processes of the caller's that ask over and over meanwhile, one for each address: how often, and what went
        wrong, is in the list afterwards."""
        until, counted = self.directory / "enough", list[tuple[int, list[str]]]()
        until.unlink(missing_ok=True)
        within = _in(self.there.group("web.service"))
        begun = [
            subprocess.Popen(
                [*within, sys.executable, "-P", str(PEER), "asks", address, str(HTTP_PORT), str(until)],
                stdout=subprocess.PIPE, text=True, cwd="/",
            )
            for address in addresses
        ]  # fmt: skip
        try:
            yield counted
        finally:
            until.touch()
            counted += [tuple(json.loads(each.communicate(timeout=100)[0])) for each in begun]

    def addresses(self, name: str) -> list[str]:
        """What the name server says of the name, to a process of the caller's."""
        found: list[str] = json.loads(self.as_web("resolve", name, str(NAMES)))
        return found


def _in(group: Path) -> Sequence[str]:
    return ["/bin/sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]


@contextmanager
def captured() -> Iterator[Captured]:
    """One, in a directory that others may look into. Skips the test where there can be none."""
    with tempfile.TemporaryDirectory(prefix="meshd-captured-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with host(directory) as made, _inside(made):
            yield Captured(made, directory)


@contextmanager
def _inside(made: Host) -> Iterator[None]:
    """In its network namespace: this thread, and what it starts."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _enter(f"/proc/{made.inside}/ns/net")
        yield
    finally:
        _enter(f"/proc/self/fd/{before}")
        os.close(before)


def _enter(path: str) -> None:
    with open(path, "rb") as network:
        if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot enter a network namespace")
