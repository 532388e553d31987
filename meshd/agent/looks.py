"""What is known of a service, as `Endpoints`, for a person who asks: once, and in a time that is bounded.

A registry that does not answer in that time is said not to, and the others' answers stand. Nothing is followed
afterwards that was not followed before.
"""

import asyncio
from contextlib import closing, suppress

import msgspec
from msgspec.structs import replace

from discovery.chain import Chain
from discovery.names import Authority
from discovery.source import Answer, Looked
from meshd.agent.services import MAX_TROUBLE, standing
from meshd.api.control import Endpoints, SourceSays
from meshd.api.endpoints import EndpointSet

MOST_S = 5.0
"""The longest that anybody may wait; `meshd.client.connection` waits for longer."""

MAX_SHOWN, MAX_SHOWN_BYTES = 10_000, 6 << 20
"""Endpoints of the answer, and as many of what all sources say together: beyond this a line would be too long. Labels
are as long as a registry has them."""


async def look(discovery: Chain, authority: Authority, within_s: float) -> Endpoints:
    """What discovery says of authority when all sources have spoken, or after within_s seconds."""
    within_s = min(max(within_s, 0.0), MOST_S)
    changed = asyncio.Event()
    with closing(discovery.look(authority, changed.set)) as looking:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not looking.settled:
                    await changed.wait()
                    changed.clear()
        found = looking.found
        shown, left_off = _Room().take(found)
        room = _Room()
        sources = tuple(_source(name, looked, within_s, room) for name, looked in looking.sources)
    return Endpoints(standing(found), shown, sources, left_off)


def _source(name: str, looked: Looked, within_s: float, room: "_Room") -> SourceSays:
    found, left_off = room.take(looked.answer)
    trouble = looked.trouble[:MAX_TROUBLE]
    if not looked.settled:
        trouble = f"it did not answer within {within_s:g} s"
    return SourceSays(
        name,
        standing(looked.answer),
        found,
        looked.read_at,
        looked.changed_at,
        looked.stale_since,
        trouble,
        left_off,
    )


class _Room:
    """What is left of it."""

    def __init__(self) -> None:
        self._endpoints, self._bytes = MAX_SHOWN, MAX_SHOWN_BYTES

    def take(self, answer: Answer) -> tuple[EndpointSet | None, int]:
        """The set that the answer is, with as many endpoints as there is room for; and how many more it has."""
        if not isinstance(answer, EndpointSet):
            return None, 0
        shown = []
        for endpoint in answer.endpoints[: self._endpoints]:
            self._bytes -= len(msgspec.json.encode(endpoint))
            if self._bytes < 0:
                break
            shown.append(endpoint)
        self._endpoints -= len(shown)
        return replace(answer, endpoints=tuple(shown)), len(answer.endpoints) - len(shown)
