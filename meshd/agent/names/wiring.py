"""The host's resolver, made to ask the name server for the mesh's names, and put back exactly as it was.

    systemd-resolved    a drop-in of ours: it asks for the mesh's domains here, and for all others where it did
    resolv.conf         where there is no resolved: a line before the others; what is not the mesh's is refused here,
                        and the C library asks the next. It has no place for a port: `names.listen` must have 53

What was there before is kept in `names-installed.json` in the agent's directory until it is put back.
"""

import base64
import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from meshd.agent.names.settings import NamesSettings, Ranges
from meshd.api.names import Address
from meshd.api.problems import Problem

RECORD = "names-installed.json"

DROP_IN = Path("etc/systemd/resolved.conf.d/meshd.conf")
RESOLV_CONF = Path("etc/resolv.conf")
RESOLVED_RUNS = Path("run/systemd/resolve")

DNS_PORT = 53

MAX_SERVERS = 3
"""Of resolv.conf, as the C library reads it (resolv.conf(5))."""

_MARK = "# meshd names: "


class Wanted(NamedTuple):
    """What is to be in `file`, whose place is below the root of the host."""

    kind: Literal["systemd-resolved", "resolv.conf"]
    file: Path
    content: bytes


class Installed(msgspec.Struct, frozen=True):
    """What was done: `file` had `before` (base64, None: it was not there) and got `after`; directories that were `made`
    for it, the outermost first."""

    kind: str
    file: str
    before: str | None
    after: str
    made: tuple[str, ...] = ()

    @property
    def content(self) -> bytes:
        return base64.b64decode(self.after)


def wanted(root: Path, settings: NamesSettings, domains: tuple[str, ...], ranges: Ranges) -> Wanted:
    """What this host's resolver needs, by which it has; Problem where that cannot be."""
    address = settings.address
    if address is None:
        raise Problem("names.listen is empty: this host's agent does not answer names")
    if (root / RESOLVED_RUNS).is_dir():
        return Wanted("systemd-resolved", DROP_IN, drop_in(address, domains, ranges, search=settings.search))
    file = root / RESOLV_CONF
    if file.is_symlink():
        raise Problem(f"{file}: is a link to {os.readlink(file)}: set the name server where that is made")
    if address.port != DNS_PORT:
        raise Problem(
            f"{file}: has no place for a port, and there is no systemd-resolved: set names.listen to 127.0.0.53:53 or "
            "another loopback address with port 53, and let the agent have it (AmbientCapabilities="
            "CAP_NET_BIND_SERVICE in a drop-in of meshd.service)"
        )
    try:
        found = file.read_bytes()
    except FileNotFoundError:
        found = b""
    except OSError as error:
        raise Problem(f"{file}: cannot be read: {error.strerror}") from error
    return Wanted("resolv.conf", RESOLV_CONF, resolv_conf(_without_ours(found), address, search=settings.search))


def drop_in(address: Address, domains: tuple[str, ...], ranges: Ranges, *, search: bool) -> bytes:
    """For systemd-resolved (resolved.conf(5)): a domain with `~` is one to ask for here, and not one to search."""
    routed = [f"~{domain}" for domain in (*domains, *reverse_domains(ranges))]
    if search and "mesh" in domains:
        routed[routed.index("~mesh")] = "mesh"
    return (
        "# Written by `meshd names install`; `meshd names remove` removes it.\n"
        f"[Resolve]\nDNS={address}\nDomains={' '.join(routed)}\n"
    ).encode()


