"""The Debian package as `make deb` builds it, and another version of the same."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.support.peers import path

ROOT: Final = Path(__file__).resolve().parents[2]
NEEDS: Final = ("dh", "dpkg-buildpackage")
"""Programs, for the mark `peer`."""


def built(directory: Path, suite: str = "") -> Path:
    """The package, built in directory, for this machine's release of Debian or for another. AssertionError, with what
    was said, when it cannot be."""
    argv = [str(ROOT / "packaging" / "deb" / "build"), "-o", str(directory), *(["-s", suite] if suite else [])]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    (made,) = directory.glob("meshd_*.deb")
    return made


def next_version(package: Path, version: str, root: Path | None = None) -> Path:
    """The same package as another version, which it says of itself, too. Beside it, and not compressed. `root` has the
    Python that it is for, where that is not this machine's."""
    path("dpkg-buildpackage")  # brings dpkg-deb, too
    tree = package.parent / version
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(tree)], check=True, timeout=120)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^Version: .*", f"Version: {version}", control.read_text()))
    (source,) = tree.glob("usr/lib/meshd/lib/python3*/site-packages/meshd/__init__.py")
    source.write_text(re.sub(r"(?m)^__version__ = .*", f'__version__ = "{version}"', source.read_text()))
    seen, enter = tree, list[str]()
    if root is not None:  # with the tree in it, for this one program
        seen = Path("/mnt")
        bound = 'mount --bind "$0" "$1/mnt"; exec chroot "$@"'
        enter = ["unshare", "--mount", "sh", "-ec", bound, str(tree), str(root)]
    compile_ = ["/usr/bin/python3", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
    within = seen / source.relative_to(tree)
    subprocess.run([*enter, *compile_, "-s", str(seen), "-p", "/", str(within)], check=True, timeout=60)
    made = package.with_name(f"meshd_{version}_all.deb")
    argv = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(made)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=120)
    shutil.rmtree(tree)
    return made
