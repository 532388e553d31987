"""The root of the image: `assemble.py ROOT` copies there, from the stage that builds, the interpreter with its library,
the programs that change a pod's rules, and every shared library that any of it is linked with, or what is in ROOT
already: there meshd lies with the libraries that it brings. `k8s/Dockerfile` calls it.

There is no shell, no package manager and no compiler then, and which packages of Debian are there, in part, is in
/var/lib/dpkg/status.d, for programs that look for known holes.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(sys.argv[1])

KINDS = ("nft", "legacy")
PROGRAMS = (
    "/usr/bin/python3",
    "/usr/sbin/nft",
    *(f"/usr/sbin/xtables-{kind}-multi" for kind in KINDS),
    *(f"/usr/sbin/ip{six}tables-{kind}{what}" for six in ("", "6") for kind in KINDS for what in ("", "-restore")),
)
"""What meshd starts: links are copied as such, with what they lead to."""

FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/openssl.cnf", "/etc/os-release", "/etc/protocols")
DIRECTORIES = ("dev", "etc/meshd", "proc", "run", "sys", "tmp", "var/lib/dpkg/status.d")
UNUSED = (
    "__pycache__", "config-*", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter", "turtledemo",
    "_bz2.*", "_curses*", "_dbm.*", "_gdbm.*", "_lzma.*", "_tkinter.*", "nis.*", "ossaudiodev.*", "readline.*",
)  # fmt: skip
"""Of Python's library: what people want who write programs, and what would bring a shared library along for nothing."""

ACCOUNTS = "root:x:0:0:root:/:/nowhere\nmeshd:x:2102:2102:meshd:/:/nowhere\n"


def main() -> None:
    """The program."""
    for name in DIRECTORIES:
        (ROOT / name).mkdir(parents=True, exist_ok=True)
    (ROOT / "tmp").chmod(0o1777)
    for name in ("bin", "lib", "lib64", "sbin"):
        (ROOT / name).symlink_to(f"usr/{name}")
    for name in (*PROGRAMS, *FILES):
        copy(name)
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(library, below(library), symlinks=True, ignore=shutil.ignore_patterns(*UNUSED))
    extensions = Path("/usr/lib", sysconfig.get_config_var("MULTIARCH"), "xtables")
    shutil.copytree(extensions, below(extensions), symlinks=True)
    for name in libraries():
        copy(name)
    trusted = ROOT / "usr/lib/ssl/cert.pem"  # where OpenSSL looks
    trusted.parent.mkdir()
    trusted.symlink_to("/etc/ssl/certs/ca-certificates.crt")
    (ROOT / "etc/passwd").write_text(ACCOUNTS)
    (ROOT / "etc/group").write_text("root:x:0:\nmeshd:x:2102:\n")
    (ROOT / "etc/nsswitch.conf").write_text("hosts: files dns\n")
    for package in owners() | {"ca-certificates"}:  # its file is made, and no package's
        tell(package)


def below(path: Path) -> Path:
    """Where path is in the image."""
    return ROOT / os.path.relpath(path, "/")


def copy(name: str) -> None:
    """A file, and what it is a link to."""
    path = Path(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
    target = below(path)
    if target.is_symlink() or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        target.symlink_to(os.readlink(path))
        copy(os.path.join(path.parent, os.readlink(path)))
    else:
        shutil.copy2(path, target)


def libraries() -> set[str]:
    """What anything in the image is linked with, and what the C library loads by itself."""
    objects = [path for path in ROOT.rglob("*") if path.is_file() and not path.is_symlink() and is_elf(path)]
    said = subprocess.run(["ldd", *map(str, objects)], capture_output=True, text=True, check=False).stdout  # noqa: S603, S607
    assert "not found" not in said, said
    found = set(re.findall(r"(?m)^\s+(?:\S+ => )?(/\S+) \(0x", said))
    return {name for name in found if not name.startswith(str(ROOT))} | {
        f"/lib/{sysconfig.get_config_var('MULTIARCH')}/libgcc_s.so.1"
    }


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def owners() -> set[str]:
    """The packages that what is in the image is of."""
    there = {f"/{path.relative_to(ROOT)}" for path in ROOT.rglob("*") if path.is_file() and not path.is_symlink()}
    return {
        listing.name.removesuffix(".list")
        for listing in Path("/var/lib/dpkg/info").glob("*.list")
        if any(os.path.realpath(line) in there for line in listing.read_text().splitlines())
    }


def tell(package: str) -> None:
    """That it is there, and under which licence."""
    name = package.partition(":")[0]
    argv = ["dpkg-query", "--status", package]
    status = subprocess.run(argv, capture_output=True, check=True).stdout  # noqa: S603
    (ROOT / "var/lib/dpkg/status.d" / name).write_bytes(status)
    licence = Path("/usr/share/doc", name, "copyright")
    if licence.exists():
        below(licence).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(licence, below(licence))


main()
