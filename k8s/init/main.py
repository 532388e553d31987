"""The command line of `meshd-init`.

    meshd-init --skip-inbound-ports 9100 --skip-outbound-ports 3306,8000-8010
    meshd-init --dry-run         what it would do
    meshd-init --check           whether it is done, by whoever it was

Exit status 0 where it is so, 1 where it cannot be, 2 for a wrong command line. Flags are called as the annotations.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from k8s.init import iptables, nftables
from k8s.init.checking import check
from k8s.init.plan import PodPlan
from k8s.init.programming import MODES, Mode, program
from k8s.values import Range, port_ranges
from meshd import __version__
from meshd.api.problems import Problem
from meshd.capture.plan import Network, networks

MAX_UID = 2**32 - 2

T = TypeVar("T")


def parser() -> argparse.ArgumentParser:
    """What the command line may be."""
    usual = PodPlan()
    made = argparse.ArgumentParser(
        prog="meshd-init",
        description="Have the kernel lead a pod's connections to its proxy. Needs CAP_NET_ADMIN, and CAP_NET_RAW where "
        "there is no nftables.",
    )
    add = partial(made.add_argument, metavar="PORT", type=_port)
    add("--inbound-port", default=usual.inbound_port, help="where the proxy takes what comes in (%(default)s)")
    add("--outbound-port", default=usual.outbound_port, help="where it takes what the pod sends (%(default)s)")
    add("--admin-port", default=usual.admin_port, help="its metrics and probes: never led anywhere (%(default)s)")
    made.add_argument(
        "--proxy-uid", metavar="UID", type=_uid, default=usual.proxy_uid,
        help="the user that the proxy runs as: what it sends is left alone (%(default)s)",
    )  # fmt: skip
    add = partial(made.add_argument, metavar="PORTS", type=_ports, default=())
    add("--skip-inbound-ports", help="what comes for these is left alone, as in 9100,8000-8010")
    add("--skip-outbound-ports", help="what is sent to these is left alone")
    made.add_argument(
        "--skip-subnets", metavar="CIDRS", type=_subnets, default=(),
        help="what is sent there is left alone, as in 10.0.0.0/8,fd00::/8",
    )  # fmt: skip
    made.add_argument(
        "--mode", choices=("auto", *MODES), default="auto", help=f"by what (the first that works of {', '.join(MODES)})"
    )
    what = made.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print the rules, and change nothing")
    what.add_argument("--check", action="store_true", help="change nothing, and see whether rules are in force")
    made.add_argument(
        "--timeout", metavar="S", type=float, default=10.0, help="with --check: how long they are waited for (10)"
    )
    made.add_argument("--version", action="version", version=f"meshd-init {__version__}")
    return made


def main() -> None:
    """The console script."""
    arguments = parser().parse_args()
    plan = PodPlan(
        arguments.inbound_port,
        arguments.outbound_port,
        arguments.admin_port,
        arguments.proxy_uid,
        arguments.skip_inbound_ports,
        arguments.skip_outbound_ports,
        arguments.skip_subnets,
    )
    modes = MODES if arguments.mode == "auto" else (arguments.mode,)
    try:
        if arguments.dry_run:
            sys.stdout.write(dry(plan, modes[0]))
        elif arguments.check:
            check(plan, arguments.timeout)
            print("connections of this pod are led to its proxy", file=sys.stderr)
        else:
            print(f"connections of this pod are led to its proxy, by {program(plan, modes)}", file=sys.stderr)
    except Problem as problem:
        print(f"meshd-init: {problem}", file=sys.stderr)
        sys.exit(problem.exit_status)


def dry(plan: PodPlan, mode: Mode) -> str:
    """What would be put in force by that program."""
    if mode == "nft":
        return nftables.render(plan)
    return "".join(f"# IPv{version}\n{iptables.render(plan, version)}" for version in (4, 6))


def _port(text: str) -> int:
    return _number(text, 65535, "a port")


def _uid(text: str) -> int:
    return _number(text, MAX_UID, "the number of a user other than root")


def _number(text: str, most: int, what: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= most):
        raise argparse.ArgumentTypeError(f"found {text!r}; expected {what}")
    return int(text)


def _ports(text: str) -> tuple[Range, ...]:
    return _read(port_ranges, text)


def _subnets(text: str) -> tuple[Network, ...]:
    return _read(lambda each: networks([part.strip() for part in each.split(",") if part.strip()], "networks"), text)


def _read(read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
