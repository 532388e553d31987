"""Which CAs run on one store, and which of them does what one alone may do: by a session of Consul's each.

A session is renewed as long as its CA runs. What it holds goes with it: TTL_S to twice that after a CA was killed or
lost its Consul, at once when it ended in order. One that comes back begins another.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from meshd.ca.consul import layout
from meshd.ca.consul.client import Client, Raced
from meshd.ca.consul.layout import read, written
from meshd.ca.records import Running
from meshd.ca.source import Unreachable

TTL_S: Final = 15
RENEW_EVERY_S: Final = 4.0
"""So that two may fail."""


class Presence:
    """That of the CA called `name`; `told` hears how each call of Consul ended."""

    def __init__(self, client: Client, name: str, told: Callable[[Unreachable | None], None]) -> None:
        self.name = name
        self._client, self._told = client, told
        self._lock = threading.Lock()
        self._session = ""
        self._renewed = 0.0
        self._shown: Running | None = None

    def beat(self, running: Running) -> None:
        """Say that this CA runs, and how it is. To be called every second or so."""
        with self._lock:
            try:
                if self._is_current(running):
                    return
                session = self._kept()
                self._client.commit([self._client.take(layout.live(self.name, session), written(running), session)])
            except (Raced, Unreachable) as error:
                self._session, self._shown = "", None
                failure = error if isinstance(error, Unreachable) else Unreachable(f"the session is lost: {error}")
                self._told(failure)
                raise failure from error
            self._shown = running
            self._told(None)

    def live(self) -> list[Running]:
        """The CAs that run now, by name."""
        found = self._client.read(layout.LIVE).items()
        return sorted(read(each, Running, key) for key, each in found)

    def alone(self, what: str) -> bool:
        """Whether this CA is the one that does `what`, as it then stays for as long as it runs."""
        with self._lock:
            session = self._kept()
            try:
                self._client.commit([self._client.take(layout.lock(what), self.name.encode(), session)])
            except Raced:
                return False
            return True

    def close(self) -> None:
        """Have the others know at once that this CA has ended."""
        with self._lock, suppress(Unreachable):
            if self._session:
                self._client.end_session(self._session)

    def _is_current(self, running: Running) -> bool:
        """Whether nothing has to be said: the clock alone need not be."""
        if self._shown is None or time.monotonic() - self._renewed >= RENEW_EVERY_S:
            return False
        return running._replace(clock=0.0) == self._shown._replace(clock=0.0)

    def _kept(self) -> str:
        """A session that is good for a while."""
        if time.monotonic() - self._renewed >= RENEW_EVERY_S or not self._session:
            if not self._session or not self._client.renew_session(self._session):
                self._session = self._client.begin_session(f"meshd-ca {self.name}", TTL_S)
            self._renewed = time.monotonic()
        return self._session
