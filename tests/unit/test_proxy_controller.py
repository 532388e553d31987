"""The way of a sidecar to its controller: what the environment must say, and when a certificate is shown."""

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from meshd.api.control import Attach, SignCertificate
from meshd.api.problems import Misuse
from proxy.controller import (
    MAX_SILENT,
    POD,
    REPLACE_AGAIN_S,
    TOKEN_FILE,
    TRUST_ANCHORS,
    TRUST_DOMAIN,
    ControllerWay,
    place,
)
from proxy.mesh.tls import Held
from proxy.ways import Ending, NoWay
from tests.support.certificates import Root, identity

ROOT = Root()
HELD = ROOT.held(identity("web"))
GOOD = {TRUST_DOMAIN: "mesh.example", TRUST_ANCHORS: ROOT.bundle_pem, POD: "shop/web-1"}


def test_the_environment_says_where_and_who_the_controller_is() -> None:
    found = place("controller.meshd.svc:8086", GOOD)
    assert str(found.identity) == "spiffe://mesh.example/ns/meshd/sa/meshd-controller"
    elsewhere = place("meshd-controller.mesh.svc.k8s.example:8086", GOOD)
    assert str(elsewhere.identity) == "spiffe://mesh.example/ns/mesh/sa/meshd-controller"
    assert str(found.token_file) == "/var/run/secrets/meshd.io/token/token"
    other = {"MESHD_PROXY_CONTROLLER_IDENTITY": "spiffe://mesh.example/ns/mesh/sa/control"}
    assert str(place("192.0.2.1:1", GOOD | other).identity) == "spiffe://mesh.example/ns/mesh/sa/control"


@pytest.mark.parametrize(
    ("address", "changes", "trouble"),
    [
        ("nowhere", {}, "'nowhere' is not HOST:PORT"),
        ("a:1", {TRUST_DOMAIN: ""}, "MESHD_PROXY_TRUST_DOMAIN: '' is not DNS labels"),
        ("a:1", {TRUST_ANCHORS: "none"}, "MESHD_PROXY_TRUST_ANCHORS: no certificates"),
        ("a:1", {POD: "web-1"}, "MESHD_PROXY_POD: 'web-1' is not NAMESPACE/NAME"),
        ("a:1", {"MESHD_PROXY_CONTROLLER_IDENTITY": "x"}, "MESHD_PROXY_CONTROLLER_IDENTITY: 'x' is not spiffe"),
    ],
)
def test_what_is_wrong_with_the_environment_is_said(address: str, changes: dict[str, str], trouble: str) -> None:
    with pytest.raises(Misuse, match=trouble.replace("(", r"\(")):
        place(address, GOOD | changes)


class Way(ControllerWay):
    """One whose proxy holds what the test says; `asked_for` are the certificates that another was wanted for."""

    def __init__(self, tmp_path: Path, now: float = 0.0) -> None:
        self.holds: Held | None = None
        self.asked_for: list[Held] = []
        self.now = now or HELD.certificate.not_before + 1.0
        token = tmp_path / "token"
        token.write_text("a.b.c\n")
        where = place("192.0.2.1:1", GOOD | {TOKEN_FILE: str(token)})
        super().__init__(where, lambda: self.holds, self.asked_for.append, lambda: self.now, lambda: self.now)

    async def _replicas(self) -> list[tuple[str, int]]:
        return []

    def begin(self) -> None:
        """A connection as it would be made now, but to nobody."""
        with pytest.raises(NoWay, match="it has no address"):
            asyncio.run(self.connect())


def test_the_token_is_shown_before_there_is_a_certificate_and_read_each_time(tmp_path: Path) -> None:
    way = Way(tmp_path)
    way.begin()
    assert [way.can_prove, way.proven] == [False, False]
    asked = way.attach("1")
    assert (asked.token, asked.pod) == ("a.b.c", "shop/web-1")
    (tmp_path / "token").write_text("d.e.f")
    assert way.sign("shop/web", "csr").token == "d.e.f"
    way.holds = HELD
    assert [way.can_prove, way.proven] == [True, False]  # that connection does not
    way.begin()
    assert [way.can_prove, way.proven] == [True, True]
    assert way.attach("1").token == ""
    (tmp_path / "token").write_text("")
    with pytest.raises(NoWay, match="is empty"):
        way.sign("shop/web", "csr")
    (tmp_path / "token").unlink()
    with pytest.raises(NoWay, match="cannot be read: No such file"):
        way.sign("shop/web", "csr")