def reverse_domains(ranges: Ranges) -> list[str]:
    """The domains that the names of the ranges' addresses are in."""
    found = []
    for network, bits in ((ranges.v4, 8), (ranges.v6, 4)):
        if network is None:
            continue
        length = -(-network.prefixlen // bits) * bits
        for part in network.subnets(new_prefix=length):
            assert isinstance(part, IPv4Network | IPv6Network)
            labels = part.network_address.reverse_pointer.split(".")
            found.append(".".join(labels[len(labels) - 2 - length // bits :]))
    return found


def resolv_conf(found: bytes, address: Address, *, search: bool) -> bytes:
    """With the name server before the others; Problem where the last of these would be asked no more."""
    lines = found.decode("utf-8", "surrogateescape").splitlines(keepends=True)
    if sum(line.split()[:1] == ["nameserver"] for line in lines) >= MAX_SERVERS:
        raise Problem(
            f"/{RESOLV_CONF}: has {MAX_SERVERS} name servers, and of more only the first are asked: take one out"
        )
    ours = [f"{_MARK}nameserver\n", f"nameserver {address.host}\n"]
    if search:
        if any(line.split()[:1] in (["search"], ["domain"]) for line in lines):
            raise Problem(
                f"/{RESOLV_CONF}: has a `search` or `domain` of its own: add `mesh` there, or unset names.search"
            )
        ours += [f"{_MARK}search\n", "search mesh\n"]
    return "".join((*ours, *lines)).encode("utf-8", "surrogateescape")


def _without_ours(content: bytes) -> bytes:
    """A resolv.conf without the lines that are ours, whatever else became of it."""
    lines = content.splitlines(keepends=True)
    ours = {at + more for at, line in enumerate(lines) if line.startswith(_MARK.encode()) for more in (0, 1)}
    return b"".join(line for at, line in enumerate(lines) if at not in ours)


def installed(state_dir: Path) -> Installed | None:
    """What was done on this host and not undone; Problem where that cannot be known."""
    file = state_dir / RECORD
    try:
        return msgspec.json.decode(file.read_bytes(), type=Installed)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise Problem(f"{file}: cannot be read: {error}") from error


def is_in_force(root: Path, done: Installed) -> bool:
    """Whether what was done is as it was done."""
    return _content(root / done.file) == done.content


def install(root: Path, state_dir: Path, wanted: Wanted) -> bool:
    """Have it so; whether anything had to be done. What was installed otherwise is put back first."""
    done = installed(state_dir)
    file = root / wanted.file
    if done is not None:
        if done.file == str(wanted.file) and _content(file) == done.content == wanted.content:
            return False
        remove(root, state_dir)
    before = _content(file)
    made = [each for each in reversed(file.parents) if not each.exists()]
    record = Installed(
        wanted.kind,
        str(wanted.file),
        None if before is None else base64.b64encode(before).decode(),
        base64.b64encode(wanted.content).decode(),
        tuple(str(each.relative_to(root)) for each in made),
    )
    try:
        _write(state_dir / RECORD, msgspec.json.encode(record), 0o600)
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, wanted.content, 0o644)
    except OSError as error:
        raise Problem(f"{error.filename}: cannot be written: {error.strerror}") from error
    return True


def remove(root: Path, state_dir: Path) -> Installed | None:
    """Put back what was there, byte for byte; None: nothing was installed. Of a resolv.conf that others have written to
    since, our lines are taken out. Problem for a drop-in that is not ours any more."""
    done = installed(state_dir)
    if done is None:
        return None
    file = root / done.file
    before = None if done.before is None else base64.b64decode(done.before)
    found = _content(file)
    try:
        if found == done.content:
            _put_back(file, before)
        elif found is not None and found != before:
            if done.kind != "resolv.conf":
                raise Problem(
                    f"{file}: was changed after it was installed: remove it by hand, and {state_dir / RECORD}"
                )
            _put_back(file, _without_ours(found))
        for made in reversed(done.made):
            directory = root / made
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()
        (state_dir / RECORD).unlink()
    except OSError as error:
        raise Problem(f"{error.filename}: cannot be put back: {error.strerror}") from error
    return done


def _put_back(file: Path, before: bytes | None) -> None:
    if before is None:
        file.unlink()
    else:
        _write(file, before, 0o644)


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Problem(f"{file}: cannot be read: {error.strerror}") from error


def _write(file: Path, content: bytes, mode: int) -> None:
    """In its place, so that its owner, and what is mounted over it, stay; `mode` is for one that was not there."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with open(descriptor, "wb") as opened:
        opened.write(content)
