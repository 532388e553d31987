"""When each CA was last heard from, for the agent's metrics: written by the clients (`meshd.ca.client`) as they call,
whichever they are at the time. What the status says of the CA as a whole is `meshd.agent.certificates`'s.
"""

import time
from collections.abc import Callable, Iterable, Iterator


class Contact:
    """One CA, by the URL of its API."""

    __slots__ = ("_clock", "answered_at", "is_reachable", "url")

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        self.url, self._clock = url, clock
        self.is_reachable: bool | None = None
        """As the last call found it; None before the first."""
        self.answered_at = 0.0
        """Seconds since the epoch; a refusal is an answer too. 0: not yet."""

    def answered(self) -> None:
        self.is_reachable, self.answered_at = True, self._clock()

    def failed(self) -> None:
        self.is_reachable = False


class Contacts:
    """Those of one agent, in the order they were first asked for."""

    def __init__(self) -> None:
        self._contacts: dict[str, Contact] = {}

    def __iter__(self) -> Iterator[Contact]:
        return iter(self._contacts.values())

    def of(self, urls: Iterable[str]) -> list[Contact]:
        """The contacts with these, and from now on with no others; what is known of them stays."""
        self._contacts = {url: self._contacts.get(url) or Contact(url) for url in urls}
        return list(self._contacts.values())
