"""Whether there is a service of a name, asked of discovery.

What is there is followed for as long as it is asked for, so that its end is heard of. What is not is let go and
remembered for a moment. Any user of the host may ask for any name, and each that is new is one more that the
registries are asked about, for a minute: so few are looked for in a second that what discovery has room for
(`discovery.following.MAX_SERVICES`) is not used up.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from discovery.names import Authority
from discovery.source import Close
from meshd.api.endpoints import EndpointSet
from meshd.ca.rates import Rate

FOLLOWED_S = 300.0
"""How long a service is followed that nobody asks for."""

MAX_FOLLOWED = 1024

NEGATIVE_S = 2.0
"""How long it is believed that there is none."""

MAX_NEGATIVE = 4096

NEW_BURST, NEW_PER_S = 256, 20.0
"""Names that are looked for which are not followed."""

Watch = Callable[[Authority, Callable[[EndpointSet | None], None]], Close]


class _Followed:
    __slots__ = ("close", "found", "heard", "used_at")

    def __init__(self) -> None:
        self.used_at = 0.0
        self.found: bool | None = None
        self.heard = asyncio.Event()
        self.close: Close = lambda: None


class Existence:
    """As `watch` (a chain's) has it, for names whose service is in `namespace` if they do not say. `clock` is
    monotonic."""

    def __init__(self, watch: Watch, namespace: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._watch, self._namespace, self._clock = watch, namespace, clock
        self._followed: dict[str, _Followed] = {}  # the one that was asked for last at the end
        self._negative: dict[str, float] = {}  # until when
        self._new = Rate(NEW_PER_S, NEW_BURST, clock)

    def __len__(self) -> int:
        return len(self._followed)

    def now(self, host: str) -> bool | None:
        """Whether there is a service called host; None: it cannot be said at once. It is looked for from now on."""
        now = self._clock()
        followed = self._followed.pop(host, None)
        if followed is None:
            if self._negative.get(host, 0.0) > now:
                return False
            if self._new.wait_s(""):
                return None
            self._new.take("")
            followed = self._follow(host)
            if followed.found is False:
                return False
        followed.used_at = now
        self._followed[host] = followed
        return followed.found

    async def later(self, host: str, within_s: float) -> bool | None:
        """The same of one that `now` could not say, as soon as it can be said; None: not within that time."""
        followed = self._followed.get(host)
        if followed is None:
            return None
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await followed.heard.wait()
        return followed.found

    def _follow(self, host: str) -> _Followed:
        followed = _Followed()
        while len(self._followed) >= MAX_FOLLOWED:
            self._drop(next(iter(self._followed)))

        def heard(found: EndpointSet | None) -> None:
            followed.found = found is not None
            followed.heard.set()
            if found is None:
                self._negative.pop(host, None)
                self._negative[host] = self._clock() + NEGATIVE_S
                if len(self._negative) > MAX_NEGATIVE:
                    del self._negative[next(iter(self._negative))]
                if self._followed.get(host) is followed:
                    self._drop(host)

        followed.close = self._watch(Authority(host, None, self._namespace), heard)
        if followed.found is False:
            followed.close()
        return followed

    def sweep(self) -> None:
        """Let go what nobody asks for any more."""
        now = self._clock()
        for host, followed in list(self._followed.items()):
            if followed.used_at > now - FOLLOWED_S:
                break
            self._drop(host)
        for host, until in list(self._negative.items()):
            if until > now:
                break
            del self._negative[host]

    def close(self) -> None:
        for host in list(self._followed):
            self._drop(host)

    def _drop(self, host: str) -> None:
        followed = self._followed.pop(host, None)
        if followed is not None:
            followed.close()
            followed.heard.set()
