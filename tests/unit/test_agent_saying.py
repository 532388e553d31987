"""What a proxy is told of a destination: differences where that is less, and never more than a message may have."""

import msgspec
import pytest
from msgspec.structs import replace

from meshd.agent.saying import Saying
from meshd.api.control import Destination, DestinationChange
from meshd.api.differences import applied
from meshd.api.endpoints import EndpointSet
from tests.support.registries import serving

ROOM = 4000


def labelled(found: EndpointSet, length: int) -> EndpointSet:
    return replace(found, endpoints=tuple(replace(each, labels={"a": "x" * length}) for each in found.endpoints))


def heard(before: EndpointSet | None, body: Destination | DestinationChange) -> EndpointSet | None:
    """What a proxy knows after it, which takes no more than there is room for."""
    if isinstance(body, Destination):
        assert len(msgspec.json.encode(body.found)) <= ROOM + 500
        return body.found
    return applied(before, body)


def test_labels_are_left_out_where_they_take_too_much() -> None:
    saying = Saying(differences=True, max_bytes=ROOM)
    small, large = labelled(serving("web", *range(1, 11)), 10), labelled(serving("web", *range(1, 12)), 1000)
    known = heard(None, saying.next(small))
    assert known == small
    known = heard(known, saying.next(large))
    assert known == serving("web", *range(1, 12))
    known = heard(known, saying.next(small))
    assert known == small


@pytest.mark.parametrize("differences", [True, False])
def test_endpoints_are_left_out_where_they_are_too_many_which_is_said_once(
    differences: bool, caplog: pytest.LogCaptureFixture
) -> None:
    saying = Saying(differences=differences, max_bytes=ROOM)
    known = heard(None, saying.next(serving("web", *range(1, 6))))
    for last in (200, 201, 202):
        many = serving("web", *range(1, last))
        known = heard(known, saying.next(many))
        assert known is not None
        assert 10 < len(known.endpoints) < 100
        assert known.endpoints == many.endpoints[: len(known.endpoints)]
    assert caplog.text.count("proxies are not told of") == 1
    few = serving("web", *range(50, 60))
    assert heard(known, saying.next(few)) == few
    assert heard(few, saying.next(None)) is None
