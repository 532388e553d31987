"""What a person and a scraper see of a registry that is there, goes away and comes back, of each kind, on a whole host.

Agent, proxy, CA and registry are processes.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.integration.test_discovery_load import WITHIN_S, World
from tests.integration.test_proxy_process import get
from tests.support import meshed
from tests.support.backends import Backend
from tests.support.metrics import samples
from tests.support.ports import free_ports
from tests.support.waiting import wait_until


class Seen:
    """What is seen of the service of a backend, on the host of a world."""

    def __init__(self, world: World, backend: Backend, admin: int) -> None:
        self._world, self._backend, self._admin = world, backend, admin
        (self.source,) = backend.settings

    def _meshd(self, *words: str) -> "subprocess.CompletedProcess[str]":
        argv = [*meshed.MESHD, *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)

    def _asked(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self._meshd(*words, "--socket", str(self._world.host.socket))

    @property
    def service(self) -> dict[str, Any]:
        """What `meshd services` says of it."""
        every = json.loads(self._asked("services", "-o", "json").stdout)["services"]
        found = [each for each in every if each["source"] == self.source and each["name"] == "web"]
        return dict(found[0]) if found else {}

    @property
    def row(self) -> tuple[str, str, str]:
        """Port, health and source in the table of `meshd endpoints`; empty where there is none or several."""
        lines = self._asked("endpoints", self._backend.authority).stdout.splitlines()
        if len(lines) != 2:
            return "", "", ""
        cells = dict(zip(lines[0].split(), lines[1].split(), strict=True))
        return cells["PORT"], cells["HEALTH"], cells["SOURCE"]

    @property
    def noted(self) -> str:
        """What `meshd endpoints` says beside."""
        return self._asked("endpoints", self._backend.authority).stderr

    @property
    def status(self) -> str:
        return self._asked("status").stdout

    def checked(self) -> dict[str, str]:
        """The results of `meshd check` on discovery."""
        done = self._meshd("check", "--config", str(self._world.host.settings), "-o", "json")
        (found,) = [each for each in json.loads(done.stdout)["categories"] if each["categoryName"] == "meshd-discovery"]
        return {each["description"]: each["result"] for each in found["checks"]}

    def metric(self, name: str) -> float:
        """The agent's metric of that name of the source."""
        page = samples(get(self._admin, "/metrics")[1])
        values = [
            value
            for key, value in page.items()
            if key.startswith(f"meshd_agent_discovery_{name}{{") and self._health in key
        ]
        return sum(values)

    @property
    def _health(self) -> str:
        directory = self._backend.settings.get("file", {}).get("path")
        return f"file {directory}" if directory else self.source


def test_a_registry_that_goes_away_and_comes_back_is_seen_everywhere(backend: Backend, tmp_path: Path) -> None:
    port, admin = free_ports(2)
    backend.serve(port)
    world = World(tmp_path, backend)
    settings = world.host.settings.read_text()
    world.host.settings.write_text(settings.replace('admin: ""', f'admin: "127.0.0.1:{admin}"'))
    with world.runs():
        seen = Seen(world, backend, admin)
        wait_until(lambda: seen.row == (str(port), "ready", seen.source), "the endpoint is there", WITHIN_S)
        wait_until(lambda: seen.service.get("watchers") == 1, "the proxy asks for it", WITHIN_S)
        service = seen.service
        assert (service["standing"], service["endpoints"], service["meshed"]) == ("known", 1, 0)
        assert (service["stale_since"], service["trouble"]) == (0.0, "")
        assert service["read_at"] > 1.7e9
        assert set(seen.checked().values()) == {"success"}
        assert "\nstale " not in seen.status
        assert seen.metric("services") == 1
        assert (seen.metric("services_stale"), seen.metric("stale")) == (0, 0)
        updates = seen.metric("updates_total")
        assert updates >= 1
        assert seen.metric("services_oldest_read_timestamp_seconds") > 1.7e9

        backend.goes()
        wait_until(lambda: seen.row == (str(port), "stale", seen.source), "the endpoint is stale", WITHIN_S)
        wait_until(lambda: "NOT OK" in seen.status, "the status says that it is away", WITHIN_S)
        assert re.search(r"\nstale +web\.", seen.status)
        assert f"web: {seen.source} is stale for" in seen.noted.replace(backend.authority, "web")
        assert (seen.service["standing"], seen.service["trouble"] != "") == ("known", True)
        assert seen.service["stale_since"] >= service["read_at"]
        assert "error" in seen.checked().values()
        assert (seen.metric("services_stale"), seen.metric("stale")) == (1, 1)

        backend.returns()
        wait_until(lambda: seen.row == (str(port), "ready", seen.source), "the endpoint is there again", WITHIN_S)
        wait_until(lambda: set(seen.checked().values()) == {"success"}, "all is well again", WITHIN_S)
        assert "\nstale " not in seen.status
        assert seen.metric("services_stale") == 0
