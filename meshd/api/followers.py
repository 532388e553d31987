"""Those who are called when something changes, until they leave."""

from collections.abc import Callable
from functools import partial
from typing import Generic, ParamSpec

P = ParamSpec("P")


class Followers(Generic[P]):
    """Any number of them, each called with what is told, in the order in which they came."""

    __slots__ = ("_changed",)

    def __init__(self) -> None:
        self._changed: dict[object, Callable[P, None]] = {}

    def __len__(self) -> int:
        return len(self._changed)

    def follow(self, changed: Callable[P, None]) -> Callable[[], None]:
        """Call `changed` from now on, until what is returned is called, which may be called again."""
        follower = object()
        self._changed[follower] = changed

        def leave() -> None:
            self._changed.pop(follower, None)

        return leave

    def tell(self, *said: P.args, **more: P.kwargs) -> None:
        """Call all who follow, but for those that leave meanwhile; who comes meanwhile is not called."""
        for call in self.calls():
            call(*said, **more)

    def calls(self) -> list[Callable[P, None]]:
        """One for each who follows now, to be called later: of one that has left by then, it does nothing."""
        return [partial(self._call, follower) for follower in self._changed]

    def _call(self, follower: object, *said: P.args, **more: P.kwargs) -> None:
        if (changed := self._changed.get(follower)) is not None:
            changed(*said, **more)
