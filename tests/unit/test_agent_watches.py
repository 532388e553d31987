"""The watches that one connection of the control API has open: bounded, each ended once, and a name that is none."""

from collections.abc import Callable
from functools import partial

import pytest

from discovery.names import Authority
from meshd.agent.registry import Unacceptable
from meshd.agent.watches import OpenWatches
from meshd.api.control import Destination, WatchDestination
from tests.support.outboxes import Box

API = WatchDestination("api", "shop")


class Watched:
    """Counts which are open."""

    def __init__(self) -> None:
        self.open: list[Authority] = []

    def watch(self, authority: Authority) -> Callable[[], None]:
        self.open.append(authority)
        return partial(self.open.remove, authority)


def refusal(watches: OpenWatches, call_id: int) -> Unacceptable:
    with pytest.raises(Unacceptable) as refused:
        watches.check(call_id)
    return refused.value


def test_an_id_is_one_watchs_and_there_are_no_more_than_the_bound() -> None:
    watches, watched = OpenWatches(Box(), 2), Watched()
    watches.add(1, lambda: None)
    assert str(refusal(watches, 1)) == "the id 1 is that of an open watch"
    assert not refusal(watches, 1).retry
    watches.destination(2, API, watched.watch)
    assert watched.open == [Authority.parse("api", "shop")]
    full = refusal(watches, 3)
    assert (str(full), full.retry) == ("this connection has 2 watches open already", True)
    with pytest.raises(Unacceptable):
        watches.destination(3, API, watched.watch)
    assert len(watched.open) == 1
    watches.cancel(2)
    watches.check(3)
    watches.check(2)


def test_a_watch_is_ended_once_by_its_call_or_with_the_connection() -> None:
    watched, box = Watched(), Box()
    watches = OpenWatches(box, 10)
    for call_id in (1, 2, 3):
        watches.destination(call_id, API, watched.watch)
    box.update(1, lambda: Destination(None))
    box.update(2, lambda: Destination(None))
    watches.cancel(1)
    watches.cancel(1)
    watches.cancel(4)
    assert len(watched.open) == 2
    assert len(box.read()) == 1  # what was to be said of the first is not
    watches.close()
    assert watched.open == []
    watches.close()


def test_a_name_that_can_be_no_services_leads_nowhere_and_is_a_watch_all_the_same() -> None:
    box, watched = Box(), Watched()
    watches = OpenWatches(box, 10)
    watches.destination(1, WatchDestination("no name", "shop"), watched.watch)
    assert box.read() == [Destination(None)]
    assert watched.open == []
    assert "open watch" in str(refusal(watches, 1))
    watches.cancel(1)
    watches.check(1)
