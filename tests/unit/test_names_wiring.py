"""The host's resolver before, with and after the name server: below a root of the test's own."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshd.agent.names import wiring
from meshd.agent.names.settings import NamesSettings
from meshd.api.names import Address
from meshd.api.problems import Problem
from meshd.cli import cli

RANGES = NamesSettings().ranges("prod.example")
DOMAINS = ("mesh", "svc", "service.consul")
RESOLV_CONF = b"# by hand\nnameserver 192.0.2.53\nsearch example\n\noptions edns0"  # with no newline at its end
REVERSE6 = "0.0.0.0.8.e.0.1.0.2.f.9.b.0.d.f.ip6.arpa"
AT_53 = NamesSettings(listen="127.0.0.53:53")


class Machine:
    """A root with or without systemd-resolved."""

    def __init__(self, directory: Path, *, resolved: bool) -> None:
        self.root, self.state = directory / "root", directory / "state"
        self.state.mkdir()
        (self.root / "etc").mkdir(parents=True)
        self.resolv_conf, self.drop_in = self.root / wiring.RESOLV_CONF, self.root / wiring.DROP_IN
        self.resolv_conf.write_bytes(RESOLV_CONF)
        if resolved:
            (self.root / wiring.RESOLVED_RUNS).mkdir(parents=True)
        self.before = self.files()

    def files(self) -> dict[str, bytes | None]:
        found = self.root.rglob("*")
        return {str(each.relative_to(self.root)): each.read_bytes() if each.is_file() else None for each in found}

    def install(self, settings: NamesSettings) -> bool:
        return wiring.install(self.root, self.state, wiring.wanted(self.root, settings, DOMAINS, RANGES))

    def remove(self) -> bool:
        return wiring.remove(self.root, self.state) is not None


def test_resolved_asks_for_the_meshs_domains_and_no_others(tmp_path: Path) -> None:
    machine = Machine(tmp_path, resolved=True)
    assert machine.install(NamesSettings())
    reverse = " ".join(f"~{first}.in-addr.arpa" for first in range(240, 256))
    assert machine.drop_in.read_text() == (
        "# Written by `meshd names install`; `meshd names remove` removes it.\n"
        "[Resolve]\nDNS=127.0.0.1:4153\n"
        f"Domains=~mesh ~svc ~service.consul {reverse} ~{REVERSE6}\n"
    )
    assert not machine.install(NamesSettings())
    assert machine.resolv_conf.read_bytes() == RESOLV_CONF
    assert machine.install(NamesSettings(search=True))
    assert "\nDomains=mesh ~svc " in machine.drop_in.read_text()
    assert machine.remove()
    assert machine.files() == machine.before
    assert not list(machine.state.iterdir())
    assert not machine.remove()


def test_a_drop_in_that_others_changed_is_not_touched(tmp_path: Path) -> None:
    machine = Machine(tmp_path, resolved=True)
    machine.install(NamesSettings())
    machine.drop_in.write_text("[Resolve]\n")
    with pytest.raises(Problem, match="was changed after it was installed"):
        machine.remove()
    machine.drop_in.unlink()
    assert machine.remove()
    assert machine.files() == machine.before


def test_directories_that_were_there_or_are_used_stay(tmp_path: Path) -> None:
    machine = Machine(tmp_path, resolved=True)
    machine.drop_in.parent.parent.mkdir()
    machine.install(NamesSettings())
    other = machine.drop_in.with_name("other.conf")
    other.write_text("[Resolve]\n")
    machine.remove()
    assert other.exists()
    other.unlink()
    other.parent.rmdir()
    assert machine.drop_in.parent.parent.is_dir()


def test_resolv_conf_gets_a_line_before_the_others(tmp_path: Path) -> None:
    machine = Machine(tmp_path, resolved=False)
    with pytest.raises(Problem, match=r"no place for a port.*CAP_NET_BIND_SERVICE"):
        machine.install(NamesSettings())
    assert machine.install(AT_53)
    assert machine.resolv_conf.read_bytes() == b"# meshd names: nameserver\nnameserver 127.0.0.53\n" + RESOLV_CONF
    assert not machine.install(AT_53)
    assert machine.remove()
    assert machine.files() == machine.before


def test_what_others_wrote_to_resolv_conf_since_stays(tmp_path: Path) -> None:
    machine = Machine(tmp_path, resolved=False)
    machine.install(AT_53)
    machine.resolv_conf.write_bytes(b"# new\n" + machine.resolv_conf.read_bytes() + b"\noptions rotate\n")
    machine.remove()
    assert machine.resolv_conf.read_bytes() == b"# new\n" + RESOLV_CONF + b"\noptions rotate\n"


@pytest.mark.parametrize(
    ("content", "search", "message"),
    [
        (b"nameserver 192.0.2.1\n" * 3, False, "has 3 name servers"),
        (b"search example\n", True, "a `search` or `domain`"),
    ],
)
def test_a_resolv_conf_that_has_no_room_is_left_alone(
    tmp_path: Path, content: bytes, search: bool, message: str
) -> None:
    machine = Machine(tmp_path, resolved=False)
    machine.resolv_conf.write_bytes(content)
    with pytest.raises(Problem, match=message):
        machine.install(NamesSettings(listen="127.0.0.53:53", search=search))
    assert machine.resolv_conf.read_bytes() == content
    assert not list(machine.state.iterdir())


def test_a_resolv_conf_that_is_made_elsewhere_is_left_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path, resolved=False)
    machine.resolv_conf.unlink()
    machine.resolv_conf.symlink_to("../run/NetworkManager/resolv.conf")
    with pytest.raises(Problem, match=r"is a link to \.\./run/NetworkManager/resolv\.conf"):
        machine.install(AT_53)


def test_search_is_a_line_of_its_own() -> None:
    found = wiring.resolv_conf(b"", Address("127.0.0.53", 53), search=True)
    assert found == b"# meshd names: nameserver\nnameserver 127.0.0.53\n# meshd names: search\nsearch mesh\n"


def test_the_command_installs_shows_and_removes(tmp_path: Path) -> None:
    machine = Machine(tmp_path, resolved=True)
    settings = tmp_path / "meshd.yaml"
    settings.write_text(f"trustDomain: prod.example\nnode: vm1\nstateDir: {machine.state}\n")
    (machine.state / "names.json").write_text(
        '{"version": 1, "names": [["web.shop.mesh", "240.0.0.7", "", 5.0], ["api.mesh", "240.0.0.8", "fd00::8", 6.0]]}'
    )

    def meshd(verb: str, *words: str) -> Result:
        argv = ["names", verb, "--config", str(settings), "--root", str(machine.root), *words]
        return CliRunner().invoke(cli, argv, catch_exceptions=False)

    assert "the resolver does not ask there" in meshd("show").output
    assert meshd("install").output == f"wrote {machine.drop_in}\n"
    assert meshd("install").output == f"{machine.drop_in} is as it is to be already\n"
    assert meshd("show").output == (
        f"127.0.0.1:4153: mesh, svc, svc.cluster.local\nthe resolver asks there: {machine.drop_in}\n\n"
        "NAME           ADDRESS    IPV6\n"
        "api.mesh       240.0.0.8  fd00::8\n"
        "web.shop.mesh  240.0.0.7  -\n"
    )
    assert '"usedAt": 5.0' in meshd("show", "-o", "json").output
    assert meshd("remove").output == f"removed {machine.drop_in}\n"
    assert meshd("remove").output == "nothing is installed\n"
    assert machine.files() == machine.before
