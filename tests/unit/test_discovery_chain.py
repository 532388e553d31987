"""Several sources as one: the order in which they are believed, and what a source that is slow to answer holds back."""

from collections.abc import Iterator

import pytest

from discovery.chain import Chain, Named
from discovery.names import Authority
from discovery.source import Answered, Close, Known, Listed
from discovery.virtual import Told
from meshd.api.control import Health
from meshd.api.endpoints import EndpointSet, ServiceName

WEB = Authority.parse("web", "default")


def known_by(source: str) -> EndpointSet:
    """An answer that says whose it is."""
    return EndpointSet(ServiceName(source, "default", 80))


class Remote:
    """A source that answers when the test lets it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.watching: list[Answered] = []

    def watch(self, authority: Authority, answered: Answered) -> Close:
        assert authority == WEB
        self.watching.append(answered)
        return lambda: self.watching.remove(answered)

    def health(self) -> Health:
        return Health(self.name, healthy=True)

    def known(self) -> Known:
        return Known()

    def listed(self) -> Iterator[Listed]:
        return iter(())

    def finds(self) -> None:
        for answered in self.watching:
            answered(known_by(self.name))

    def finds_nothing(self) -> None:
        for answered in self.watching:
            answered(None)


class Followed:
    """A chain of two, and what the one watch over it was told, by the name of the source."""

    def __init__(self) -> None:
        self.first, self.second = Remote("first"), Remote("second")
        self.told: list[str | None] = []
        self.chain = Chain((Named("first", self.first), Named("second", self.second)))
        self.close = self.chain.watch(WEB, self._hears)

    def _hears(self, found: EndpointSet | None) -> None:
        self.told.append(None if found is None else found.service.name)


@pytest.fixture
def followed() -> Followed:
    return Followed()


def test_the_first_that_knows_answers(followed: Followed) -> None:
    followed.first.finds()
    followed.second.finds()
    assert followed.told == ["first"]


def test_a_source_that_has_not_answered_holds_back_those_after_it(followed: Followed) -> None:
    followed.second.finds()
    assert followed.told == []
    followed.first.finds_nothing()
    assert followed.told == ["second"]


def test_nothing_is_known_only_when_no_source_knows(followed: Followed) -> None:
    followed.first.finds_nothing()
    assert followed.told == []
    followed.second.finds_nothing()
    assert followed.told == [None]


def test_the_answer_moves_with_what_sources_learn(followed: Followed) -> None:
    followed.first.finds_nothing()
    followed.second.finds()
    followed.first.finds()
    followed.first.finds_nothing()
    followed.second.finds_nothing()
    assert followed.told == ["second", "first", "second", None]


def test_the_same_answer_is_not_told_again(followed: Followed) -> None:
    followed.first.finds()
    followed.first.finds()
    followed.second.finds_nothing()
    assert followed.told == ["first"]


def test_closing_closes_every_source_s_watch(followed: Followed) -> None:
    followed.close()
    assert (followed.first.watching, followed.second.watching) == ([], [])


def test_no_sources_know_nothing() -> None:
    told: list[EndpointSet | None] = []
    Chain(()).watch(WEB, told.append)
    assert told == [None]


VIRTUAL = Authority.parse("240.0.0.7:8080", "default")


class Addresses:
    """One virtual address, that of the test, and who watches it."""

    def __init__(self) -> None:
        self.stands_for = ""
        self.watching: list[Told] = []

    def owns(self, address: str) -> bool:
        return address == VIRTUAL.address

    def host(self, address: str) -> str:
        return self.stands_for

    def watch(self, address: str, told: Told) -> Close:
        self.watching.append(told)
        told(self.stands_for)
        return lambda: self.watching.remove(told)

    def stand_for(self, host: str) -> None:
        self.stands_for = host
        for told in self.watching:
            told(host)


class Asked(Remote):
    """A source that is asked for anything."""

    def __init__(self) -> None:
        super().__init__("asked")
        self.authorities: list[Authority] = []

    def watch(self, authority: Authority, answered: Answered) -> Close:
        self.authorities.append(authority)
        self.watching.append(answered)
        return lambda: self.watching.remove(answered)


def test_a_virtual_address_is_the_service_it_stands_for_and_no_source_is_asked_for_the_address() -> None:
    addresses, source = Addresses(), Asked()
    chain = Chain((Named("asked", source),), addresses)
    told: list[EndpointSet | None] = []
    nobody = EndpointSet(ServiceName("240.0.0.7", "virtual", 8080))

    close = chain.watch(VIRTUAL, told.append)
    assert (told, source.authorities) == ([nobody], []), "it stands for nothing, and nothing outside is reached there"
    addresses.stand_for("web.shop.mesh")
    assert source.authorities == [Authority("web.shop.mesh", 8080, "default")]
    assert told == [nobody], "nothing is said yet"
    source.finds()
    assert told == [nobody, known_by("asked")]
    source.finds_nothing()
    assert told == [nobody, known_by("asked"), nobody], "a service that is not there has nobody, and is not outside"
    close()
    assert not source.watching
    assert not addresses.watching


def test_a_look_at_a_virtual_address_is_one_at_its_service() -> None:
    addresses, source = Addresses(), Asked()
    chain = Chain((Named("asked", source),), addresses)
    assert chain.look(VIRTUAL, lambda: None).found is None
    addresses.stand_for("web.shop.mesh")
    look = chain.look(VIRTUAL, lambda: None)
    source.finds()
    assert look.found == known_by("asked")
    look.close()
    assert not source.watching


def test_other_addresses_are_the_sources_to_know() -> None:
    source = Asked()
    Chain((Named("asked", source),), Addresses()).watch(Authority.parse("192.0.2.1:80", "default"), lambda _: None)
    assert [each.address for each in source.authorities] == ["192.0.2.1"]
