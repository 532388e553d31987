"""A destination: one service as one workload calls it, its endpoints, and who waits for one of them.

`Destination` swaps its endpoints when discovery says so and keeps what is known of each across the swap. It answers
`pick`; is told how connections and answers went, and takes out what fails (`proxy.accrual`); and has those wait that
find no endpoint, until there is one or their patience ends. When one has waited in vain, further ones fail at once
(failfast) until an endpoint is well again. It opens no connection; `proxy.connect` does.

Destinations are per workload because connections are: each is opened with the caller's certificate.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import Final, Protocol

from meshd.api import logs
from meshd.api.detection import Detection
from meshd.api.documents import Protocol as PortProtocol
from meshd.api.endpoints import Endpoint, EndpointSet
from meshd.api.policy import Policy
from proxy import balance
from proxy.accrual import Reason, State, Window
from proxy.balance import LEAST_ESTIMATE_S, PeakEwma
from proxy.budget import RetryBudget
from proxy.endpoint import SLOW_START_S, LiveEndpoint
from proxy.errors import Failure
from proxy.rules import Rules

log = logging.getLogger(__name__)

BENCH_MIN_S: Final = 0.1
BENCH_MAX_S: Final = 60.0
"""How long an endpoint that refused a connection is left alone; doubled at each failure, with jitter. Linkerd's."""
BENCH_JITTER: Final = 0.1
LOCAL_BENCH_MAX_S: Final = 0.5
"""The longest that an application beside the proxy is left alone: to try costs nothing there, and when it is back after
a restart its callers have `proxy.inbound.PATIENCE_S` to find it so. The same where the other proxy says that it is
gone: that one tries it so often, and it may be the only one there is."""


class Waiter(Protocol):
    """Something that waits for an endpoint."""

    def resume(self) -> None:
        """There may be one now: pick again."""


