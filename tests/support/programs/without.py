"""`without.py WHAT[=VALUE] … -- COMMAND`: run COMMAND where the kernel denies it something, and all that it starts.

netfilter    there is no netlink family of netfilter, as in a kernel that was built without (seccomp)
inet6        there is no IPv6 (seccomp)
exec=FILE    the file may not be run: EACCES, as by SELinux or AppArmor, whose sibling Landlock denies it
bind         no TCP port may be bound (Landlock)
"""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, EQUALS, RETURN = 0x20, 0x15, 0x06
ALLOW, DENY = 0x7FFF0000, 0x00050000
SOCKET = {"x86_64": (41, 0xC000003E), "aarch64": (198, 0xC00000B7)}
"""The number of socket(2), and what audit(7) calls the architecture."""

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, BIND_TCP, PATH_BENEATH = 1, 1, 1
AF_NETLINK, NETLINK_NETFILTER, AF_INET6 = 16, 12, 10


def filtered(domain: int, protocol: int | None, error: int) -> list[tuple[int, int, int, int]]:
    """A program of seccomp(2): socket(domain, *, protocol) fails with error. Offsets are those of seccomp_data."""
    number, architecture = SOCKET[os.uname().machine]
    checks = [(4, architecture), (0, number), (16, domain)] + ([] if protocol is None else [(32, protocol)])
    code = []
    for offset, value in checks:
        code += [(LOAD, 0, 0, offset), (EQUALS, 1, 0, value), (RETURN, 0, 0, ALLOW)]
    return [*code, (RETURN, 0, 0, DENY | error)]


def install(code: list[tuple[int, int, int, int]]) -> None:
    packed = b"".join(struct.pack("HBBI", *each) for each in code)
    held = ctypes.create_string_buffer(packed)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(held)))
    check(LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0))


def restrict(fs: int, net: int, allowed: Iterator[Path]) -> None:
    """Landlock: of what is handled only what is allowed may be done."""
    attributes = struct.pack("QQ", fs, net)
    ruleset = check(LIBC.syscall(CREATE_RULESET, attributes, len(attributes), 0))
    for path in allowed:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        check(LIBC.syscall(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", fs, descriptor), 0))
        os.close(descriptor)
    check(LIBC.syscall(RESTRICT_SELF, ruleset, 0))


def all_but(denied: Path) -> Iterator[Path]:
    """Everything but a file, by what is beside it and beside each directory above it."""
    for directory in denied.parents:
        for each in directory.iterdir():
            if each != denied and each not in denied.parents and not each.is_symlink():
                yield each


def check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "the kernel denies to deny")
    return result


def main() -> None:
    at = sys.argv.index("--")
    check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    for word in sys.argv[1:at]:
        what, _, value = word.partition("=")
        match what:
            case "netfilter":
                install(filtered(AF_NETLINK, NETLINK_NETFILTER, errno.EPROTONOSUPPORT))
            case "inet6":
                install(filtered(AF_INET6, None, errno.EAFNOSUPPORT))
            case "exec":
                restrict(EXECUTE, 0, all_but(Path(value).resolve()))
            case "bind":
                restrict(0, BIND_TCP, iter(()))
            case _:
                raise SystemExit(f"without.py: {word}?")
    os.execvp(sys.argv[at + 1], sys.argv[at + 1 :])


main()
