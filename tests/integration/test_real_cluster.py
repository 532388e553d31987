"""What the tests do to a real cluster besides what they do to a played one: at which they do not run, and what they
leave behind. At the double of an API server, by the real kubectl; and what the applications speak there."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import aio
from tests.support.installs import World, at
from tests.support.ports import free_ports
from tests.support.processes import running
from tests.support.real_cluster import RealCluster, Unfit, namespaces
from tests.support.waiting import wait_until

PROGRAM = Path(__file__).parents[1] / "support" / "programs" / "tier.py"
WITHOUT_GRPCIO = f"import runpy, sys; sys.modules['grpc'] = None; sys.path.insert(0, {str(PROGRAM.parent)!r}); " + (
    f"sys.argv[0] = {str(PROGRAM)!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
)
TIERS = {"grpcio": [sys.executable, str(PROGRAM)], "unary": [sys.executable, "-c", WITHOUT_GRPCIO]}


@pytest.mark.peer("kubectl")
def test_clusters_that_are_somebodys_are_refused_and_what_was_made_goes(tmp_path: Path) -> None:
    world = World(tmp_path)

    def scene() -> None:
        made = RealCluster(tmp_path, tmp_path / "kubeconfig", "registry.example/meshd:1")
        made.refuse_what_is_unfit()
        nothing = made.kubectl("get", "namespaces,clusterroles,clusterrolebindings,crd", "-o", "name")
        for name in ("shop", "emojivoto", "store"):
            made.applies(name)
        with pytest.raises(Unfit, match="has what these tests would make: namespace/emojivoto, namespace/shop"):
            made.refuse_what_is_unfit()
        made.types("meshd install | kubectl apply -f -")
        made.applies("todo")
        made.applies("once")
        with pytest.raises(Unfit, match=r"there is a mesh in the cluster of .*/kubeconfig already: mutating"):
            made.refuse_what_is_unfit()
        assert made.find("job", "todo", "once")["spec"]["template"]["spec"]["containers"][0]["image"] == made.image
        made.clear()
        assert made.kubectl("get", "namespaces,clusterroles,clusterrolebindings,crd", "-o", "name") == nothing
        made.refuse_what_is_unfit()
        made.image = ""
        with pytest.raises(Unfit, match="MESHD_TEST_IMAGE is not set"):
            made.refuse_what_is_unfit()

    aio.run(at(world, scene))
    (tmp_path / "away").mkdir()
    away = RealCluster(tmp_path / "away", tmp_path / "kubeconfig", "registry.example/meshd:1")
    with pytest.raises(Unfit, match=r"kubeconfig cannot be reached: .*refused"):
        away.refuse_what_is_unfit()


def test_namespaces_are_the_applications_and_the_control_planes() -> None:
    assert namespaces() == ["emojivoto", "shop", "store", "todo", "meshd"]


@pytest.fixture(scope="module")
def tiers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """A server of each, and its port."""
    directory, ports = tmp_path_factory.mktemp("tiers"), dict(zip(TIERS, free_ports(len(TIERS)), strict=True))
    with contextlib.ExitStack() as held:
        for name, argv in TIERS.items():
            serves = [*argv, name, "--grpc", str(ports[name])]
            held.enter_context(running(serves, directory / f"{name}.log", lambda: True))
        yield ports


@pytest.mark.parametrize("client", TIERS)
@pytest.mark.parametrize("server", TIERS)
def test_applications_speak_grpc_with_its_library_and_without(tiers: dict[str, int], server: str, client: str) -> None:
    def asked() -> subprocess.CompletedProcess[str]:
        argv = [*TIERS[client], "--ask", f"grpc://127.0.0.1:{tiers[server]}"]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)

    done = wait_until(lambda: found if (found := asked()).returncode == 0 else None, f"{server} answers", 60.0)
    assert done is not None
    assert json.loads(done.stdout) == {"name": server, "caller": "", "behind": []}
