"""How often one may ask: buckets over a clock of the test's, and what they are kept by."""

from collections.abc import Callable
from pathlib import Path

import pytest

from meshd.api.loading import ConfigurationError
from meshd.ca.rates import Rate, Rates, TooOften
from meshd.ca.requester import AnyWorkload, Joining, OfNode, Requester
from meshd.ca.settings import CaDaemonSettings, LimitSettings, load
from tests.support.stores import join_token


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(rate: Rate, key: str, most: int = 100) -> int:
    """How many there is room for at once."""
    count = 0
    while not rate.wait_s(key) and count < most:
        rate.take(key)
        count += 1
    return count


def test_a_burst_is_let_through_and_then_so_many_a_second() -> None:
    clock = Clock()
    rate = Rate(2.0, 5, clock)
    assert taken(rate, "vm1") == 5
    assert rate.wait_s("vm1") == pytest.approx(0.5)
    clock.now += 0.5
    assert taken(rate, "vm1") == 1
    clock.now += 2.0
    assert taken(rate, "vm1") == 4
    assert taken(rate, "vm2") == 5
    clock.now += 3600
    assert taken(rate, "vm1") == 5


def test_who_asks_on_does_not_wait_the_longer_for_it() -> None:
    clock = Clock()
    rate = Rate(1.0, 1, clock)
    for _ in range(100):
        rate.take("vm1")
    assert rate.wait_s("vm1") == pytest.approx(1.0)


def test_the_one_idle_longest_is_forgotten_first() -> None:
    rate = Rate(1.0, 1, Clock(), max_keys=2)
    for key in ("a", "b", "a", "c"):
        rate.take(key)
    assert rate.wait_s("a") > 0
    assert rate.wait_s("c") > 0
    assert rate.wait_s("b") == 0


NODE = Requester("node vm1", OfNode("vm1", lambda _: ()), "192.0.2.1", node="vm1")
TOKEN = Requester("token t1", Joining(join_token()), "192.0.2.1", token=join_token())
SHARED = Requester("shared token", AnyWorkload(""), "192.0.2.1")


@pytest.mark.parametrize(
    ("first", "same", "other"),
    [
        (NODE, Requester("node vm1", NODE.grant, "192.0.2.2", node="vm1"), Requester("", NODE.grant, node="vm2")),
        (TOKEN, TOKEN, Requester("", TOKEN.grant, token=join_token("t2"))),
        (SHARED, SHARED, Requester("", SHARED.grant, "192.0.2.2")),
    ],
    ids=["node", "token", "address"],
)
def test_each_is_counted_by_what_it_is_known_by(first: Requester, same: Requester, other: Requester) -> None:
    rates = Rates(LimitSettings(node_burst=1, token_burst=1, address_burst=1), Clock())
    rates.admit(first, "/v1/sign")
    with pytest.raises(TooOften, match=f"too many requests of {same}: again in 1 s"):
        rates.admit(same, "/v1/sign")
    rates.admit(other, "/v1/sign")
    rates.admit(same, "/v1/jwt")  # tokens do not use up certificates


def test_an_address_that_proves_nothing_is_not_heard_for_a_while() -> None:
    clock = Clock()
    rates = Rates(LimitSettings(failure_burst=2, failure_per_second=0.1), clock)
    for _ in range(2):
        rates.hear("192.0.2.1")
        rates.failed("192.0.2.1")
    with pytest.raises(TooOften) as refused:
        rates.hear("192.0.2.1")
    assert refused.value.after_s == 10
    rates.hear("192.0.2.2")
    clock.now += 10
    rates.hear("192.0.2.1")


# --- the settings that say it


def test_settings_are_read_and_need_not_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ca.yaml"
    file.write_text("limits: {nodePerSecond: 2.5, nodeBurst: 7}\n")
    assert load(file).limits == LimitSettings(node_per_second=2.5, node_burst=7)
    file.write_text("# nothing\n")
    assert load(file) == CaDaemonSettings()
    monkeypatch.setattr("meshd.ca.settings.SETTINGS_FILE", str(tmp_path / "none.yaml"))
    assert load(tmp_path / "none.yaml") == CaDaemonSettings()


def absent(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (absent, r"ca\.yaml: cannot be read"),
        (lambda file: file.write_text("limits: {nodePerSecond: 0}"), r"limits\.nodePerSecond: expected `float` > 0"),
        (lambda file: file.write_text("limits: {nodeBurst: 0}"), r"limits\.nodeBurst: expected `int` >= 1"),
        (lambda file: file.write_text("limit: {}"), "unknown field `limit`"),
        (lambda file: file.write_text("limits: {}\n---\nlimits: {}"), "document 2: settings are one document"),
    ],
)
def test_settings_that_are_wrong_are_said_so(tmp_path: Path, write: Callable[[Path], object], said: str) -> None:
    (tmp_path / "ca.yaml").touch()
    write(tmp_path / "ca.yaml")
    with pytest.raises(ConfigurationError, match=said):
        load(tmp_path / "ca.yaml")
