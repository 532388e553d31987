"""Hosts that systemd booted, of the test's own: a Debian root each, on a network that leads nowhere else.

    with machines("vm1", "vm2") as (vm1, vm2):
        vm1.run("apt-get", "install", "-y", "/root/some.deb")

`roots` makes the root that all begin from, once; `network` the namespace and bridge; `machine` boots one and runs
commands on it. Nothing that they do outlives the `with`: what a host writes is in memory, and it ends with its process.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from tests.support.machines.machine import Machine
from tests.support.machines.network import network
from tests.support.machines.roots import base_root

__all__ = ["NEEDS", "Machine", "base_root", "machines"]

NEEDS = ("mmdebstrap", "systemd-nspawn", "ip", "nsenter", "setpriv")
"""Programs, for the mark `peer`; and the test is to be root's."""


@contextmanager
def machines(*names: str, programs: Mapping[str, str] | None = None, suite: str = "") -> Iterator[list[Machine]]:
    """Booted hosts of those names; each knows the others by name, and nobody else. `programs`: files of this machine,
    and where they are on the hosts. `suite` is the release of Debian that they have, this machine's unless told
    otherwise."""
    with ExitStack() as stack:
        net = stack.enter_context(network())
        root = base_root(suite)
        made = [Machine(name, f"10.77.0.{number}", net, root, programs or {}) for number, name in enumerate(names, 1)]
        for machine in made:
            stack.callback(machine.end)
        for machine in made:
            stack.callback(machine.halt)  # all of them before one is waited for
            machine.start()
        addresses = {machine.name: machine.address for machine in made}
        for machine in made:
            machine.booted(addresses)
        yield made
