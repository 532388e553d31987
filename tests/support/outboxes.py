"""An outbox of the control API that is read when a test says so."""

from collections.abc import Callable

import msgspec

from meshd.agent.connection import Said
from meshd.api.control import Destination, DestinationChange, Response


class Box:
    """Of watches alone. `said` is what came out, as bytes; `read` gives what the newest of it says."""

    def __init__(self) -> None:
        self._newest: dict[int, Callable[[], Said]] = {}
        self.said: list[bytes] = []

    def answer(self, call_id: int, body: Response) -> None:
        raise AssertionError("watches are updated")

    def update(self, call_id: int, body: Callable[[], Said]) -> None:
        self._newest[call_id] = body

    def forget(self, call_id: int) -> None:
        self._newest.pop(call_id, None)

    def read(self) -> list[Destination | DestinationChange]:
        newest, self._newest = self._newest, {}
        fresh = [msgspec.json.encode(body()) for body in newest.values()]
        self.said += fresh
        return [msgspec.json.decode(each, type=Destination | DestinationChange) for each in fresh]
