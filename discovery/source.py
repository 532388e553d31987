"""The seam that every back end implements.

A back end is asked by authority, because which spellings it answers to is its own affair (`web.shop`, an IP address,
later `web.service.consul`). It answers through a callback rather than a return value: a registry across the network
knows nothing at first, and a back end that already knows calls back before `watch` returns.
"""

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final, NamedTuple, Protocol, runtime_checkable

from discovery.names import Authority
from meshd.api.control import Health
from meshd.api.endpoints import EndpointSet


class NotYet(Enum):
    """The source cannot say, and knows that it cannot for now; those who watch go on with what they know."""

    NOT_YET = "not yet"


NOT_YET: Final = NotYet.NOT_YET

Answer = EndpointSet | None | NotYet

Answered = Callable[[Answer], None]
"""Takes what an authority leads to now: whole and immutable, replacing what came before. None: not known here."""

Close = Callable[[], None]
"""Ends what it was returned by; calling it again does nothing."""


class Known(NamedTuple):
    """What a source knows, in numbers, and how old it is. `read_at`: when its registry was read last, in seconds since
    the epoch; 0 where there is nothing to read, or nothing was read yet. `stale`: whether it cannot be read now. Of its
    `services` so many are served stale, and `oldest_read_at` is when the one was read that was not for the longest
    time. `updates` counts since the start when what is known of a service changed; `denied`: whether the registry
    is there and does not let this agent read it, or some of it; None where nothing is asked of one."""

    read_at: float = 0.0
    stale: bool = False
    services: int = 0
    stale_services: int = 0
    oldest_read_at: float = 0.0
    updates: int = 0
    denied: bool | None = None


class Source(Protocol):
    """One place to learn from where services are.

    A source whose registry is away keeps answering with the last it knew, marked stale: None means that the registry
    said there is no such service, never that it said nothing.
    """

    def watch(self, authority: Authority, answered: Answered) -> Close:
        """Call `answered` with what authority leads to, then whenever that changes, until closed. An authority whose
        host is an IP address asks the reverse: the service with an endpoint there, reduced to that endpoint. A source
        that has not called yet is about to; one that says NOT_YET may take long."""

    def health(self) -> Health:
        """Whether the registry can be read, since when that is so, and in what state what is known is."""

    def known(self) -> Known:
        """How much it knows, and how old that is."""

    def listed(self) -> "Iterator[Listed]":
        """The services that it knows, or is asked for, without asking its registry."""


class Looked(NamedTuple):
    """What a source says of an authority now. Times are seconds since the epoch, 0 for none: when its registry was read
    last for it, when it last said something new, and since when the answer is no longer what the registry says.
    `trouble`: why it is so, or why nothing can be said. Not `settled`: it has been asked, and is about to say more."""

    answer: Answer
    read_at: float = 0.0
    changed_at: float = 0.0
    stale_since: float = 0.0
    trouble: str = ""
    settled: bool = True


class Listed(NamedTuple):
    """A service that a source knows or is asked for. `name` is how its registry calls it, where nothing is found that
    has a name; `watchers` are those who ask for it."""

    name: str
    looked: Looked
    watchers: int


class Look(NamedTuple):
    """What a source says of an authority, until it is closed."""

    now: Callable[[], Looked]
    close: Close


@runtime_checkable
class Asking(Source, Protocol):
    """A source that asks its registry about a service because somebody watches it."""

    def look(self, authority: Authority, changed: Callable[[], None]) -> Look:
        """As `watch`, for one who only looks: what nobody watches is let go with the look. `changed` is called when
        there is more to see, also before this returns."""
