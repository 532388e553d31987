"""The root file system that hosts begin from: this machine's release of Debian or another, with systemd, what meshd's
package depends on, and programs that tests put into the mesh, none of which runs unasked. It is made by mmdebstrap from
where this machine's apt has its packages, and kept in the user's cache."""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tests.support.packages import ROOT
from tests.support.peers import path

PACKAGES: Final = (
    "systemd", "systemd-sysv", "dbus", "libpam-systemd", "python3", "nftables", "libstdc++6", "iproute2",
    "ca-certificates", "curl", "nginx", "redis-server", "python3-grpcio", "systemd-resolved",
)  # fmt: skip
DAEMONS: Final = ("nginx", "redis-server", "systemd-resolved")
"""Of these packages, which would be started at boot."""
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshd" / "roots"


def base_root(suite: str = "") -> Path:
    """Its directory, for nobody to write to."""
    release = suite or platform.freedesktop_os_release()["VERSION_CODENAME"]
    name = hashlib.sha256(" ".join((release, *PACKAGES, *DAEMONS)).encode()).hexdigest()[:16]
    root = CACHE / f"{release}-{name}"
    if not root.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=".making-", dir=CACHE))
        try:
            _make(making / "root", release)
            (making / "root").rename(root)
        finally:
            shutil.rmtree(making)
    return root


def _make(directory: Path, release: str) -> None:
    argv = [path("mmdebstrap"), "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    argv += [f'--customize-hook=systemctl --root="$1" disable {" ".join(DAEMONS)}', release, str(directory), "-"]
    done = subprocess.run(
        argv,
        input=_sources(release),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"mmdebstrap: {done.stdout[-2000:]}"


def _sources(release: str) -> str:
    """Where this machine's apt has its packages, for that release, as lines of sources.list(5)."""
    argv = [str(ROOT / "packaging" / "deb" / "sources"), release]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
