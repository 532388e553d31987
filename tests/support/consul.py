"""Real Consul agents on loopback, each with ports of its own and nothing in it: for tests of what uses it.

    with agent() as consul: …                     one that is server and client (`consul agent -dev`): starts in seconds
    with cluster() as servers: …                  three that elect a leader
    with joined("dc1", "dc2") as (here, there): … two datacenters
    with lasting() as consul: …                   one that keeps what it knows on disk

They are ended by their ids whatever the test does. What an agent of `-dev` knows is gone when it stops, and its indexes
begin anew.
"""

import json
import shutil
import signal
import ssl
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

from tests.support.certificates import Root, write
from tests.support.peers import path
from tests.support.ports import free_ports
from tests.support.processes import running
from tests.support.waiting import wait_until

READY_WITHIN_S = 60.0
_PORTS = ("http", "https", "dns", "grpc", "serf_lan", "serf_wan", "server")

Status = Literal["passing", "warning", "critical"]


class Refused(AssertionError):
    """Consul answered, and not with success."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status = status


class Consul:
    """One agent: started, stopped, killed and started again, and asked. `ports` are the names of Consul's setting."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        address: str = "127.0.0.1",
        dev: bool = True,
        tls: Root | None = None,
        http: int = 0,
    ) -> None:
        self.address = address
        self.ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self.ports["http"] = http or self.ports["http"]
        self.token = ""
        self.home = Path(tempfile.mkdtemp(prefix="meshd-test-consul-"))
        self._dev, self._tls = dev, tls
        self._process = ExitStack()
        self._running: subprocess.Popen[bytes] | None = None
        ports = {**self.ports, **({"http": -1} if tls else {"https": -1})}
        addresses = {"bind_addr": address, "client_addr": address}
        self._settings: dict[str, Any] = {"ports": ports, **addresses, "log_level": "warn"}
        if tls is not None:
            self._settings |= self._tls_settings(tls)
        self.configure(settings)

    @property
    def port(self) -> int:
        """Where its HTTP API is, or HTTPS."""
        return self.ports["http" if self._tls is None else "https"]

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}" if self._tls is None else f"https://localhost:{self.port}"

    def start(self) -> None:
        """Have it run, and answer. What it does beyond that, `wait_until_led` waits for."""
        argv = [path("consul"), "agent", f"-config-file={self.home / 'agent.json'}"]
        if self._dev:
            argv.append("-dev")
        else:
            argv += ["-server", f"-data-dir={self.home / 'data'}"]
        self._running = self._process.enter_context(
            running(argv, self.home / "log", self._answers, cwd=self.home, deadline_s=READY_WITHIN_S)
        )

    def stop(self) -> None:
        """End it as an operator does."""
        self._process.close()

    def kill(self) -> None:
        """End it as a crash does."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()
        self.stop()

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """It hears and says nothing, as on the other side of a partition; its connections stay."""
        assert self._running is not None
        self._running.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._running.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop it, and remove what it wrote."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.home)

    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")

    def configure(self, settings: Mapping[str, Any]) -> None:
        """More of Consul's own settings, from when it starts next."""
        self._settings |= settings
        (self.home / "agent.json").write_text(json.dumps(self._settings))

    # --- asking it

    def call(self, method: str, where: str, body: Any = None, **query: Any) -> Any:
        """What /v1/`where` answers, out of JSON. Refused when that is no success, OSError when nobody answers. While
        servers that were held up elect a leader, it is asked again."""
        answer = wait_until(lambda: self._told(method, where, body, query), f"{where}: a leader", READY_WITHIN_S)
        assert answer is not None
        return answer[0]

    def led(self) -> bool:
        """Whether it knows a leader, and that leader has taken up its work."""
        try:
            answers = (self._told("GET", where, None, {}) for where in ("status/leader", "catalog/nodes"))
            return all(answer and answer[0] for answer in answers)
        except (Refused, OSError, HTTPException):
            return False

    def wait_until_led(self) -> None:
        wait_until(self.led, f"{self.url} has a leader", READY_WITHIN_S)

    # --- what tests put there

    def register(
        self,
        name: str,
        port: int,
        address: str = "",
        service_id: str = "",
        status: Status = "passing",
        **more: Any,
    ) -> str:
        """Register a service with this agent, in that state of health (`check` changes it), and wait until the
        catalogue has it. The id."""
        service_id = service_id or f"{name}-{address}-{port}"
        body = {"ID": service_id, "Name": name, "Port": port, "Address": address, **more}
        self.call("PUT", "agent/service/register", {**body, "Check": {"TTL": "2h", "Status": status}})
        wait_until(lambda: self._listed(name, service_id) == status, f"{service_id} is {status}", READY_WITHIN_S)
        return service_id

    def check(self, service_id: str, status: Status) -> None:
        """Say how a service that `register` registered is."""
        self.call("PUT", f"agent/check/update/service:{service_id}", {"Status": status})

    def deregister(self, service_id: str) -> None:
        self.call("PUT", f"agent/service/deregister/{service_id}")

    def elsewhere(
        self, node: str, node_address: str, name: str, port: int, status: Status = "passing", **more: Any
    ) -> None:
        """Register a service of another node in the catalogue. `more`: NodeMeta, and fields of Service."""
        meta = more.pop("NodeMeta", {})
        service_id = f"{name}-{port}"
        self.call(
            "PUT",
            "catalog/register",
            {
                "Node": node,
                "Address": node_address,
                "NodeMeta": meta,
                "Service": {"ID": service_id, "Service": name, "Port": port, **more},
                "Check": {"CheckID": f"service:{service_id}", "Name": "up", "ServiceID": service_id, "Status": status},
            },
        )

    def snapshot(self) -> bytes:
        """All that it knows, for `restore`."""
        status, said = self._bytes("GET", "snapshot", None, {})
        assert status == 200, said
        return said

    def restore(self, snapshot: bytes) -> None:
        """Have it know what it knew."""
        status, said = self._bytes("PUT", "snapshot", snapshot, {})
        assert status == 200, said
        self.wait_until_led()

    def gone(self, node: str, service_id: str) -> None:
        """Take back what `elsewhere` registered."""
        self.call("PUT", "catalog/deregister", {"Node": node, "ServiceID": service_id})

    def _listed(self, name: str, service_id: str) -> str:
        """The worst of what the catalogue says of a service's own checks; empty where it is not listed."""
        for entry in self.call("GET", f"health/service/{name}"):
            if entry["Service"]["ID"] == service_id:
                return next((str(each["Status"]) for each in entry["Checks"] if each["ServiceID"]), "passing")
        return ""

    # --- inside

    def _told(self, method: str, where: str, body: Any, query: Mapping[str, Any]) -> tuple[Any] | None:
        """See `call`; None when there is no leader."""
        status, said = self._exchange(method, where, body, query)
        if status == 500 and "No cluster leader" in said:
            return None
        if status != 200:
            raise Refused(status, said)
        return (json.loads(said) if said else None,)

    def _exchange(self, method: str, where: str, body: Any, query: Mapping[str, Any]) -> tuple[int, str]:
        said = json.dumps(body).encode() if body is not None else None
        status, answer = self._bytes(method, where, said, query)
        return status, answer.decode()

    def _bytes(self, method: str, where: str, said: bytes | None, query: Mapping[str, Any]) -> tuple[int, bytes]:
        connection: HTTPConnection
        if self._tls is None:
            connection = HTTPConnection(self.address, self.port, timeout=60.0)
        else:
            context = ssl.create_default_context(cadata=self._tls.bundle_pem)
            context.load_cert_chain(self.home / "consul.pem", self.home / "consul.key")
            connection = HTTPSConnection("localhost", self.port, timeout=60.0, context=context)
        try:
            headers = {"X-Consul-Token": self.token} if self.token else {}
            connection.request(method, f"/v1/{where}?{urlencode(query)}", said, headers)
            response: HTTPResponse = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _answers(self) -> bool:
        try:
            return self._exchange("GET", "agent/self", None, {})[0] in {200, 403}
        except (OSError, HTTPException):
            return False

    def _tls_settings(self, root: Root) -> dict[str, Any]:
        write(root.held(hosts=("localhost",)), self.home, "consul")
        (self.home / "root.pem").write_text(root.bundle_pem)
        return {
            "ca_file": str(self.home / "root.pem"),
            "cert_file": str(self.home / "consul.pem"),
            "key_file": str(self.home / "consul.key"),
            "verify_incoming_https": True,
        }


