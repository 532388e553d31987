"""Putting a plan in force: by nftables, else by iptables over nftables, else by the old iptables.

What is there decides, and what the kernel takes: one that has no nftables refuses the first two. That something may not
be done, or is not there at all, is said in one line for whoever reads the log of a pod that does not start.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, Literal

from k8s.init import iptables, nftables
from k8s.init.plan import PodPlan
from meshd.api.problems import Problem
from meshd.capture import nft

Mode = Literal["nft", "iptables-nft", "iptables-legacy"]
MODES: Final[tuple[Mode, ...]] = ("nft", "iptables-nft", "iptables-legacy")
"""The first that works is taken."""

CAP_NET_ADMIN: Final = 12
CAP_NET_RAW: Final = 13

_STATUS: Final = Path("/proc/self/status")
_ADDRESSES6: Final = Path("/proc/net/if_inet6")
_LOCK: Final = "XTABLES_LOCKFILE"
_PATH: Final = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin"
_FAMILIES: Final = {4: "", 6: "6"}


class NotInForce(Problem):
    """The rules could not be put in force by one program."""


def program(plan: PodPlan, modes: tuple[Mode, ...]) -> Mode:
    """Put the plan in force by the first of modes that can; which it was. Problem."""
    _check_capabilities(modes)
    tried: list[str] = []
    for mode in modes:
        try:
            _by_nft(plan) if mode == "nft" else _by_iptables(plan, mode)
        except Problem as problem:
            tried.append(f"{mode}: {problem}")
        else:
            return mode
    raise Problem("the pod's connections cannot be led to its proxy: " + "; ".join(tried))


def _by_nft(plan: PodPlan) -> None:
    try:
        nft.apply(nftables.render(plan))
    except nft.NotFiltering:
        nft.apply(nftables.render(plan, looks_up=False))


def _by_iptables(plan: PodPlan, mode: str) -> None:
    suffix = mode.removeprefix("iptables")
    for version, number in _FAMILIES.items():
        if version == 6 and not has_ipv6():
            continue
        program_ = f"ip{number}tables{suffix}"
        hooked = _hooked(program_)
        try:
            _restore(program_, iptables.render(plan, version, hooked))
        except NotInForce:
            _restore(program_, iptables.render(plan, version, hooked, looks_up=False))


def _hooked(name: str) -> list[str]:
    """Which of the kernel's chains lead to ours already."""
    listed = _run([name, "--table", "nat", "--list-rules"])
    return [kernels for kernels, ours in iptables.HOOKS.items() if f"-A {kernels} -j {ours}" in listed.splitlines()]


def _restore(name: str, text: str) -> None:
    _run([f"{name}-restore", "--noflush", "--wait", "30"], text)


def _run(argv: list[str], text: str = "") -> str:
    found = shutil.which(argv[0], path=_PATH)
    if found is None:
        raise NotInForce(f"there is no program `{argv[0]}` here")
    # The lock is for others who change rules meanwhile, which in a pod that starts is nobody; and there may be no
    # place to write.
    environment = {"PATH": _PATH, "LC_ALL": "C.UTF-8", _LOCK: os.environ.get(_LOCK, os.devnull)}
    try:
        ended = subprocess.run(  # noqa: S603 - a fixed program, found in the system's own directories
            [found, *argv[1:]],
            input=text, capture_output=True, text=True, timeout=nft.TIMEOUT_S * 2, check=False, env=environment,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInForce(f"{argv[0]} cannot be run: {error}") from error
    if ended.returncode:
        said = " ".join(ended.stderr.split())[: nft.MAX_COMPLAINT] or f"status {ended.returncode}"
        raise NotInForce(f"{argv[0]}: {said}")
    return ended.stdout


def has_ipv6() -> bool:
    """Whether an interface other than loopback has an address of IPv6."""
    try:
        lines = _ADDRESSES6.read_text().splitlines()
    except OSError:  # the kernel has none
        return False
    return any(not line.endswith(" lo") for line in lines)


def _check_capabilities(modes: tuple[Mode, ...]) -> None:
    """Problem where this process may not change rules, and why that may be."""
    effective, bounding = _capabilities()
    needed = {CAP_NET_ADMIN: "NET_ADMIN"} | ({CAP_NET_RAW: "NET_RAW"} if modes == ("iptables-legacy",) else {})
    missing = [(number, name) for number, name in needed.items() if not effective >> number & 1]
    if not missing:
        return
    names = " and ".join(f"CAP_{name}" for _, name in missing)
    if all(bounding >> number & 1 for number, _ in missing) and os.geteuid():
        raise Problem(
            f"{names} is given to this container, but not to user {os.geteuid()}: it has to run as user 0 (runAsUser)"
        )
    raise Problem(
        f"this container lacks {names}: its securityContext has to add it, and the namespace's Pod Security Standard "
        "must let it (privileged does; baseline and restricted do not)"
    )


def _capabilities() -> tuple[int, int]:
    """Those in effect, and those that could be."""
    found = dict(line.split(":\t", 1) for line in _STATUS.read_text().splitlines() if line.startswith("Cap"))
    return int(found["CapEff"], 16), int(found["CapBnd"], 16)
