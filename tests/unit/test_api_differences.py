"""Endpoint sets said as what differs from the last."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from meshd.api.control import Destination, DestinationChange
from meshd.api.differences import Differing, applied, difference, told
from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName

WEB = ServiceName("web", "default", 80)
MANY = EndpointSet(WEB, tuple(Endpoint(f"192.0.2.{host}", 8080) for host in range(1, 101)))

endpoints = st.lists(
    st.builds(
        Endpoint,
        st.sampled_from([f"192.0.2.{host}" for host in range(30)]),
        st.just(80),
        weight=st.integers(1, 2),
        zone=st.sampled_from("ab"),
    ),
    max_size=30,
    unique_by=lambda each: each.address,
)
sets = st.builds(EndpointSet, st.just(WEB), endpoints.map(tuple), stale=st.booleans())


@given(sets, sets)
def test_a_change_that_is_applied_gives_what_it_was_made_from(before: EndpointSet, now: EndpointSet) -> None:
    said = told(before, now)
    known = said.found if isinstance(said, Destination) else applied(before, said)
    assert known is not None
    assert replace(known, endpoints=()) == replace(now, endpoints=())
    assert sorted(known.endpoints, key=lambda each: each.address) == sorted(
        now.endpoints, key=lambda each: each.address
    )


def test_one_endpoint_of_many_is_said_alone() -> None:
    another = Endpoint("192.0.2.200", 8080)
    heavier = replace(MANY.endpoints[7], weight=9)
    now = replace(MANY, endpoints=(*MANY.endpoints[:7], heavier, *MANY.endpoints[8:99], another))
    change = told(MANY, now)
    assert isinstance(change, DestinationChange)
    assert change.now.endpoints == (heavier, another)
    assert change.removed == (("192.0.2.100", 8080),)
    assert len(msgspec.json.encode(change)) < len(msgspec.json.encode(Destination(now))) / 10


def test_what_is_stale_but_the_same_is_said_with_no_endpoint() -> None:
    change = told(MANY, replace(MANY, stale=True))
    assert isinstance(change, DestinationChange)
    assert (change.now.endpoints, change.removed, change.now.stale) == ((), (), True)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (None, MANY),
        (MANY, None),
        (MANY, replace(MANY, endpoints=())),
        (replace(MANY, endpoints=()), MANY),
        (MANY, replace(MANY, endpoints=MANY.endpoints[:40])),
        (replace(MANY, endpoints=MANY.endpoints + MANY.endpoints[:1]), MANY),
        (MANY, replace(MANY, endpoints=MANY.endpoints + MANY.endpoints[:1])),
    ],
    ids=["first", "gone", "emptied", "filled", "more than half", "twice before", "twice now"],
)
def test_what_is_no_less_is_said_whole(before: EndpointSet | None, now: EndpointSet | None) -> None:
    assert told(before, now) == Destination(now)


def test_a_change_of_what_is_not_known_is_refused() -> None:
    change = difference(MANY, replace(MANY, endpoints=MANY.endpoints[1:]))
    assert change is not None
    with pytest.raises(Differing):
        applied(None, change)
    with pytest.raises(Differing):
        applied(replace(MANY, endpoints=MANY.endpoints[1:]), change)
