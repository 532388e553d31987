"""Applications in a cluster, and a virtual machine beside a played one, which joined the cluster's mesh."""

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.e2e.guide import Guide
from tests.support.kubelet.played import PlayedCluster
from tests.support.meshed import MESHD
from tests.support.processes import running
from tests.support.waiting import wait_until

TIER = [sys.executable, "-P", str(Path(__file__).parent / "programs" / "tier.py")]
CA = "meshd-ca.meshd.svc"


def identity(namespace: str, account: str) -> str:
    return f"spiffe://cluster.local/ns/{namespace}/sa/{account}"


def callers(said: Mapping[str, Any]) -> dict[str, set[str]]:
    """Who called whom, in all that was asked for an answer."""
    found: dict[str, set[str]] = {said["name"]: {said["caller"]}}
    for each in said.get("behind", ()):
        for name, by in callers(each).items():
            found.setdefault(name, set()).update(by)
    return found


class Machine:
    """An agent that joined, as the page has it, its proxy, and a database on loopback; until `held` ends."""

    def __init__(self, cluster: PlayedCluster, guide: Guide, held: ExitStack) -> None:
        self._cluster, self._directory = cluster, cluster.directory / "vm"
        (self._directory / "conf.d").mkdir(parents=True)
        more, token, join = guide.commands("Hosts in the same mesh", {"shop/db": "todo/db"})
        cluster.types(more)
        cluster.rolled("meshd", "sts/meshd-ca")
        hosts = self._directory / "hosts"
        hosts.write_text(
            "".join(f"{address} {name}\n" for name, address in cluster.hosts.items() if " " not in address)
            + f"{cluster.hosts[CA]} ca.example\n"
        )
        script = f'mount --bind {hosts} /etc/hosts && exec "$@"'
        self._on = cluster.node.neighbour(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "vm"])
        self._join(token, join)
        self._begin(held)

    def does(self, *argv: str) -> str:
        return self._cluster.node.run(*self._on[2:], *argv, within=self._cluster.node.outside)

    def _join(self, token: str, join: str) -> None:
        _, _, _, _, pod, _, *argv = token.split()  # kubectl -n meshd exec meshd-ca-0 -- meshd …
        made = self._cluster.exec("meshd", pod, "ca", *argv)
        assert made.returncode == 0, made.stderr
        place = self._directory
        _, _, *argv = join.replace("TOKEN", made.stdout.strip()).split()  # vm1# meshd …
        # there is one file system for all of the played cluster
        settings = ("--node", "vm1", "--config", str(place / "meshd.yaml"), "--state-dir", str(place / "state"))
        self.does(*MESHD, *argv, *settings)
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
