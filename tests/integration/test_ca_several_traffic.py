"""Two CAs on one Consul, and agents that know both: one root follows the other, and a CA is lost, under traffic."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration.test_ca_rotation import Handshakes, Mesh, believed, roots, up
from tests.integration.test_proxy_process import Load
from tests.support.cas import CaHost, several
from tests.support.consul import Consul, agent
from tests.support.waiting import wait_until

pytestmark = pytest.mark.peer("consul")

WAIT_S = 60.0


class SharedMesh(Mesh):
    """Whose hosts join at the second CA, and are told of the first one too."""

    def __init__(self, directory: Path, consul: Consul) -> None:
        self._consul = consul
        self.cas: list[CaHost] = []
        super().__init__(directory)

    def make(self) -> None:
        (self.directory / "cas").mkdir()
        self.cas = several(self._consul, self.directory / "cas")
        self.state, self.port = self.cas[0].state, self.cas[1].port

    def ca(self, *arguments: str) -> str:
        return self.cas[0].says(*arguments)

    def known(self, settings: str) -> str:
        first, second = self.cas
        asked = f'url: "{second.url}"'
        assert asked in settings
        return settings.replace(asked, f"urls: ['{second.url}', '{first.url}']")

    @contextmanager
    def serves(self) -> Iterator[None]:
        with ExitStack() as stack:
            for each in self.cas:
                stack.enter_context(each.serves())
            yield


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[SharedMesh]:
    with agent() as consul, up(SharedMesh(tmp_path, consul)) as made:
        assert isinstance(made, SharedMesh)
        yield made


def test_a_root_is_replaced_with_two_cas_and_one_is_lost_and_nothing_fails(mesh: SharedMesh) -> None:
    (old,) = roots(mesh)
    first, second = mesh.cas
    with Load(mesh.http, 2) as load, Handshakes(mesh.raw) as handshakes:
        mesh.ca("rotate", "root", "--settle", "1s", "--renew-within", "1s")
        mesh.comes_to("active")
        second.kill()  # where the agents asked first: what they still have to renew they do at the other one
        mesh.comes_to("done")
        (new,) = roots(mesh)
        assert new != old
        hosts = (mesh.web, mesh.api)
        wait_until(lambda: all(believed(host) == new for host in hosts), "all believe the new root alone", WAIT_S)
        before = len(handshakes)
        wait_until(lambda: len(handshakes) >= before + 5, "handshakes with the new root alone", WAIT_S)
        with second.serves():  # which was off as the old root was withdrawn
            assert second.says("bundle") == first.says("bundle") == new
    assert (load.errors, handshakes.errors) == ([], [])
    stages = re.findall(r"root: (\w+) since", (first.state / "audit.log").read_text())
    assert stages == ["prepared", "active", "done"]
    assert "issued spiffe://prod.example/ns/default/sa/web" in first.log.read_text()
