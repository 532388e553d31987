"""The image as `make image` builds it, of this machine's release of Debian: buildah runs its steps in a chroot, in a
store of the test's own. The base is of packages of Debian, and kept in the user's cache."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.machines.roots import CACHE
from tests.support.packages import ROOT
from tests.support.peers import path

NEEDS: Final = ("buildah", "mmdebstrap", "unshare", "ip")
"""Programs, for the mark `peer`; and the test is to be root's."""
PACKAGES: Final = ("ca-certificates", "iptables", "netbase", "nftables", "python3-venv")
"""What it is made from; k8s/Dockerfile installs it where it is not there."""

_IN_IT: Final = """
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/tmp"
mount --bind /dev "$1/dev"
ip link set lo up
exec chroot --userspec="$0" --groups= "$@"
"""


class Image:
    """`root` is its file system, and `configuration` how it says that it is to be run."""

    def __init__(self, root: Path, configuration: dict[str, Any]) -> None:
        self.root, self.configuration = root, configuration

    def runs(self, *argv: str, user: int = 2102) -> "subprocess.CompletedProcess[str]":
        """A program of it, to its end, as a container would run it: on a file system that is read-only but for /tmp, in
        a network of its own, as that user."""
        within = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-ec", _IN_IT]
        return subprocess.run(
            [*within, f"{user}:{user}", str(self.root), *argv],
            capture_output=True, text=True, timeout=120, check=False,
            env={"PATH": "/usr/bin:/usr/sbin:/bin:/sbin", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip


@contextmanager
def image() -> Iterator[Image]:
    """It, built now. AssertionError, with what was said, where it cannot be."""
    store = Path(tempfile.mkdtemp(prefix="meshd-image-"))
    try:
        settings = store / "storage.conf"
        settings.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{store}/graph"\nrunroot = "{store}/run"\n')
        environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(settings), "BUILDAH_ISOLATION": "chroot"}
        _said([path("buildah"), "build", "--quiet", "--tag", "base", str(_base())], environment)
        python = _said(["/usr/bin/python3", "-c", 'import sys; print("%d.%d" % sys.version_info[:2])'], environment)
        build = [str(ROOT / "packaging/image/build"), "-t", "meshd:test", "-b", "localhost/base", "-p", python]
        _said(build, environment)
        container = _said([path("buildah"), "from", "meshd:test"], environment)
        inspected = json.loads(_said([path("buildah"), "inspect", container], environment))
        root = Path(_said([path("buildah"), "mount", container], environment))
        yield Image(root, inspected["OCIv1"]["config"])
    finally:
        shutil.rmtree(store)


def _said(argv: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout.strip()


def _base() -> Path:
    """What an image of Debian with these packages is built from."""
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    name = hashlib.sha256(" ".join((release, *PACKAGES)).encode()).hexdigest()[:16]
    base = CACHE / f"image-{release}-{name}"
    if not base.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=".making-", dir=CACHE))
        try:
            sources = _said([str(ROOT / "packaging/deb/sources"), release], dict(os.environ))
            (making / "sources").write_text(f"{sources}\n")
            argv = [path("mmdebstrap"), "--variant=minbase", f"--include={','.join(PACKAGES)}", release]
            _said([*argv, str(making / "root.tar"), str(making / "sources")], dict(os.environ))
            (making / "Dockerfile").write_text("FROM scratch\nADD root.tar /\n")
            making.rename(base)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return base
