"""The network of a played node: a namespace with a bridge, which is the node's side, and one for each pod, as a CNI
plug-in makes them: an interface eth0, loopback, addresses of IPv4 and IPv6, a default route by way of the node."""

import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support.machines.network import BRIDGE, ip, network

NODE, NODE6 = "10.244.0.1", "fd00:244::1"
"""Where pods see the node, and the kubelet's probes come from."""
OUTSIDE, NODE_OUTSIDE = "10.99.0.2", "10.99.0.1"
"""A machine that is no part of the cluster, and where it sees the node."""
OUTSIDE6, NODE_OUTSIDE6 = "fd00:99::2", "fd00:99::1"

_CLONE_NEWNET: Final = 0x40000000


class Network:
    """One pod's: the namespace's file, the command that enters it, and its addresses. The first is of IPv6, too, where
    the node has no other."""

    def __init__(self, file: Path, address: str, address6: str) -> None:
        self.file, self.address, self.address6 = file, address, address6

    @property
    def enter(self) -> tuple[str, ...]:
        return ("nsenter", f"--net={self.file}")


class Node:
    """See the module; it is made by `node`. `ipv4`: whether there is any address of IPv4 but loopback's."""

    def __init__(self, file: Path, outside: Path, held: ExitStack, *, ipv4: bool) -> None:
        self.file, self.outside, self.ipv4 = file, outside, ipv4
        self.address, self.outside_address = (NODE, OUTSIDE) if ipv4 else (NODE6, OUTSIDE6)
        self._held = held
        self._numbers = itertools.count(2)

    def plug(self, *, ipv6: bool = True) -> Network:
        """A pod's network, until the node's end."""
        number = next(self._numbers)
        file = self._held.enter_context(_namespace(f"{self.file.name}-pod{number}"))
        address, address6 = f"10.244.0.{number}", f"fd00:244::{number:x}"
        veth = f"veth{number}"
        ip("-n", self.file.name, "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", file.name)
        ip("-n", self.file.name, "link", "set", veth, "master", BRIDGE, "up")
        ip("-n", file.name, "link", "set", "lo", "up")
        if not ipv6:
            self.run("sysctl", "--quiet", "--write", "net.ipv6.conf.all.disable_ipv6=1", within=file)
        if self.ipv4:
            ip("-n", file.name, "address", "add", f"{address}/24", "dev", "eth0")
        if ipv6:
            ip("-n", file.name, "address", "add", f"{address6}/64", "dev", "eth0", "nodad")
        ip("-n", file.name, "link", "set", "eth0", "up")
        if self.ipv4:
            ip("-n", file.name, "route", "add", "default", "via", NODE)
        if ipv6:
            ip("-n", file.name, "route", "add", "default", "via", NODE6)
        return Network(file, address if self.ipv4 else address6, address6 if ipv6 else "")

    def run(self, *argv: str, within: Path | None = None, text: str = "", timeout_s: float = 90.0) -> str:
        """What a command prints that succeeds, on the node or in another namespace."""
        done = self.tried(*argv, within=within, text=text, timeout_s=timeout_s)
        assert done.returncode == 0, f"{argv}: {done.returncode} {done.stdout}{done.stderr}"
        return done.stdout

    def tried(
        self, *argv: str, within: Path | None = None, text: str = "", timeout_s: float = 90.0
    ) -> "subprocess.CompletedProcess[str]":
        """How a command ends."""
        entered = ["nsenter", f"--net={within or self.file}", *argv]
        return subprocess.run(entered, input=text, capture_output=True, text=True, check=False, timeout=timeout_s)

    def publish(self, host_port: int, to: Network, port: int) -> None:
        """What comes for a port of the node goes to a pod's: what the CNI plug-in `portmap` does for `hostPort`."""
        table = f"""
        table ip hostport{host_port} {{
            chain incoming {{
                type nat hook prerouting priority -100
                fib daddr type local tcp dport {host_port} dnat to {to.address}:{port}
            }}
        }}
        """
        self.run("nft", "--file", "-", text=table)

    def neighbour(self, image: Sequence[str]) -> list[str]:
        """The command line of a program outside the cluster."""
        return ["nsenter", f"--net={self.outside}", *image]


@contextmanager
def node(*, ipv4: bool = True) -> Iterator[Node]:
    """One, with IPv6 alone where it has no IPv4. Skips the test where there can be none."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with ExitStack() as held:
        try:
            file = held.enter_context(network())
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespace can be made here: {error.stderr.decode()}")
        outside = held.enter_context(_namespace(f"{file.name}-outside"))
        made = Node(file, outside, held, ipv4=ipv4)
        if ipv4:
            ip("-n", file.name, "address", "add", f"{NODE}/24", "dev", BRIDGE)
        ip("-n", file.name, "address", "add", f"{NODE6}/64", "dev", BRIDGE, "nodad")
        ip("-n", file.name, "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", outside.name)
        for name, device, address, address6 in (
            (file.name, "up0", NODE_OUTSIDE, NODE_OUTSIDE6),
            (outside.name, "eth0", OUTSIDE, OUTSIDE6),
        ):
            if ipv4:
                ip("-n", name, "address", "add", f"{address}/24", "dev", device)
            ip("-n", name, "address", "add", f"{address6}/64", "dev", device, "nodad")
            ip("-n", name, "link", "set", device, "up")
        ip("-n", outside.name, "link", "set", "lo", "up")
        made.run("sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        yield made


@contextmanager
def _namespace(name: str) -> Iterator[Path]:
    ip("netns", "add", name)
    try:
        yield Path("/run/netns", name)
    finally:
        ip("netns", "delete", name)


def enter(file: Path) -> None:
    """Be in a network namespace from now on: this thread, and what it starts."""
    with file.open("rb") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot enter a network namespace")
