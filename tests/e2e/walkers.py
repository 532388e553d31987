"""What runs on the hosts of the walk beside meshd: Consul, services, callers; and how the callers' calls went."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from tests.e2e.steps import Said
from tests.support.machines import Machine
from tests.support.waiting import wait_until

# A server that is cut off stays in the catalogue, so that it is back as soon as the others hear of it: one that the
# leader has removed says what runs there anew when it next compares, which takes Consul up to two minutes more.
CONSUL: Final = """\
[Unit]
Description=Consul
[Service]
ExecStart=/usr/bin/consul agent -server -bootstrap-expect=3 -node=%H -data-dir=/run/consul -bind={address} {join} \
-retry-interval=1s -log-level=warn -hcl 'performance {{ raft_multiplier = 2 }}' \
-hcl 'autopilot {{ cleanup_dead_servers = false }}'
RuntimeDirectory=consul
Restart=always
[Install]
WantedBy=multi-user.target
"""

# As patient with the name server as with all else: what is lost is not to be lost by it.
CALLER: Final = """\
[Unit]
Description=a service that calls others by their names
[Service]
ExecStart=/usr/bin/python3 -B /opt/caller.py {port} {calls}
Environment=RES_OPTIONS=timeout:30
DynamicUser=yes
[Install]
WantedBy=multi-user.target
"""

GREETER: Final = """\
[Unit]
Description=a gRPC service
[Service]
ExecStart=/usr/bin/python3 -B /opt/greeter.py 50051
DynamicUser=yes
[Install]
WantedBy=multi-user.target
"""

API: Final = """\
[Unit]
Description=an HTTP service in Python
[Service]
ExecStart=/usr/bin/python3 -m http.server 8080 --bind 127.0.0.1 --directory /usr/share/doc/python3
DynamicUser=yes
[Install]
WantedBy=multi-user.target
"""


def has_consul(hosts: list[Machine]) -> None:
    """A server on each, which find each other."""
    join = " ".join(f"-retry-join={host.address}" for host in hosts)
    for host in hosts:
        host.write("/etc/systemd/system/consul.service", CONSUL.format(address=host.address, join=join))


def has_leader(host: Machine) -> bool:
    """Whether the Consul there knows one."""
    return len(host.runs("curl", "-s", "http://127.0.0.1:8500/v1/status/leader").stdout.strip('" \n')) > 0


class Calls:
    """The calls of one unit of `caller.py`."""

    def __init__(self, host: Machine, unit: str, port: int) -> None:
        self.host, self.unit, self.port = host, unit, port
        self.longest_s = 0.0
        """Of the calls since this was set."""

    def __str__(self) -> str:
        return f"{self.unit} on {self.host.name}"

    def now(self) -> dict[str, dict[str, Any]]:
        """How they went until now, by what is called; nothing while the unit does not say."""
        said = self.host.runs("curl", "-s", f"http://127.0.0.1:{self.port}/").stdout
        found: dict[str, dict[str, Any]] = json.loads(said) if said else {}
        self.longest_s = max([self.longest_s, *(how["longest"] for how in found.values())])
        return found

    def good(self, called: str) -> int:
        """How many of those were answered well."""
        return int(self.now().get(called, {"good": 0})["good"])


class Step:
    """What was called while something was done: `failed` has what was wrong, by who called what."""

    def __init__(self) -> None:
        self.good = 0
        self.longest_s = 0.0
        self.failed: dict[str, list[str]] = {}

    @property
    def lost(self) -> int:
        return sum(map(len, self.failed.values()))


@contextmanager
def step(what: str, callers: Mapping[Calls, tuple[str, ...]], say: Said) -> Iterator[Step]:
    """While it is open something is done under the calls of `callers`: it opens when those that each has to have
    answered are, and closes when they are once more."""
    answered(callers)
    before = {caller: caller.now() for caller in callers}
    for caller in callers:
        caller.longest_s = 0.0
    found = Step()
    yield found
    answered(callers)
    for caller, was in before.items():
        for called, how in caller.now().items():
            found.good += how["good"] - was[called]["good"]
            if failed := how["failed"][len(was[called]["failed"]) :]:
                found.failed[f"{caller}: {called}"] = failed
        found.longest_s = max(found.longest_s, caller.longest_s)
    say(f"{what}: {found.lost} of {found.good + found.lost} calls failed, {found.longest_s:.1f} s the longest")


def answered(callers: Mapping[Calls, tuple[str, ...]], times: int = 5) -> None:
    """Go on when all that these call was answered some times more."""
    before = {caller: caller.now() for caller in callers}

    def all_again() -> bool:
        now = {caller: caller.now() for caller in callers}
        return all(
            now[caller].get(called, {"good": 0})["good"] >= was.get(called, {"good": 0})["good"] + times
            for caller, was in before.items()
            for called in callers[caller]
        )

    wait_until(all_again, f"calls of {', '.join(map(str, callers))} are answered", 120)
