"""What is believed of a service that a registry said something of, then something else, then nothing."""

import pytest

from discovery.followed import Followed
from discovery.source import NOT_YET, Answer
from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName

WEB = ServiceName("web", "default", 80)
ONE = EndpointSet(WEB, (Endpoint("192.0.2.1", 8080),))
TWO = EndpointSet(WEB, (Endpoint("192.0.2.1", 8080), Endpoint("192.0.2.2", 8080)))
NONE_LEFT = EndpointSet(WEB)


class Rig:
    def __init__(self, keep_s: float = float("inf"), good: EndpointSet | None = None) -> None:
        self.now = 1000.0
        self.service = Followed(("web",), "registry", keep_s, lambda: self.now, good, 900.0 if good else 0.0)
        self.told: list[Answer] = []
        self.service.watch(self.told.append)

    @property
    def last(self) -> str:
        """How many endpoints were told of last, and with ! when they are stale."""
        answer = self.told[-1]
        if not isinstance(answer, EndpointSet):
            return str(answer)
        return f"{len(answer.endpoints)}{'!' if answer.stale else ''}"


def test_what_is_read_is_told_once_and_says_whose_it_is() -> None:
    rig = Rig()
    assert rig.told == []
    assert rig.service.heard(ONE)
    assert not rig.service.heard(ONE)
    assert rig.service.heard(TWO)
    assert [len(each.endpoints) for each in rig.told if isinstance(each, EndpointSet)] == [1, 2]
    assert all(isinstance(each, EndpointSet) and each.source == "registry" and not each.stale for each in rig.told)


def test_nothing_can_be_said_before_it_was_read() -> None:
    rig = Rig()
    rig.service.lost("no route to host")
    assert rig.told == [NOT_YET]
    rig.service.heard(None)
    assert rig.told == [NOT_YET, None]


def test_what_there_never_was_goes_on_not_being_there_while_the_registry_is_away() -> None:
    rig = Rig()
    rig.service.heard(None)
    rig.service.lost("no route to host")
    assert rig.told == [None]


def test_what_was_good_is_stale_while_the_registry_is_away_and_fresh_again_when_it_is_back() -> None:
    rig = Rig()
    seen = []
    for step in (lambda: rig.service.heard(TWO), lambda: rig.service.lost("gone"), lambda: rig.service.heard(TWO)):
        step()
        seen.append((rig.last, rig.service.stale))
    assert seen == [("2", False), ("2!", True), ("2", False)]


@pytest.mark.parametrize("said", [NONE_LEFT, None])
def test_that_nothing_is_left_is_doubted(said: EndpointSet | None) -> None:
    rig = Rig()
    rig.service.heard(TWO)
    rig.service.heard(said)
    assert rig.last == "2!"
    rig.service.heard(ONE)
    assert rig.last == "1"


@pytest.mark.parametrize(("said", "then"), [(NONE_LEFT, "0"), (None, "None")])
def test_that_nothing_is_left_is_believed_after_a_time_that_was_set(said: EndpointSet | None, then: str) -> None:
    rig = Rig(keep_s=60.0)
    rig.service.heard(TWO)
    rig.service.heard(said)
    rig.now += 59.0
    rig.service.heard(said)
    assert rig.last == "2!"
    rig.now += 1.0
    rig.service.tell()
    assert rig.last == then


def test_a_registry_that_stays_away_is_waited_for_no_longer_than_was_set() -> None:
    rig = Rig(keep_s=60.0)
    rig.service.heard(TWO)
    rig.service.lost("gone")
    rig.now += 60.0
    rig.service.tell()
    assert rig.last == "0!"
    rig.service.heard(TWO)
    assert rig.last == "2"


def test_the_time_begins_with_the_first_doubt_and_not_with_each() -> None:
    rig = Rig(keep_s=60.0)
    rig.service.heard(TWO)
    for _ in range(7):
        rig.service.lost("gone")
        rig.now += 10.0
    rig.service.tell()
    assert rig.last == "0!"


def test_what_is_known_from_before_is_told_at_once_and_stale() -> None:
    rig = Rig(good=TWO)
    assert rig.last == "2!"
    rig.service.lost("gone")
    assert rig.last == "2!"
    assert len(rig.told) == 1
    rig.service.heard(TWO)
    assert rig.last == "2"


def test_who_watches_later_is_told_what_is_known_and_who_left_is_not() -> None:
    rig = Rig()
    rig.service.heard(ONE)
    late: list[Answer] = []
    close = rig.service.watch(late.append)
    assert late == rig.told
    close()
    close()
    rig.service.heard(TWO)
    assert len(late) == 1
    assert rig.service.watchers == 1


def test_who_leaves_in_the_middle_of_a_round_is_not_told() -> None:
    rig = Rig()
    late: list[Answer] = []
    closes = [rig.service.watch(lambda _: closes[1]()), rig.service.watch(late.append)]
    rig.service.heard(ONE)
    assert late == []


def test_an_endpoint_is_found_by_its_address_also_when_it_is_stale() -> None:
    rig = Rig()
    assert rig.service.at("192.0.2.1", 8080) is None
    rig.service.heard(ONE)
    assert rig.service.at("192.0.2.1", 8080) == ONE.endpoints[0]
    assert rig.service.at("192.0.2.2", 8080) is None
    rig.service.heard(TWO)
    rig.service.lost("gone")
    assert rig.service.at("192.0.2.2", 8080) == TWO.endpoints[1]
