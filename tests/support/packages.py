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


def built(directory: Path) -> Path:
    """The package, built in directory. AssertionError, with what was said, when it cannot be."""
    argv = [str(ROOT / "packaging" / "deb" / "build"), "-o", str(directory)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    (made,) = directory.glob("meshd_*.deb")
    return made


def next_version(package: Path, version: str) -> Path:
    """The same package as another version, which it says of itself, too. Beside it, and not compressed."""
    path("dpkg-buildpackage")  # brings dpkg-deb, too
    tree = package.parent / version
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(tree)], check=True, timeout=120)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^Version: .*", f"Version: {version}", control.read_text()))
    (source,) = tree.glob("usr/lib/meshd/lib/python3*/site-packages/meshd/__init__.py")
    source.write_text(re.sub(r"(?m)^__version__ = .*", f'__version__ = "{version}"', source.read_text()))
    compile_ = ["/usr/bin/python3", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([*compile_, "-s", str(tree), "-p", "/", str(source)], check=True, timeout=60)
    made = package.with_name(f"meshd_{version}_all.deb")
    argv = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(made)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=120)
    shutil.rmtree(tree)
    return made
