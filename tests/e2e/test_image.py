"""The image for clusters: what is in it, and that all of it runs as it is run there, read-only and with no shell."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clusters import APPLICATIONS_USER, PROGRAMS, SUPPORT
from tests.support.images import NEEDS, Image, image
from tests.support.real_cluster import RealCluster

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to build and enter it"),
    pytest.mark.peer(*NEEDS),
    pytest.mark.timeout(1800),
]

NOT_THERE = {"sh", "bash", "dash", "busybox", "perl", "apt-get", "dpkg", "pip", "pip3", "cc", "gcc", "ld", "as", "make"}
MOST_MB = 320
"""Of all files; most are libraries' own, above all the client of Kubernetes."""


@pytest.fixture(scope="module")
def built() -> Iterator[Image]:
    with image() as made:
        yield made


def files(built: Image) -> Iterator[tuple[Path, os.stat_result]]:
    for directory, _, names in os.walk(built.root):
        for name in names:
            yield Path(directory, name), os.lstat(os.path.join(directory, name))


def test_what_is_in_it(built: Image) -> None:
    there = dict(files(built))
    assert {path.name for path in there} & NOT_THERE == set()
    assert not [path for path in there if path.suffix in {".a", ".h", ".c"}]
    assert not [path for path, found in there.items() if found.st_uid or found.st_gid]
    odd = stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH
    assert not [path for path, found in there.items() if found.st_mode & odd and not stat.S_ISLNK(found.st_mode)]
    size = sum(found.st_size for found in there.values()) / 1e6
    assert size < MOST_MB
    for package in ("libc6", "libssl3", "nftables", "iptables"):
        assert (built.root / "var/lib/dpkg/status.d" / package).read_text().startswith("Package: ")
        assert (built.root / "usr/share/doc" / package / "copyright").exists()


def test_who_runs_it(built: Image) -> None:
    assert built.configuration["User"] == "2102:2102"
    assert built.configuration["Entrypoint"] == ["/usr/bin/meshd"]
    assert "PATH=/usr/bin:/usr/sbin" in built.configuration["Env"]
    assert built.configuration["Labels"]["org.opencontainers.image.version"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("meshd version", "meshd 0."),
        ("meshd install", "kind: Deployment"),
        ("meshd ca serve --help", "Usage: meshd ca serve"),
        ("meshd controller --help", "Usage: meshd controller"),
        ("meshd-proxy --help", "usage: meshd-proxy"),
        ("meshd-init --dry-run", "table inet meshd"),
        ("meshd-init --dry-run --mode iptables-legacy", "MESHD_OUTBOUND"),
        ("meshd-await --help", "usage: meshd-await"),
    ],
)
def test_programs(built: Image, command: str, says: str) -> None:
    done = built.runs(*command.split())
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


@pytest.mark.parametrize("mode", ["nft", "iptables-nft"])
def test_a_pods_rules(built: Image, mode: str) -> None:
    done = built.runs("meshd-init", "--mode", mode, user=0)
    assert (done.returncode, done.stderr) == (0, f"connections of this pod are led to its proxy, by {mode}\n")


def test_everything_is_compiled(built: Image) -> None:
    """Else it were compiled anew at each start: where it runs, nothing can be kept."""
    there = {path for path, _ in files(built)}
    compiled = {(path.parent.parent, path.name.partition(".")[0]) for path in there if path.suffix == ".pyc"}
    sources = [path for path in there if path.suffix == ".py"]
    assert len(sources) > 1000
    assert [path for path in sources if (path.parent, path.stem) not in compiled] == []


ASKS_ITSELF = """
import pathlib, subprocess, sys
for name, text in {programs}.items():
    pathlib.Path("/tmp", name).write_text(text)
serves = subprocess.Popen([sys.executable, "/tmp/tier.py", "emoji", "--grpc", "8080"])
while subprocess.run([sys.executable, "/tmp/tier.py", "--ask", "grpc://127.0.0.1:8080"], stderr=-3).returncode:
    assert serves.poll() is None
serves.kill()
"""


def test_applications_of_tests_run_in_it(built: Image) -> None:
    """As they do at a real cluster: by its Python and its libraries, as a user that is not the sidecar's."""
    programs = {name: (SUPPORT / "programs" / name).read_text() for name in PROGRAMS}
    done = built.runs(RealCluster.python, "-c", ASKS_ITSELF.format(programs=programs), user=APPLICATIONS_USER)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert json.loads(done.stdout)["name"] == "emoji"


def test_a_mesh_in_it(built: Image) -> None:
    """With certificates, proxies and requests, all by what is in the image."""
    done = built.runs("meshd", "demo", "--duration", "2s", "--json")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert json.loads(done.stdout)
