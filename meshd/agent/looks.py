"""What is known of a service, as `Endpoints`, for a person who asks: once, and in a time that is bounded.

A registry that does not answer in that time is said not to, and the others' answers stand. Nothing is followed
afterwards that was not followed before.
"""

import asyncio
from contextlib import closing, suppress

from msgspec.structs import replace

from discovery.chain import Chain
from discovery.names import Authority
from discovery.source import Answer, Looked
from meshd.agent.services import standing
from meshd.api.control import Endpoints, SourceSays
from meshd.api.endpoints import EndpointSet

MOST_S = 5.0
"""The longest that anybody may wait; `meshd.client.connection` waits for longer."""

MAX_SHOWN = 10_000
"""Endpoints of the answer, and as many of what all sources say together: beyond this a line would be too long."""


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
        shown, left_off = _cut(found, MAX_SHOWN)
        room, sources = MAX_SHOWN, []
        for name, looked in looking.sources:
            source = _source(name, looked, within_s, room)
            room -= 0 if source.found is None else len(source.found.endpoints)
            sources.append(source)
    return Endpoints(standing(found), shown, tuple(sources), left_off)


def _source(name: str, looked: Looked, within_s: float, room: int) -> SourceSays:
    found, left_off = _cut(looked.answer, room)
    trouble = looked.trouble
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


def _cut(answer: Answer, room: int) -> tuple[EndpointSet | None, int]:
    """The set that the answer is, with as many endpoints as there is room for; and how many more it has."""
    if not isinstance(answer, EndpointSet):
        return None, 0
    left_off = max(0, len(answer.endpoints) - room)
    return (replace(answer, endpoints=answer.endpoints[:room]) if left_off else answer), left_off
