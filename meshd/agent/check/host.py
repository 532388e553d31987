"""The checks of the system under meshd: before it is installed (`--pre`), with the usual settings, and while it is.

The kernel is asked whether it would take a table like ours, and is not made to. Whoever may not ask it is told so.
"""

import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from meshd.agent.capturing import VIRTUAL
from meshd.agent.check import kinds, ports
from meshd.agent.check.kinds import Check, Kind
from meshd.agent.health.probes import SYSTEMD
from meshd.agent.names import wiring
from meshd.agent.names.settings import NamesSettings
from meshd.agent.settings import ProxySettings, Settings
from meshd.api.names import Address
from meshd.api.problems import Problem
from meshd.capture import nft, slices, table
from meshd.capture.nft import NotFiltering
from meshd.capture.plan import Group, Plan, listener

AGENT_ADMIN: Final = Address("127.0.0.1", 4192)
STATE: Final = Path("/var/lib")

ROOM_ERROR_BYTES: Final = 1 << 20
"""What the agent writes is some KiB at a time: a key and its certificate, what a registry said."""
ROOM_WARN_BYTES: Final = 64 << 20

GUARDS: Final = (
    ("SELinux", Path("/sys/fs/selinux/enforce"), "1"),
    ("AppArmor", Path("/sys/module/apparmor/parameters/enabled"), "Y"),
)

CGROUPS: Final = "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line"

FEATURES: Final = (
    ("nf_tables, nft_chain_nat", "meta l4proto != tcp return"),
    ("nft_redir", "meta l4proto tcp redirect to :4140"),
    ("nft_reject_inet", "meta l4proto tcp reject with tcp reset"),
    ("nft_fib_inet", "fib daddr type local return"),
)
"""What our table needs of the kernel, by the module that it is in, and a rule that has it."""


# --- before there is anything -----------------------------------------------------------------------------------------


def before_install(systemd: Path = Path(SYSTEMD), mount: Path = slices.MOUNT) -> Iterator[Check]:
    """Whether meshd could run here, with the usual settings."""
    if systemd.is_dir():
        yield kinds.PRE_SYSTEMD.well()
    else:
        yield kinds.PRE_SYSTEMD.warning("units cannot be meshed", "`meshd run` is for commands, with no capture")
    top = slices.top(mount)
    if top is not None:
        yield kinds.PRE_CGROUPS.well()
        yield _kernel(top, mount)
    else:
        yield kinds.PRE_CGROUPS.error(no_groups(mount), CGROUPS)
    proxy, names = ProxySettings(), NamesSettings()
    for each in (Address.parse(proxy.outbound), Address.parse(proxy.inbound), Address.parse(proxy.admin), AGENT_ADMIN):
        yield _port(each, ("tcp",))
    if names.address is not None:
        yield _port(names.address, ("tcp", "udp"))
    yield _resolver(names)
    yield _route()
    yield _clock()
    yield room(STATE, kinds.PRE_ROOM)


def no_groups(mount: Path = slices.MOUNT) -> str:
    return f"there are none at {mount} nor at {mount}/{slices.BESIDE_V1}: who calls cannot be told, nor be captured"


def _kernel(top: Path, mount: Path) -> Check:
    """Whether the kernel would take a table with all that ours has in it, for a group that is there."""
    there = next((each for each in sorted(top.iterdir()) if each.is_dir()), None)
    group = None if there is None else Group(str(there.relative_to(mount)), 1)
    plan = Plan(listener("127.0.0.1:4140"), listener("0.0.0.0:4143"), group, (1,), (2,), (1,), VIRTUAL)
    try:
        nft.apply(table.render(plan), check=True)
    except NotFiltering as error:
        return not_filtering(kinds.PRE_KERNEL, error, group)
    return kinds.PRE_KERNEL.well()


def not_filtering(kind: Kind, error: NotFiltering, group: Group | None = None) -> Check:
    """What nft's refusal comes to, and what to do about it."""
    said = str(error)
    if nft.program() is None:
        return kind.error(said, "`apt install nftables`")
    if "cannot be run" in said:
        return kind.error(said, guarded())
    if os.geteuid():
        return kind.warning(said, "run this as root: others may not ask the kernel")
    lacking = list(_lacking(group))
    if lacking:
        said = f"the kernel does not take what is in {', '.join(lacking)}\n{said}"
    hint = "a kernel of 5.13 or newer with nft_socket, nft_chain_nat, nft_redir, nft_reject_inet and nft_fib_inet"
    return kind.error(said, f"{hint}; `modprobe` says of each whether it can be had")


def _lacking(group: Group | None) -> Iterator[str]:
    """The modules that a kernel has not, where it has some."""
    features = list(FEATURES)
    if group is not None:
        features.append(("nft_socket (since 5.13)", f'socket cgroupv2 level {group.level} "{group.path}" return'))
    for module, rule in features:
        lines = f"type nat hook output priority -100; policy accept;\n\t\t{rule}"
        try:
            nft.apply(f"table inet meshd-probe {{\n\tchain probe {{\n\t\t{lines}\n\t}}\n}}\n", check=True)
        except NotFiltering:
            yield module
            if module == FEATURES[0][0]:  # without it there is nothing
                return


def guarded(guards: tuple[tuple[str, Path, str], ...] = GUARDS) -> str:
    """What to do about a permission that is denied to those who should have it."""
    on = [name for name, file, yes in guards if _content(file).startswith(yes)]
    who = f"{' and '.join(on)} {'is' if len(on) == 1 else 'are'} on here" if on else "SELinux, AppArmor, or noexec"
    return f"a rule of the host denies it ({who}): `journalctl -k -g 'avc:|apparmor=|DENIED'` has which; allow it there"


