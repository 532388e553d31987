"""What the tests on booted hosts do alike: the same on all hosts at once, what is on their disks, what was counted."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.machines import Machine
from tests.support.metrics import samples

HERE = Path(__file__).parent


class Said:
    """Lines for who runs the tests, whatever pytest captures."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._capture = request.config.pluginmanager.getplugin("capturemanager")

    def __call__(self, text: str) -> None:
        with self._capture.global_and_fixture_disabled():
            print(f"\n  {text}", end="", flush=True)


def at_once(hosts: Sequence[Machine], *argv: str) -> list[str]:
    """The same on all hosts."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        return list(pool.map(lambda host: host.run(*argv, timeout_s=240), hosts))


def listing(hosts: Sequence[Machine]) -> list[list[str]]:
    """What is on their disks (`listing.py`)."""
    return [said.splitlines() for said in at_once(hosts, "python3", "-B", "/root/listing.py")]


def page(host: Machine) -> dict[str, float]:
    """What the host's proxy counted."""
    return samples(host.run("curl", "-sf", "http://127.0.0.1:4191/metrics"))


def counted(found: dict[str, float], name: str, *labels: str) -> float:
    """The sum of the samples of that name with these labels."""
    return sum(
        value for key, value in found.items() if key.startswith(name + "{") and all(each in key for each in labels)
    )


def main_pid(host: Machine, unit: str) -> int:
    return int(host.run("systemctl", "show", "--property=MainPID", "--value", unit))