@contextmanager
def agent(datacenter: str = "dc1", node: str = "here", tls: Root | None = None, **settings: Any) -> Iterator[Consul]:
    """An agent that is server and client in one. With tls, its API is HTTPS for clients with a
    certificate of that root."""
    with _closed(Consul({"datacenter": datacenter, "node_name": node, **settings}, tls=tls)) as consul:
        consul.start()
        consul.wait_until_led()
        yield consul


@contextmanager
def with_acl() -> Iterator[Consul]:
    """An agent that refuses everything to those without a token; the one in `token` may do everything."""
    token = str(uuid.uuid4())
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": token, "agent": token}}
    with _closed(Consul({"datacenter": "dc1", "node_name": "here", "acl": acl})) as consul:
        consul.token = token
        consul.start()
        consul.wait_until_led()
        yield consul


def token_for(consul: Consul, rules: str) -> str:
    """A token of an agent `with_acl`, that may do what rules (HCL) say and no more."""
    name = f"p{uuid.uuid4().hex}"
    consul.call("PUT", "acl/policy", {"Name": name, "Rules": rules})
    return str(consul.call("PUT", "acl/token", {"Policies": [{"Name": name}]})["SecretID"])


@contextmanager
def cluster(size: int = 3) -> Iterator[list[Consul]]:
    """Servers that keep what they know on disk and elect a leader among them, each on an address of its own."""
    with ExitStack() as stack:
        servers: list[Consul] = []
        for number in range(size):
            settings: dict[str, Any] = {
                "datacenter": "dc1", "node_name": f"server-{number}", "bootstrap_expect": size,
                "performance": {"raft_multiplier": 1}, "leave_on_terminate": False, "skip_leave_on_interrupt": True,
                "gossip_lan": {"probe_interval": "200ms", "probe_timeout": "100ms", "suspicion_mult": 2},
                "autopilot": {"cleanup_dead_servers": False},  # a killed one comes back: it stays of the cluster
            }  # fmt: skip
            servers.append(stack.enter_context(_closed(Consul(settings, f"127.0.0.{2 + number}", dev=False))))
        for server in servers:
            # Each knows all others: one that was killed soon after these had been away remembers none of them.
            others = [f"{each.address}:{each.ports['serf_lan']}" for each in servers if each is not server]
            server.configure({"retry_join": others, "retry_interval": "1s"})
            server.start()
        for server in servers:
            server.wait_until_led()
        yield servers


