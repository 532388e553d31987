"""Destinations that many follow: asked of discovery once, and said in the same bytes to all who know the same."""

from collections.abc import Callable
from typing import Any

import pytest

from discovery.chain import Chain, Named
from discovery.names import Authority
from discovery.source import Answered, Known
from k8s.controller.destinations import Destinations
from meshd.agent.registry import Unacceptable
from meshd.api.control import Destination, DestinationChange, Health
from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName
from meshd.api.names import WorkloadName
from tests.support.outboxes import Box

API = Authority.parse("api", "shop")
WEB, OTHER = WorkloadName("shop", "web"), WorkloadName("other", "web")


class Source:
    """Discovery, in the hands of the test."""

    def __init__(self) -> None:
        self.watching: list[Answered] = []

    def watch(self, authority: Authority, answered: Answered) -> Callable[[], None]:
        self.watching.append(answered)
        return lambda: self.watching.remove(answered)

    def say(self, *hosts: int) -> None:
        endpoints = tuple(Endpoint(f"192.0.2.{host}", 80) for host in hosts)
        for answered in self.watching:
            answered(EndpointSet(ServiceName("api", "shop", 80), endpoints))

    def health(self) -> Health:
        return Health("test", healthy=True)

    def known(self) -> Known:
        return Known()

    def listed(self) -> Any:
        return iter(())


def world(most: int = 10, of_a_workload: int = 10) -> tuple[Source, Destinations]:
    source = Source()
    return source, Destinations(Chain([Named("test", source)]), most, of_a_workload)


def test_one_watch_of_discovery_serves_all_and_ends_with_the_last() -> None:
    source, destinations = world()
    boxes = [Box(), Box()]
    ends = [destinations.watch(WEB, API, box, 1, differences=True) for box in boxes]
    assert (len(source.watching), len(destinations), destinations.watches) == (1, 1, 2)
    assert [box.read() for box in boxes] == [[], []]
    source.say(1, 2, 3)
    assert boxes[0].read() == boxes[1].read()
    assert boxes[0].said == boxes[1].said
    ends[0]()
    ends[0]()
    assert (len(source.watching), destinations.watches) == (1, 1)
    source.say(1)
    assert boxes[0].read() == []
    ends[1]()
    assert (len(source.watching), len(destinations), destinations.watches) == (0, 0, 0)


def test_who_missed_a_change_is_told_all_and_who_came_late_too() -> None:
    source, destinations = world()
    prompt, slow, plain, late = Box(), Box(), Box(), Box()
    for box in (prompt, slow):
        destinations.watch(WEB, API, box, 1, differences=True)
    destinations.watch(WEB, API, plain, 1, differences=False)
    source.say(*range(10))
    assert [type(each) for box in (prompt, slow, plain) for each in box.read()] == [Destination] * 3
    source.say(*range(11))
    (change,) = prompt.read()
    assert isinstance(change, DestinationChange)
    assert [each.address for each in change.now.endpoints] == ["192.0.2.10"]
    source.say(*range(12))
    destinations.watch(WEB, API, late, 1, differences=True)
    assert [type(each) for each in prompt.read()] == [DestinationChange]
    for box in (slow, plain, late):  # slow has not read what came between
        (whole,) = box.read()
        assert isinstance(whole, Destination)
        assert whole.found is not None
        assert len(whole.found.endpoints) == 12


def test_what_is_followed_is_bounded() -> None:
    _, destinations = world(most=1)
    box = Box()
    destinations.watch(WEB, API, box, 1, differences=True)
    destinations.watch(WEB, API, box, 2, differences=True)
    with pytest.raises(Unacceptable, match="1 services are asked for already"):
        destinations.watch(WEB, Authority.parse("web", "shop"), box, 3, differences=True)


def test_one_workload_does_not_use_up_what_is_followed() -> None:
    _, destinations = world(of_a_workload=2)
    box = Box()
    authorities = [Authority.parse(name, "shop") for name in ("a", "b", "c")]
    ends = [destinations.watch(WEB, authorities[place], box, 1, differences=True) for place in (0, 0, 1)]
    with pytest.raises(Unacceptable, match="sidecars of shop/web ask for 2 services already") as refused:
        destinations.watch(WEB, authorities[2], box, 2, differences=True)
    assert refused.value.retry
    destinations.watch(OTHER, authorities[2], box, 3, differences=True)  # others are not in its way
    ends[0]()
    with pytest.raises(Unacceptable):  # the other watch of the same goes on
        destinations.watch(WEB, authorities[2], box, 4, differences=True)
    ends[1]()
    destinations.watch(WEB, authorities[2], box, 5, differences=True)
