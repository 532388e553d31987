"""Applications in a cluster that is played, and a virtual machine beside it that joined the cluster's mesh.

The manifests are in `tests/applications`; what their images are is `tests.support.programs.tier`.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.kubelet.played import PlayedCluster
from tests.support.meshed import MESHD
from tests.support.processes import running
from tests.support.waiting import wait_until

APPLICATIONS = Path(__file__).parents[1] / "applications"
TIER = [sys.executable, "-P", str(Path(__file__).parent / "programs" / "tier.py")]
IMAGES = {
    f"docker.example/{name}": TIER
    for name in ("emoji", "voting", "web", "todo-backend", "todo-frontend", "store", "reader")
}


def identity(namespace: str, account: str) -> str:
    return f"spiffe://cluster.local/ns/{namespace}/sa/{account}"


def callers(said: dict[str, Any]) -> dict[str, set[str]]:
    """Who called whom, in all that was asked for an answer."""
    found: dict[str, set[str]] = {said["name"]: {said["caller"]}}
    for each in said.get("behind", ()):
        for name, by in callers(each).items():
            found.setdefault(name, set()).update(by)
    return found


class Machine:
    """A virtual machine: an agent that joined, its proxy, and the database as a process on loopback."""

    def __init__(self, cluster: PlayedCluster, held: ExitStack) -> None:
        self._cluster, self._directory = cluster, cluster.directory / "vm"
        (self._directory / "conf.d").mkdir(parents=True)
        hosts = self._directory / "hosts"
        hosts.write_text(
            "".join(f"{address} {name}\n" for name, address in cluster.hosts.items() if " " not in address)
        )
        script = f'mount --bind {hosts} /etc/hosts && exec "$@"'
        self._on = cluster.node.neighbour(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "vm"])
        self._join()
        self._begin(held)

    def does(self, *argv: str) -> str:
        return self._cluster.node.run(*self._on[2:], *argv, within=self._cluster.node.outside)

    def _join(self) -> None:
        ca = self._cluster.lives["meshd", "meshd-ca-0"]
        made = ca.run("ca", "meshd", "ca", "token", "create", "--node", "vm1", "--workload", "todo/db")
        assert made.returncode == 0, made.stderr
        place = self._directory
        settings = ("--config", str(place / "meshd.yaml"), "--state-dir", str(place / "state"))
        self.does(
            *MESHD,
            "join",
            "https://meshd-ca.meshd.svc:4180",
            "--node",
            "vm1",
            "--token",
            made.stdout.strip(),
            *settings,
        )
        (place / "conf.d" / "db.yaml").write_text(
            "apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {name: db, namespace: todo}\n"
            "spec: {ports: [{port: 5432, protocol: tcp}]}\n"
        )
        with (place / "meshd.yaml").open("a") as file:
            file.write(
                f"socket: {place}/meshd.sock\nadmin: ''\nnames: {{listen: ''}}\ncapture: {{enabled: false}}\n"
                "workloadApi: {enabled: false}\ndiscovery:\n"
                f"- file: {{path: {place}/conf.d}}\n- kubernetes: {{kubeconfig: {self._cluster.kubeconfig}}}\n"
            )

    def _begin(self, held: ExitStack) -> None:
        place = self._directory
        held.enter_context(running([*self._on, *TIER, "db", "--store", "5432"], place / "db.log", lambda: True))
        agent = [*self._on, *MESHD, "agent", "--config", str(place / "meshd.yaml")]
        held.enter_context(running(agent, place / "agent.log", (place / "meshd.sock").exists))
        proxy = [*self._on, sys.executable, "-P", "-m", "proxy.main", "--control", f"{place}/meshd.sock"]
        held.enter_context(running(proxy, place / "proxy.log", lambda: True))
        ready = ["curl", "-sf", "--max-time", "5", "http://127.0.0.1:4191/ready"]
        node = self._cluster.node
        wait_until(lambda: node.tried(*ready, within=node.outside).returncode == 0, "the machine's proxy is ready", 90)

    def metrics(self) -> str:
        return self.does("curl", "-sf", "http://127.0.0.1:4191/metrics")
