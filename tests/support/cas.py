"""CA daemons on one store in a real Consul, made and run as operators do: `meshd ca …`, each with its own directory."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

from meshd.ca.client import CaClient
from tests.support.consul import Consul
from tests.support.meshed import MESHD
from tests.support.ports import accepts, free_ports
from tests.support.processes import running

TRUST_DOMAIN: Final = "prod.example"
UP_WITHIN_S: Final = 60.0


class CaHost:
    """One of them."""

    def __init__(self, directory: Path, settings: str) -> None:
        self.directory = directory
        self.state, self.log, self.config = directory / "ca", directory / "ca.log", directory / "ca.yaml"
        self.port, self.admin = free_ports(2)
        self.process: subprocess.Popen[bytes]
        directory.mkdir()
        self.config.write_text(f"admin: 127.0.0.1:{self.admin}\n{settings}")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def name(self) -> str:
        """By which the others know it."""
        return (self.state / "ca.name").read_text().strip()

    def meshd(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """`meshd ca …` for this one."""
        argv = [*MESHD, "ca", *map(str, arguments), "--state-dir", str(self.state)]
        if arguments[0] not in {"bundle", "sign-intermediate"}:
            argv += ["--config", str(self.config)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)

    def says(self, *arguments: object) -> str:
        done = self.meshd(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def serves(self) -> Iterator[None]:
        argv = [*MESHD, "ca", "serve", "--state-dir", str(self.state), "--config", str(self.config)]
        argv += ["--listen", f"127.0.0.1:{self.port}"]
        with running(argv, self.log, lambda: accepts(self.port), deadline_s=UP_WITHIN_S) as self.process:
            yield

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def client(self, token: str = "", certificate: Path | None = None) -> CaClient:
        return CaClient(self.url, (self.state / "bundle.pem").read_text(), token, certificate)

    def looked_at(self, path: str) -> tuple[int, str]:
        """What its admin port says."""
        connection = HTTPConnection("127.0.0.1", self.admin, timeout=60.0)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


def several(consul: Consul, directory: Path, count: int = 2, *options: str) -> list[CaHost]:
    """That many, made and not running yet: the first has the root, and signs the issuers of the others. `options` are
    of the first one's `init`."""
    settings = f"store: {{consul: {{address: '{consul.url}', prefix: meshd/{directory.name}}}}}\n"
    hosts = [CaHost(directory / f"ca{number}", settings) for number in range(1, count + 1)]
    first, *others = hosts
    first.says("init", "--trust-domain", TRUST_DOMAIN, *options)
    for other in others:
        bundle = other.directory / "bundle.pem"
        bundle.write_text(first.says("bundle"))
        other.says("init", "--trust-domain", TRUST_DOMAIN, "--bundle", bundle)
        (other.state / "issuer.pem").write_text(first.says("sign-intermediate", other.state / "issuer.csr"))
    return hosts