def test_no_token_is_in_what_is_said_of_a_call() -> None:
    calls = (Attach("1", "instance", "e.y.j", "shop/web-1"), SignCertificate("shop/web", "csr", "e.y.j"))
    assert "e.y.j" not in repr(calls)
    assert "instance" not in repr(calls)


def test_a_certificate_that_has_expired_is_as_none(tmp_path: Path) -> None:
    way = Way(tmp_path)
    way.holds, way.now = HELD, HELD.certificate.not_after
    way.begin()
    assert (way.proven, way.can_prove) == (False, False)


def test_a_certificate_that_is_not_taken_is_not_shown_again(tmp_path: Path) -> None:
    way = Way(tmp_path)
    way.holds = HELD
    way.begin()
    way.ended(Ending(spoken=True))
    way.begin()
    assert way.proven is True
    way.ended(Ending(spoken=False, rejected=True))
    assert way.asked_for == [HELD]
    way.begin()
    assert (way.proven, way.can_prove) == (False, False)
    way.holds = ROOT.held(identity("web"))
    way.begin()
    assert way.proven is True


def test_connections_that_end_without_a_word_are_taken_for_a_rejection_in_the_end(tmp_path: Path) -> None:
    """A controller that is killed ends them so too: not every such end is to cost a certificate."""
    way = Way(tmp_path)
    way.holds = HELD
    for _ in range(MAX_SILENT - 1):
        way.begin()
        way.ended(Ending(spoken=False))
    assert not way.asked_for
    way.begin()
    way.ended(Ending(spoken=False))
    assert way.asked_for == [HELD]


def test_a_controller_that_takes_no_certificate_is_not_shown_one_after_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its clock is behind: a new one would be signed a second else, for each sidecar there is."""
    way = Way(tmp_path)
    begun, every_s, asked_at = way.now, 10, list[float]()
    way.holds = HELD

    async def main() -> None:
        for second in range(0, 2400, every_s):
            if len(way.asked_for) > len(asked_at):
                asked_at.append(way.now - begun)
                way.holds = Held(*HELD)  # another
            way.now = begun + second
            with pytest.raises(NoWay):
                await way.connect()
            way.ended(Ending(spoken=not way.proven))

    asyncio.run(main())
    assert asked_at[0] <= MAX_SILENT * every_s
    pauses = [after - before for before, after in pairwise(asked_at)]
    least_s, most_s = REPLACE_AGAIN_S
    assert pauses == pytest.approx([least_s, 2 * least_s, 4 * least_s, 8 * least_s, most_s, most_s], abs=2 * every_s)
    assert caplog.text.count("compare the clocks") == len(asked_at)


def test_another_certificate_is_asked_for_at_once_where_the_last_was_taken(tmp_path: Path) -> None:
    way = Way(tmp_path)
    for number in range(1, 4):
        way.holds = ROOT.held(identity("web"))
        way.begin()
        way.ended(Ending(spoken=True))
        way.begin()
        way.ended(Ending(spoken=False, rejected=True))
        assert len(way.asked_for) == number


def test_a_certificate_that_was_not_taken_is_shown_again_after_a_while(tmp_path: Path) -> None:
    """It was the controllers, and there may be nobody who signs another."""
    way = Way(tmp_path)
    way.holds = HELD
    way.begin()
    way.ended(Ending(spoken=False, rejected=True))
    assert not way.can_prove
    way.now += REPLACE_AGAIN_S[0]
    assert way.can_prove


def test_no_other_certificate_is_asked_for_where_there_is_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The connection ended with the certificate that it was made with."""
    way = Way(tmp_path)
    way.holds = HELD
    way.begin()
    way.holds = ROOT.held(identity("web"))
    way.ended(Ending(spoken=True, rejected=True))
    assert (way.asked_for, way.can_prove, caplog.records) == ([], True, [])
