"""The Debian package: what Debian's own tool thinks of it, that it is the same whoever builds it, and a repository."""

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import packages
from tests.support.peers import path

pytestmark = [pytest.mark.peer(*packages.NEEDS), pytest.mark.timeout(900)]

KEY = """\
%no-protection
Key-Type: eddsa
Key-Curve: ed25519
Name-Real: a test of meshd
Expire-Date: 1d
%commit
"""


@pytest.fixture(scope="module")
def again(package: Path, suite: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Path]]:
    """The same, built once more while lintian looks at the first: each leaves half of a small machine idle."""
    assert package.exists()
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(packages.built, tmp_path_factory.mktemp("again"), suite)


@pytest.mark.usefixtures("again")
@pytest.mark.peer("lintian")
def test_lintian_finds_nothing(package: Path) -> None:
    argv = [path("lintian"), "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", str(package)]
    found = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_two_builds_are_the_same_bytes(package: Path, again: "Future[Path]") -> None:
    assert again.result().name == package.name
    assert again.result().read_bytes() == package.read_bytes()


@pytest.mark.peer("reprepro", "gpg")
def test_a_repository_that_apt_takes_for_good(package: Path, suite: str, tmp_path: Path) -> None:
    home, repository = tmp_path / "gnupg", tmp_path / "apt"
    home.mkdir(0o700)
    environment = {**os.environ, "GNUPGHOME": str(home)}
    gpg = [path("gpg"), "--batch", "--quiet"]
    subprocess.run([*gpg, "--gen-key"], input=KEY, text=True, env=environment, check=True, timeout=60)
    listed = subprocess.run([*gpg, "--list-keys", "--with-colons"], env=environment, check=True, capture_output=True)
    (key,) = [line.split(":")[9] for line in listed.stdout.decode().splitlines() if line.startswith("fpr:")]
    try:
        argv = [str(packages.ROOT / "packaging/deb/apt-repo"), "-k", key, "-o", str(repository)]
        argv += [*(["-s", suite] if suite else []), str(package)]
        subprocess.run(argv, env=environment, check=True, timeout=120)
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], env=environment, check=False, timeout=30)
    assert known_to_apt(repository, repository / "meshd.asc", tmp_path / "root") == "meshd"
    indexes = list(repository.glob("dists/*/main/binary-amd64/Packages*"))
    assert indexes
    for index in indexes:
        index.write_bytes(index.read_bytes() + b"\n")
    assert known_to_apt(repository, repository / "meshd.asc", tmp_path / "spoilt") == ""


def known_to_apt(repository: Path, key: Path, root: Path) -> str:
    """What packages apt finds there, with lists and sources of its own; none where the signature is not good."""
    for name in ("lists/partial", "cache/archives/partial", "sources"):
        (root / name).mkdir(parents=True)
    (codename,) = [each.name for each in (repository / "dists").iterdir()]
    (root / "sources" / "meshd.list").write_text(f"deb [signed-by={key}] file:{repository} {codename} main\n")
    (root / "status").touch()
    own = {"Etc::SourceList": "/dev/null", "Etc::SourceParts": root / "sources", "State::Lists": root / "lists"}
    own |= {"State::status": root / "status", "Cache": root / "cache"}
    options = [part for name, value in own.items() for part in ("-o", f"Dir::{name}={value}")]
    options += ["-o", "APT::Sandbox::User=root"]
    subprocess.run(["apt-get", "-qq", *options, "update"], check=False, timeout=60)
    found = subprocess.run(["apt-cache", *options, "pkgnames"], capture_output=True, text=True, check=True, timeout=60)
    return found.stdout.strip()