@contextmanager
def lasting() -> Iterator[Consul]:
    """A server by itself, which knows after a restart what it knew."""
    settings = {"datacenter": "dc1", "node_name": "here", "bootstrap_expect": 1, "performance": {"raft_multiplier": 1}}
    with _closed(Consul(settings, dev=False)) as consul:
        consul.start()
        consul.wait_until_led()
        yield consul


@contextmanager
def joined(*datacenters: str) -> Iterator[Sequence[Consul]]:
    """An agent in each datacenter, which know of each other."""
    with ExitStack() as stack:
        agents: list[Consul] = []
        for datacenter in datacenters:
            wan = [f"{each.address}:{each.ports['serf_wan']}" for each in agents]
            agents.append(stack.enter_context(agent(datacenter, f"node-{datacenter}", retry_join_wan=wan)))
        for each in agents:
            wait_until(_knows(each, set(datacenters)), f"{each.url} knows all datacenters", READY_WITHIN_S)
        yield agents


def _knows(consul: Consul, datacenters: set[str]) -> Callable[[], bool]:
    return lambda: set(consul.call("GET", "catalog/datacenters")) == datacenters


@contextmanager
def _closed(consul: Consul) -> Iterator[Consul]:
    try:
        yield consul
    finally:
        consul.close()
