"""Which CAs run on one store, and which of them does what one alone may do: by a session in the store each.

A session is renewed as long as its CA runs. What it holds goes with it: TTL_S to twice that after a CA was killed or
lost its store, at once when it ended in order. One that comes back begins another.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from meshd.ca.keyed import layout
from meshd.ca.keyed.layout import read, written
from meshd.ca.keyed.operations import Found, Keys, Raced, put, take
from meshd.ca.records import IssuerAnswer, IssuerRequest, Running, SignedRoots
from meshd.ca.source import Unreachable
from meshd.ca.store import Conflict

TTL_S: Final = 15
RENEW_EVERY_S: Final = 4.0
"""So that two may fail."""


class Presence:
    """That of the CA called `name`; `told` hears how each call of the store ended."""

    def __init__(self, client: Keys, name: str, told: Callable[[Unreachable | None], None]) -> None:
        self.name = name
        self._client, self._told = client, told
        self._lock = threading.Lock()
        self._session = ""
        self._locked: set[str] = set()
        self._renewed = 0.0
        self._shown: Running | None = None
        self.taken: int | None = None
        """Which roots this CA has (`take`); None where it signs nothing."""

    def beat(self, running: Running) -> None:
        """Say that this CA runs, and how it is. To be called every second or so."""
        with self._lock:
            try:
                if self._is_current(running):
                    return
                session = self._kept()
                self._client.commit([take(layout.live(self.name, session), written(running), session)])
            except Raced as raced:
                self._session, self._shown = "", None
                raise Unreachable("this CA's session in the store is lost, and another is begun") from raced
            except Unreachable as error:
                self._session, self._shown = "", None
                self._told(error)
                raise
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
            if what in self._locked:
                return True
            try:
                self._client.commit([take(layout.lock(what), self.name.encode(), session)])
            except Raced:
                return False
            self._locked.add(what)
            return True

    # --- roots and issuers (`meshd.ca.sharing`)

    def roots(self) -> tuple[SignedRoots | None, int]:
        found = self._client.get(layout.ROOTS)
        if found is None:
            raise Unreachable(f"{self._client.where} has not the CA's records, or its token may not read them")
        return read(found, SignedRoots | None, layout.ROOTS), found.index  # type: ignore[arg-type]

    def publish(self, roots: SignedRoots, at: int) -> int:
        try:
            return self._client.commit([put(layout.ROOTS, written(roots), at)])[layout.ROOTS]
        except Raced as raced:
            raise Conflict("the roots on the store were changed by another CA at this moment") from raced

    def take(self, at: int) -> None:
        self.taken = at

    def ask(self, request: IssuerRequest) -> None:
        self._client.commit([put(layout.issuer(self.name, "request"), written(request))])

    def asked(self) -> dict[str, tuple[IssuerRequest, IssuerAnswer | None]]:
        found = self._client.read(layout.ISSUERS)
        return {
            (ca := key.split("/")[1]): (read(at, IssuerRequest, key), self._answer(found, ca))
            for key, at in found.items()
            if key.endswith("/request")
        }

    def answer(self, ca: str, answer: IssuerAnswer) -> None:
        self._client.commit([put(layout.issuer(ca, "answer"), written(answer))])

    def answered(self) -> IssuerAnswer | None:
        return self._answer(self._client.read(layout.issuer(self.name, "")), self.name)

    def _answer(self, found: Mapping[str, Found], ca: str) -> IssuerAnswer | None:
        at = found.get(key := layout.issuer(ca, "answer"))
        return None if at is None else read(at, IssuerAnswer, key)

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
                self._locked.clear()
                self._session = self._client.begin_session(self.name, TTL_S)
            self._renewed = time.monotonic()
        return self._session