def _content(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _port(address: Address, protocols: tuple[ports.Protocol, ...]) -> Check:
    for protocol in protocols:
        error = ports.trouble(address, protocol)
        if error is None:
            continue
        reason, hint = str(error.strerror), guarded()
        if ports.is_taken(error):
            reason = f"{ports.said(ports.holders(address, protocol))} listens there"
            hint = "end it, or have it listen elsewhere; or have meshd, in its settings"
        elif error.errno not in (errno.EACCES, errno.EPERM):
            hint = "`ip address` says whether the address is this host's"
        return kinds.PRE_PORT.error(f"{address} ({protocol.upper()}): {reason}", hint, address.port)
    return kinds.PRE_PORT.well(address.port)


def _resolver(names: NamesSettings) -> Check:
    """Names can be had without the host's resolver, so that nothing of it is an error."""
    try:
        wiring.wanted(Path("/"), names, names.domains, names.ranges("mesh.local"))
    except Problem as problem:
        hint = (
            "`apt install systemd-resolved`, or as it says; without, programs have the mesh by upstreams and http_proxy"
        )
        return kinds.PRE_RESOLVER.warning(str(problem), hint)
    return kinds.PRE_RESOLVER.well()


def _route() -> Check:
    """Addresses of services are nobody's; a connection to one must get as far as the rules all the same."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(VIRTUAL[0].network_address + 1), 9))
        except OSError as error:
            hint = f"add a default route, or `ip route add {VIRTUAL[0]} dev INTERFACE`"
            return kinds.PRE_ROUTE.warning(str(error.strerror), hint, VIRTUAL[0])
    return kinds.PRE_ROUTE.well(VIRTUAL[0])


def _clock() -> Check:
    """Whether the kernel believes its clock to be kept right: adjtimex(2), which only reads where `modes` is 0."""
    unsynchronised, longest = 5, 1024  # TIME_ERROR; more than struct timex is anywhere
    if ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(longest)) != unsynchronised:
        return kinds.PRE_CLOCK.well()
    hint = "`timedatectl set-ntp true`: certificates are good for hours, and begin a minute before they are made"
    return kinds.PRE_CLOCK.warning("the kernel knows of nobody who does", hint)


# --- while it is installed --------------------------------------------------------------------------------------------


def room(directory: Path, kind: Kind = kinds.STATE_ROOM) -> Check:
    """Whether there is room for what is kept."""
    try:
        found = os.statvfs(directory)
    except OSError as error:
        hint = "its owner is the user that the agent runs as, its mode 0700: `systemctl restart meshd` makes it so"
        return kind.error(f"{directory}: {error.strerror}", hint, directory)
    free_bytes = found.f_bavail * found.f_frsize
    if found.f_flag & os.ST_RDONLY:
        return kind.error("it can only be read", f"`findmnt -T {directory}`, and mount it for writing", directory)
    if free_bytes >= ROOM_WARN_BYTES and (found.f_favail or not found.f_files):
        return kind.well(directory)
    left = f"{free_bytes >> 10} KiB are left, and {found.f_favail} files"
    is_full = free_bytes < ROOM_ERROR_BYTES or not found.f_favail
    hint = f"`df -h {directory}`: make room; what cannot be kept is said in the log, and nothing is cut short"
    return kind.found("error" if is_full else "warning", left, hint, directory)


def under_units(systemd: Path = Path(SYSTEMD), mount: Path = slices.MOUNT) -> Iterator[Check]:
    """What has to be there for processes to be told apart by their units."""
    if systemd.is_dir():
        yield kinds.SYSTEMD.well()
    else:
        hint = "boot with systemd, or take the units out (`meshd uninject --all`): `meshd run` is for commands"
        yield kinds.SYSTEMD.error("units are named in documents, and there are none", hint)
    if slices.top(mount) is not None:
        yield kinds.CGROUPS.well()
    else:
        yield kinds.CGROUPS.error(no_groups(mount), CGROUPS)


def listening(settings: Settings, *, has_proxy: bool) -> Iterator[Check]:
    """Whether those who listen where meshd is to are meshd. `has_proxy`: the host's proxy is attached to the agent."""
    wanted: list[tuple[Address, ports.Protocol]] = [
        (Address.parse(each), "tcp")
        for each in (settings.proxy.outbound, settings.proxy.inbound, settings.proxy.admin)
        if each
    ]
    wanted += [(settings.admin_address, "tcp")] if settings.admin_address is not None else []
    names = settings.names.address
    wanted += [(names, "tcp"), (names, "udp")] if names is not None else []
    for address, protocol in wanted:
        yield _listens(address, protocol, has_proxy=has_proxy)


def _listens(address: Address, protocol: ports.Protocol, *, has_proxy: bool) -> Check:
    name = f"{address.port}" if protocol == "tcp" else f"{address.port} (UDP)"
    error = ports.trouble(address, protocol)
    if error is None:  # who is to listen there does not run, which is said elsewhere
        return kinds.PORT.well(name)
    if not ports.is_taken(error):
        return kinds.PORT.error(f"{address}: {error.strerror}", guarded(), name)
    found = ports.holders(address, protocol)
    if any(each.is_ours for each in found) or (not found and has_proxy):
        return kinds.PORT.well(name)
    hint = "end it, or have it listen elsewhere; then start meshd-proxy.socket, or restart the agent"
    if not found and os.geteuid():
        return kinds.PORT.warning(f"{address}: {ports.said(found)} listens there", "run this as root", name)
    return kinds.PORT.error(f"{address}: {ports.said(found)} listens there", hint, name)