class Destination:
    """See the module. `known` is None until discovery has answered, then whether such a service exists. `zone` is the
    proxy's own: endpoints in it are preferred for as long as one of them can be asked."""

    def __init__(
        self,
        name: str,
        make: Callable[[Endpoint], LiveEndpoint],
        call_later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float] = monotonic,
        bench_max_s: float = BENCH_MAX_S,
        zone: str = "",
        workload: str = "",
    ) -> None:
        self.name = name
        self.service = ""
        self._workload = workload
        self.known: bool | None = None
        self.protocol: PortProtocol = "auto"
        self._port = 0
        self._opaque: bool | None = None
        self.used_at = clock()
        self.in_flight = 0
        self.rules = Rules(Policy())
        self.budget = RetryBudget(*self.rules.budget, clock())
        self._policy = Policy()
        self._make = make
        self._call_later = call_later
        self._clock = clock
        self._bench_max_s = bench_max_s
        self._zone = zone
        self._live: dict[tuple[str, int, str, int, str], LiveEndpoint] = {}
        self._ready: list[LiveEndpoint] = []
        self._probing = False  # some endpoint is
        self._shut = False  # failfast
        self._waiting: deque[Waiter] = deque()
        self._learned: asyncio.Event | None = None

    # --- what discovery says

    def update(self, found: EndpointSet | None) -> None:
        """Take the endpoints discovery knows now; None: there is no such service."""
        before, now = self._live, self._clock()
        joins = bool(before)
        typical_s = 0.0
        self.known = found is not None
        self.protocol = "auto" if found is None else found.protocol
        self._port, self._opaque = (0, None) if found is None else (found.service.port, found.opaque)
        self._live = {}
        for endpoint in () if found is None else found.endpoints:
            key = (endpoint.address, endpoint.port, endpoint.identity, endpoint.inbound_port, endpoint.protocol)
            live = self._live.get(key) or before.pop(key, None)
            if live is None:
                live = self._make(endpoint)
                if joins:
                    live.warm_at = now + SLOW_START_S
                    typical_s = typical_s or _typical_s((*before.values(), *self._live.values()), now)
                    live.ewma = PeakEwma(now, typical_s)
            live.endpoint = endpoint
            live.weight = endpoint.weight
            self._live[key] = live
        for gone in before.values():
            gone.retire()
        if found is not None and found.policy != self._policy:
            self._govern(found.policy)
        self._shut = False
        self._refresh()
        self._wake()
        if self._learned is not None:
            self._learned.set()

    def speaks(self, detection: Detection) -> PortProtocol:
        """What its connections speak; `auto` where only their first bytes can tell."""
        if self.protocol == "auto" and detection.is_opaque(self._port, self._opaque):
            return "tcp"
        return self.protocol

    async def learned(self, patience_s: float) -> bool:
        """Whether discovery has answered; it is waited for for patience_s."""
        if self.known is None:
            self._learned = self._learned or asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._learned.wait()
        return self.known is not None

    @property
    def meshed(self) -> bool:
        """Whether an endpoint of it has an identity."""
        return any(live.endpoint.identity for live in self._live.values())

    def _govern(self, policy: Policy) -> None:
        before, self._policy, self.rules = self.rules, policy, Rules(policy)
        if self.rules.budget != before.budget:
            self.budget = RetryBudget(*self.rules.budget, self._clock())

    def _refresh(self) -> None:
        ready = [live for live in self._live.values() if live.accrual.askable]
        near = [live for live in ready if live.endpoint.zone == self._zone] if self._zone else []
        self._ready = near or ready
        self._probing = any(live.accrual.state is State.PROBING for live in ready)

    # --- picking

    def pick(self, now: float) -> LiveEndpoint | None:
        """The endpoint for a request; None when none can be asked now."""
        self.used_at = now
        ready = self._ready
        if not ready:
            return None
        live = ready[0] if len(ready) == 1 else balance.pick(ready, now, random.random)
        if self._probing:
            self._begin_probe(live)
        return live

    def pick_least(self) -> LiveEndpoint | None:
        """The endpoint for a connection of opaque bytes; None when none can be asked now."""
        self.used_at = self._clock()
        if not self._ready:
            return None
        live = balance.pick_least(self._ready, random.random)
        self._begin_probe(live)
        return live

    def _begin_probe(self, live: LiveEndpoint) -> None:
        if live.accrual.state is State.PROBING:
            live.accrual.probing_now = True
            self._refresh()

    # --- how it went

    def failed(self, live: LiveEndpoint) -> None:
        """No connection to it could be had: leave it alone for a while."""
        if live.accrual.state is not State.OUT:  # else it is one of many tries that failed together
            self._take_out(live, Reason.CONNECTION, BENCH_MIN_S, self._bench_max_s, BENCH_JITTER)

    def missed(self, live: LiveEndpoint) -> None:
        """The proxy before it is there and sent nothing on: most likely its application is gone."""
        if live.accrual.state is not State.OUT:
            self._take_out(live, Reason.CONNECTION, BENCH_MIN_S, LOCAL_BENCH_MAX_S, BENCH_JITTER)

    def succeeded(self, live: LiveEndpoint) -> None:
        """A connection to it was opened."""
        if live.accrual.reason is Reason.CONNECTION:
            self._bring_in(live)

    def answered(self, live: LiveEndpoint, well: bool, now: float) -> None:
        """It answered a request, well or not; or lost the connection over it, which is not well."""
        accrual, rules = live.accrual, self.rules
        if well:
            accrual.failures = 0
            if accrual.state is State.PROBING:
                self._bring_in(live)
        else:
            accrual.failures += 1
        if rules.success_threshold:
            if accrual.window is None:
                accrual.window = Window(rules.success_window_s)
            accrual.window.count(well, now)
        if not well and accrual.state is not State.OUT:
            again = accrual.state is State.PROBING
            if again or (self._is_failing(live) and self._may_eject()):
                if not again:
                    about = self.about(live.endpoint)
                    log.warning("%s: %s is taken out: it fails", self.name, where(live.endpoint), extra=about)
                self._take_out(live, Reason.ANSWERS, rules.min_penalty_s, rules.max_penalty_s, rules.jitter)

    def inconclusive(self, live: LiveEndpoint) -> None:
        """The request to it ended without an outcome of its own: its caller went away."""
        if live.accrual.probing_now:
            live.accrual.probing_now = False
            self._refresh()
            self._wake()

    def _is_failing(self, live: LiveEndpoint) -> bool:
        rules, accrual = self.rules, live.accrual
        if rules.consecutive_failures and accrual.failures >= rules.consecutive_failures:
            return True
        if accrual.window is None:
            return False
        rate, answers = accrual.window.success_rate()
        return answers >= rules.success_min_requests and rate < rules.success_threshold

    def _may_eject(self) -> bool:
        """Whether one more may be taken out for its answers: some of a service that fails are better than none."""
        out = sum(live.accrual.reason is Reason.ANSWERS for live in self._live.values())
        return out + 1 <= len(self._live) * self.rules.max_ejected

    def _take_out(self, live: LiveEndpoint, reason: Reason, least_s: float, most_s: float, jitter: float) -> None:
        pause = live.accrual.take_out(reason, self._clock(), least_s, most_s, jitter, random.random)
        self._refresh()
        self._call_later(pause, self._probe)

    def _bring_in(self, live: LiveEndpoint) -> None:
        if live.accrual.reason is Reason.ANSWERS:
            log.info("%s: %s is well again", self.name, where(live.endpoint), extra=self.about(live.endpoint))
        live.accrual.bring_in()
        self._shut = False
        self._refresh()
        self._wake()

    def _probe(self) -> None:
        # The loop's timer may fire a little before the float it was computed from.
        now = self._clock() + 0.002
        for live in self._live.values():
            live.accrual.probe(now)
        self._refresh()
        self._wake()

    # --- waiting

    def wait(self, waiter: Waiter) -> Failure | None:
        """Have waiter resumed when there may be an endpoint; or why it need not wait."""
        if self.known is False:
            return Failure.NO_SERVICE
        if self._shut:
            return Failure.NO_ENDPOINT
        if len(self._waiting) >= self.rules.max_waiting:
            return Failure.SHED
        self._waiting.append(waiter)
        return None

    def leave(self, waiter: Waiter, *, in_vain: bool = False) -> Failure:
        """waiter waits no longer; `in_vain`: its patience is over. Why it found nothing."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        if self.known is None:
            return Failure.NOT_RESOLVED
        self._shut = self._shut or in_vain
        return Failure.NO_ENDPOINT

    def _wake(self) -> None:
        if self._ready or self.known is False:
            waiting, self._waiting = self._waiting, deque()
            for waiter in waiting:
                waiter.resume()

    # --- its end

    def idle(self, now: float, after_s: float) -> bool:
        """Whether nothing was sent its way for after_s, and nothing is open or waiting."""
        if now - self.used_at < after_s or self._waiting:
            return False
        return not any(live.open or live.ewma.pending for live in self._live.values())

    @property
    def endpoints(self) -> tuple[LiveEndpoint, ...]:
        return tuple(self._live.values())

    def about(self, endpoint: Endpoint) -> dict[str, str]:
        """Whose calls these are, and to where: for the log."""
        return logs.about(workload=self._workload, service=self.service, endpoint=where(endpoint))

    def close(self) -> None:
        """Nobody asks for it any more."""
        for live in self._live.values():
            live.retire()
        self._live = {}
        self._ready = []


def _typical_s(known: Iterable[LiveEndpoint], now: float) -> float:
    """The latency to expect of one that joins: that of the others. Were it another, it would be asked by all or by
    none until it was known better."""
    estimates = [live.ewma.estimate(now) for live in known]
    return max(sum(estimates) / len(estimates), LEAST_ESTIMATE_S)


def where(endpoint: Endpoint) -> str:
    """Its address, for people."""
    return f"{endpoint.address}:{endpoint.port}"
