"""The listening sockets of all workers, held by the master.

Each address has a socket for each worker's place (SO_REUSEPORT, socket(7)): the kernel spreads connections over them. A
worker that dies leaves its sockets here with the connections that wait in them, and its successor accepts those. What
the proxy was started with (`LISTEN_FDS`) is one socket an address, and all workers accept on it.
"""

import socket
from collections.abc import Iterable, Mapping, Sequence

from meshd.api.names import Address
from proxy.kept import keep, let_go
from proxy.sockets import bound, bound_beside


class Places:
    """See the module. `kept` and `own` are as in `proxy.handover.Inheritance`."""

    def __init__(
        self,
        kept: Iterable[socket.socket] = (),
        own: Mapping[str, Sequence[socket.socket]] | None = None,
    ) -> None:
        self._kept = {Address(*listener.getsockname()[:2]): listener for listener in kept}
        self._handed_over = {text: list(several) for text, several in (own or {}).items()}
        self._own: dict[str, dict[int, socket.socket]] = {}
        self._asked: set[tuple[int, str]] = set()

    def listen(self, number: int, text: str) -> socket.socket:
        """The socket for HOST:PORT of the worker in that place; it stays this object's. Problem."""
        kept = self._kept.get(Address.parse(text))
        if kept is not None:
            return kept
        self._asked.add((number, text))
        places = self._own.get(text, {})
        if number not in places:
            listener = self._taken_over(text) or self._new(text)
            self._own.setdefault(text, {})[number] = listener
        return self._own[text][number]

    def _new(self, text: str) -> socket.socket:
        listener = _beside(text, list(self._own.get(text, {}).values()))
        keep(text, listener)
        return listener

    def _taken_over(self, text: str) -> socket.socket | None:
        """One that the generation before had there, whoever of it."""
        handed_over = self._handed_over.get(text)
        return handed_over.pop() if handed_over else None

    def release(self, number: int, text: str) -> None:
        """The worker in that place accepts no more at HOST:PORT, and nobody is to wait there for it."""
        self._asked.discard((number, text))
        places = self._own.get(text, {})
        if number in places:
            _give_up(text, places.pop(number))
            if not places:
                del self._own[text]

    def begun(self, number: int) -> None:
        """A new worker is in that place: it will ask for what it needs."""
        self._asked = {asked for asked in self._asked if asked[0] != number}

    def settle(self, number: int) -> None:
        """The worker in that place is ready and has asked for all it needs: let go of what its predecessor had."""
        for text in tuple(self._own):
            if (number, text) not in self._asked:
                self.release(number, text)

    def settle_all(self) -> None:
        """All are: let go of what the generation before had and this one did not ask for."""
        for text, several in self._handed_over.items():
            for listener in several:
                _give_up(text, listener)
        self._handed_over.clear()

    @property
    def kept(self) -> list[socket.socket]:
        """What the proxy was started with."""
        return list(self._kept.values())

    @property
    def own(self) -> dict[str, list[socket.socket]]:
        """What was bound, by address."""
        return {text: list(places.values()) for text, places in self._own.items()}

    def close(self) -> None:
        """Nobody is to accept here any more."""
        for text, places in tuple(self._own.items()):
            for number in tuple(places):
                self.release(number, text)
        self.settle_all()


def _give_up(text: str, listener: socket.socket) -> None:
    let_go(text, listener)
    listener.close()


def _beside(text: str, there: list[socket.socket]) -> socket.socket:
    """Another socket at an address, beside those that are there. One that a generation without workers bound has no
    others beside it: it is shared, as what is inherited is."""
    if not there:
        return bound(text, shared=True)
    shares = there[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    return bound_beside(text) if shares else there[0].dup()
