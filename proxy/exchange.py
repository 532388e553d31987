"""One HTTP request on its way: from the connection it came on, to an endpoint, and the answer back.

The exchange decides; the two connections (`Caller`, `Client`) speak their protocol. It picks an endpoint, waits where
there is none, takes or opens a connection, tries again where that is safe, and counts the outcome; bodies pass from
connection to connection as the other side has room. All of it happens in the callbacks of the connections: no task, no
future, and no timer unless something goes wrong.

When is it safe to ask again? While the request has not been sent: no connection could be made, or a proxy of the mesh
answered that it never reached the application. When it was sent on a connection that had been idle and died before
it answered anything, if the method is idempotent (RFC 9110, section 9.2.2): the far side may have closed that
connection before it saw the request. And where the service's policy says so, for the answers it names, within the
retry budget. In all cases only while all that has come of the body is still here, and nothing of an answer is gone.

An upgrade is a request without a body that does not end: nothing of the other protocol is sent before the answer, so it
is asked again as any other. With a 101 the exchange is over, and a `proxy.tunnel` takes its place.
"""

import asyncio
import logging
import re
from time import monotonic
from typing import Final

from proxy.destination import Destination
from proxy.endpoint import LiveEndpoint
from proxy.errors import CONNECTION_LOST, Failure
from proxy.http1.heads import RequestHead, ResponseHead
from proxy.rules import IDEMPOTENT, MAX_KEPT_BYTES, Rules
from proxy.seams import Caller, Client, Connector, End
from proxy.stats import GRPC_FAILURES, HttpTraffic, Labels, Stats
from proxy.tunnel import Tunnel

log = logging.getLogger(__name__)

MAX_TRIES: Final = 8
MAX_INTERIM: Final = 64
"""1xx answers to a request: they are passed on past all flow control."""


class Route:
    """Where requests of one kind go: fixed for a connection, or looked up by what a request asks for.

    `extra` are field lines to add to each request; `traffic` counts them, or None where the endpoint's own series
    does; `labels` are for those that never get to an endpoint. A request that finds no endpoint waits `patience_s`.
    """

    __slots__ = ("connector", "destination", "extra", "labels", "patience_s", "stats", "traffic")

    def __init__(
        self,
        destination: Destination,
        connector: Connector,
        stats: Stats,
        extra: bytes,
        patience_s: float,
        labels: Labels,
        traffic: HttpTraffic | None = None,
    ) -> None:
        self.labels = labels
        self.destination = destination
        self.connector = connector
        self.stats = stats
        self.extra = extra
        self.patience_s = patience_s
        self.traffic = traffic


