"""Hosts with something wrong about them, made for real: what begins the command line of a program that is to be there.

Each is a mount namespace of its own, or denials of the kernel's (`programs/without.py`), and ends with the program.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Final

import pytest

WITHOUT: Final = (sys.executable, "-P", str(Path(__file__).parent / "programs" / "without.py"))
LANDLOCK_CREATE, VERSION = 444, 1

REFUSES_SOCKET = r"""#!/bin/sh
# A kernel without nft_socket: rules with it are refused as that refuses them, all others go to the real program.
text=$(cat)
case "$text" in
*'socket cgroupv2'*) echo '/dev/stdin:1:1-1: Error: Could not process rule: No such file or directory' >&2; exit 1 ;;
esac
printf '%s\n' "$text" | "${0%/*}/real-nft" "$@"
"""


def nft() -> str:
    found = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert found is not None
    return os.path.realpath(found)


def mounting(*commands: str) -> tuple[str, ...]:
    """Whoever sees these mounts, and nobody else."""
    return ("unshare", "--mount", "sh", "-c", " && ".join((*commands, 'exec "$@"')), "sh")


def denying(*what: str) -> tuple[str, ...]:
    """Skips the test where this kernel cannot deny it."""
    if any(each.startswith(("exec", "bind")) for each in what) and _landlock() < 4:
        pytest.skip("this kernel has no Landlock that knows TCP")
    return (*WITHOUT, *what, "--")


def _landlock() -> int:
    import ctypes

    version: int = ctypes.CDLL(None).syscall(LANDLOCK_CREATE, None, 0, VERSION)
    return version


def no_nft() -> tuple[str, ...]:
    return mounting(f"mount --bind /dev/null {nft()}")


def no_netfilter() -> tuple[str, ...]:
    return denying("netfilter")


def no_socket_match(directory: Path) -> tuple[str, ...]:
    """The one that is played: a kernel's modules are everybody's."""
    shutil.copy(nft(), directory / "real-nft")
    script = directory / "nft"
    script.write_text(REFUSES_SOCKET.replace("${0%/*}", str(directory)))
    script.chmod(0o755)
    return mounting(f"mount --bind {script} {nft()}")


def nft_denied() -> tuple[str, ...]:
    return denying(f"exec={nft()}")


def binds_denied() -> tuple[str, ...]:
    return denying("bind")


def cgroups_of_version_1_alone() -> tuple[str, ...]:
    return mounting("mount -t tmpfs none /sys/fs/cgroup", "mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/cpu")


def no_systemd() -> tuple[str, ...]:
    return mounting("mkdir -p /run/systemd", "mount -t tmpfs none /run/systemd")


def full(directory: Path) -> tuple[str, ...]:
    """A file system of that directory's own, with no room in it."""
    return mounting(
        f"mount -t tmpfs -o size=256k none {directory}", f"! head -c 1M /dev/zero >{directory}/filler 2>/dev/null"
    )