class Exchange:
    """See the module. `started` and other times are the loop's clock, in seconds."""

    __slots__ = (
        "_asked_at", "_body", "_body_ended", "_counted", "_deadline", "_held", "_interims", "_moved_at", "_over",
        "_retries", "_timeout", "_timer", "_trailers", "_tries", "_unsent", "caller", "client", "head", "live",
        "replayable", "responding", "route", "rules", "started",
    )  # fmt: skip

    def __init__(self, caller: Caller, head: RequestHead, route: Route, now: float) -> None:
        self.caller = caller
        self.head = head
        self.route = route
        self.rules: Rules = route.destination.rules
        self.started = now
        self.client: Client | None = None
        self.live: LiveEndpoint | None = None
        self.replayable = True  # nothing of the body is gone from here
        self._interims = 0
        self.responding = False  # an answer has begun to be passed on
        self._counted: HttpTraffic | None = None
        self._tries = 0
        self._retries = 0  # of those, for what was answered
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None  # of the wait for an endpoint
        self._timeout: asyncio.TimerHandle | None = None  # of the policy
        self._held = False  # the caller has no room for more of the answer
        self._over = False
        self._unsent = False  # a proxy said that it sent nothing, and its answer is let pass

    # --- towards the endpoint

    def start(self, payload: bytes, ended: bool, trailers: bytes) -> None:
        """Begin, with what has come of the body. Once, and before anything else."""
        self._body: bytes | bytearray = payload
        self._body_ended = ended
        self._trailers = trailers
        destination, rules = self.route.destination, self.rules
        destination.in_flight += 1
        if destination.in_flight > rules.max_requests:
            self._fail(Failure.SHED, self.started, unsent=True)
            return
        if rules.retries:
            destination.budget.deposit(self.started)
        if rules.timed or self.head.deadline_s:
            self._limit()
        self._dispatch(self.started)

    def _dispatch(self, now: float) -> None:
        live = self.route.destination.pick(now)
        if live is None:
            self._wait(now)
            return
        self.live = live
        self._asked_at = now  # when the present endpoint was picked
        self._tries += 1
        live.ewma.pending += 1
        self.route.connector.connect(self, live)

    def connected(self, client: Client) -> bool:
        """The connector's answer: the request goes out. False where it is no longer wanted, and client still free."""
        if self._over:
            self._leave_endpoint()
            return False
        self.client = client
        if self._counted is None:
            assert self.live is not None  # the connector answers for the endpoint that was picked
            self._counted = self.route.traffic or self.live.http
            self._counted.requests += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        body = self._body
        if not self._body_ended:
            if body and not self._keeps(body):
                self.replayable = False
                self._body = b""
            self.caller.release()  # first: to send may be to hold again
        client.send(self, self.route.extra, bytes(body), self._body_ended, self._trailers)
        if self._held:
            client.hold()
        return True

    def not_connected(self, failure: Failure) -> None:
        """The connector's answer: this endpoint cannot be had."""
        self._leave_endpoint()
        if self._over:
            return
        if failure is Failure.LOOP:
            self._fail(failure, monotonic(), unsent=True)
        else:
            # A caller is not to care which of the endpoint's benches its patience ended in.
            self._retry(Failure.NO_ENDPOINT if failure is Failure.NOT_CONNECTED else failure, monotonic())

    def request_more(self, payload: bytes, ended: bool, trailers: bytes) -> None:
        """More of the body has come."""
        if self._over:
            return
        self._body_ended = ended
        self._trailers = trailers
        if self.client is None:
            self._keep(payload)
            self.caller.hold()
            return
        if self.replayable:
            self._keep(payload)
            if not self._keeps(self._body):
                self.replayable = False
                self._body = b""
        self.client.send_more(payload, ended, trailers)

    def _keep(self, payload: bytes) -> None:
        """Put payload to what is kept of the body, which is not copied for it: it may come byte by byte."""
        body = self._body
        if isinstance(body, bytes):
            body = self._body = bytearray(body)
        body += payload

    def _keeps(self, body: bytes | bytearray) -> bool:
        """Whether that much of the body is kept, so that the request can be sent again."""
        return len(body) <= MAX_KEPT_BYTES

    def hold(self) -> None:
        """The caller has no room for more of the answer."""
        self._held = True
        if self.client is not None and not self._over:
            self.client.hold()

    def release(self) -> None:
        """The caller has room again."""
        self._held = False
        if self.client is not None and not self._over:
            self.client.release()

    # --- towards the caller

    def interim(self, head: ResponseHead) -> bool:
        """The endpoint answered 1xx; False where it has done so too often."""
        self._interims += 1
        if self._interims > MAX_INTERIM:
            return False
        self._pass_on(head)
        return True

    def _pass_on(self, head: ResponseHead) -> None:
        if head.status == 100 and not self.head.expects_continue:
            return
        if self.head.minor == 1:
            self.caller.interim(head)

    def switch(self, head: ResponseHead, endpoint: End) -> None:
        """The endpoint answered 101, and goes on as `endpoint` in the protocol that was asked for: the exchange ends,
        and a tunnel begins."""
        now = monotonic()
        live = self.live
        assert live is not None  # an answer comes from an endpoint
        live.ewma.observe(now - self._asked_at, now)
        self._finish(101, now, b"")
        Tunnel(self.caller.switch(head), endpoint, live, self.rules.idle_s, self._count_timeout)

    def _count_timeout(self) -> None:
        self.route.stats.count_error(self.route.labels.direction, "http", Failure.TIMED_OUT.value.label)

    def respond(self, head: ResponseHead, length: int, payload: bytes, done: bool, whole: bytes | None) -> None:
        """The endpoint answered; `done` when all of it is here."""
        now = monotonic()
        live = self.live
        assert live is not None  # an answer comes from an endpoint
        if head.unsent:
            # Such answers are quick: counted among its latencies, they would draw all requests to the proxy whose
            # application is gone.
            self.route.destination.missed(live)
            if self.replayable and self._tries < MAX_TRIES:
                self._unsent = True
                if done:
                    self._ask_elsewhere(now)
                return
        else:
            live.ewma.observe(now - self._asked_at, now)
        if self.rules.retries and self._retried_by_policy(head, done, now):
            return
        self.responding = True
        if done:
            self._finish(head.status, now, head.forward if self.head.grpc else b"")
        else:
            self._moved_at = now  # when a piece of the answer last came
        self.caller.respond(head, length, payload, done, whole)

    def _ask_elsewhere(self, now: float) -> None:
        self._unsent = False
        self._leave_endpoint()
        self._retry(Failure.NO_ENDPOINT, now)

    def respond_more(self, status: int, payload: bytes, done: bool, trailers: bytes) -> None:
        """More of the answer's body has come."""
        if self._unsent:
            if done:
                self._ask_elsewhere(monotonic())
            return
        if done:
            self._finish(status, monotonic(), trailers)
        elif self.rules.idle_s:
            self._moved_at = monotonic()
        self.caller.respond_more(payload, done, trailers)

    def _finish(self, status: int, now: float, trailers: bytes) -> None:
        """The answer is whole. For gRPC the outcome is in its trailers, which may be its head."""
        grpc = _grpc_status(trailers) if self.head.grpc else ""
        live, destination = self.live, self.route.destination
        assert live is not None  # an answer comes from an endpoint
        assert self._counted is not None  # counted when it was sent
        self._counted.record(status, now - self.started, grpc)
        self._over = True  # as `_end` and `_leave_endpoint` do, which are two calls
        destination.in_flight -= 1
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        accrual = live.accrual
        well = status < 500 and grpc not in GRPC_FAILURES
        if not well or accrual.failures or accrual.probing_now or self.rules.success_threshold:
            destination.answered(live, well, now)
            if accrual.probing_now:
                destination.inconclusive(live)
        live.ewma.pending -= 1
        self.live = None

    def _end(self) -> None:
        """Nothing more is to happen."""
        self._over = True
        self.route.destination.in_flight -= 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    # --- asking again

    def _retried_by_policy(self, head: ResponseHead, done: bool, now: float) -> bool:
        """Whether policy has the request tried again instead of passing this answer on; it is, then."""
        rules = self.rules
        named = self._is_named(head, done)
        if not named and not self._retries:
            return False
        route = self.route
        counted = route.stats.retries(route.labels._replace(service=route.destination.name))
        if not named:
            counted.successes += head.status < 500
            return False
        if not self.replayable:
            return False
        if not self.head.grpc and rules.retry_methods is not None and self.head.method not in rules.retry_methods:
            return False
        if self._retries >= rules.retry_limit:
            counted.limit_exceeded += 1
            return False
        if not route.destination.budget.withdraw(now):
            counted.overflow += 1
            return False
        self._retries += 1
        counted.requests += 1
        client, live = self.client, self.live
        assert live is not None  # an answer comes from an endpoint
        if client is not None and not done:
            client.cancel()
        route.destination.answered(live, False, now)
        self._leave_endpoint()
        self._retry(Failure.NO_ENDPOINT, now)
        return True

    def _is_named(self, head: ResponseHead, done: bool) -> bool:
        """Whether policy names this answer: of gRPC its own status, which only a head without content tells."""
        if not self.head.grpc:
            return head.status in self.rules.retry_statuses
        return done and _grpc_status(head.forward) in self.rules.retry_grpc

    def _may_replay(self, client: Client, unsent: bool) -> bool:
        safe = unsent or (client.reused and self.head.method in IDEMPOTENT)
        return safe and self.replayable and self._tries < MAX_TRIES

    def _retry(self, failure: Failure, now: float) -> None:
        """Try again; wait for an endpoint if there is none, but no longer than the route's patience."""
        self.client = None
        if not self._deadline:
            self._deadline = self._asked_at + self.route.patience_s
        if now >= self._deadline:
            self._fail(failure, now, unsent=True)
        else:
            self._dispatch(now)

    def _wait(self, now: float) -> None:
        if not self._deadline:
            self._deadline = now + self.route.patience_s
        failure = self.route.destination.wait(self)
        if failure is not None:
            self._fail(failure, now, unsent=True)
            return
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._deadline - now, self._give_up)
        if not self._body_ended:
            self.caller.hold()

    def resume(self) -> None:
        """The destination may have an endpoint now."""
        if not self._over:
            self._dispatch(monotonic())

    def _give_up(self) -> None:
        self._timer = None
        if self.client is None and self.live is None and not self._over:
            failure = self.route.destination.leave(self, in_vain=True)
            self._fail(failure, monotonic(), unsent=True)

    # --- time

    def _limit(self) -> None:
        """Have the policy's times, and the deadline that the request came with, watched."""
        rules = self.rules
        bounds = [bound for bound in (rules.request_s, self.head.deadline_s, rules.response_s) if bound]
        first = min(bounds) if bounds else rules.idle_s
        self._timeout = asyncio.get_running_loop().call_later(first, self._check_time)

    def _check_time(self) -> None:
        """See what is late, or look again when something may be."""
        self._timeout = None
        rules, now = self.rules, monotonic()
        waits = []
        whole = min((bound for bound in (rules.request_s, self.head.deadline_s) if bound), default=0.0)
        if whole:
            waits.append(self.started + whole - now)
        if rules.response_s and not self.responding:
            waits.append(self.started + rules.response_s - now)
        if rules.idle_s and self.responding:
            waits.append(self._moved_at + rules.idle_s - now)
        elif rules.idle_s:
            waits.append(rules.idle_s)
        if not waits:
            return
        # The loop's clock is a little behind the one that is read here, or before.
        if min(waits) <= 0.002:
            self._expire(now)
        else:
            self._timeout = asyncio.get_running_loop().call_later(min(waits), self._check_time)

    def _expire(self, now: float) -> None:
        client, self.client = self.client, None
        live = self.live
        if live is None:
            self.route.destination.leave(self)
        elif not self._held:  # else it is the caller who lets nothing of the answer come
            self.route.destination.answered(live, False, now)
        if client is not None:
            client.cancel()
            self._leave_endpoint()
        self._broken_off(Failure.TIMED_OUT, now, unsent=False)

    # --- when something goes wrong

    def lost(self, failure: Failure, error: BaseException | None, *, unsent: bool = False) -> None:
        """The endpoint's connection ended, or spoke nonsense, before the answer was whole. `unsent`: the endpoint says
        that it did nothing for the request."""
        if self._over:
            return
        if error is not None:
            log.debug("%s: %s", self.route.destination.name, error)
        client, self.client = self.client, None
        now = monotonic()
        again = not self.responding and client is not None and failure in CONNECTION_LOST
        again = again and client is not None and self._may_replay(client, unsent or self._unsent)
        self._unsent = False
        if not again and self.live is not None:
            self.route.destination.answered(self.live, False, now)
        self._leave_endpoint()
        if again:
            self._retry(failure, now)
        else:
            self._broken_off(failure, now, unsent=False)

    def _broken_off(self, failure: Failure, now: float, *, unsent: bool) -> None:
        """Fail, or cut the answer off where it has begun."""
        if not self.responding:
            self._fail(failure, now, unsent=unsent)
            return
        self._end()
        assert self._counted is not None  # an answer had begun
        self._counted.record(failure.value.status, now - self.started)
        self.route.stats.count_error(self.route.labels.direction, "http", failure.value.label)
        self.caller.abort()

    def _fail(self, failure: Failure, now: float, *, unsent: bool) -> None:
        self._end()
        traffic = self._counted
        if traffic is None:
            traffic = self.route.traffic or self.route.stats.http(self.route.labels)
            traffic.requests += 1
        traffic.record(failure.value.status, now - self.started)
        self.route.stats.count_error(self.route.labels.direction, "http", failure.value.label)
        self.caller.fail(failure, unsent)

    def cancel(self) -> None:
        """The caller went away."""
        if self._over:
            return
        self._end()
        if self.client is not None:
            self.client.cancel()
            if self.live is not None and not self.responding:
                now = monotonic()
                self.live.ewma.observe(now - self._asked_at, now)  # it took so long at least
            self._leave_endpoint()
        elif self.live is None:
            self.route.destination.leave(self)

    def _leave_endpoint(self) -> None:
        live = self.live
        if live is not None:
            live.ewma.pending -= 1
            if live.accrual.probing_now:
                self.route.destination.inconclusive(live)
            self.live = None


_GRPC_STATUS = re.compile(rb"(?:^|\r\n)grpc-status:[ \t]*([0-9]{1,3})[ \t]*\r\n")


def _grpc_status(lines: bytes) -> str:
    """The status that trailers (field lines, each with its CRLF) tell; "2" (UNKNOWN) where they tell none."""
    found = _GRPC_STATUS.search(lines)
    return "2" if found is None else found[1].decode()
