"""One HTTP request on its way: from the connection it came on, to an endpoint, and the answer back.

The exchange decides; the two connections (`Caller`, `Client`) speak their protocol. It picks an endpoint, waits where
there is none, takes or opens a connection, tries again where that is safe, and counts the outcome; bodies pass from
connection to connection as the other side has room. All of it happens in the callbacks of the connections: no task, no
future, and no timer unless something goes wrong.

When is it safe to ask again? While the request has not been sent: no connection could be made, or a proxy of the mesh
answered that it never reached the application. And when it was sent on a connection that had been idle and died before
it answered anything, if the method is idempotent (RFC 9110, section 9.2.2): the far side may have closed that
connection before it saw the request. In all cases only while the whole body is still here.
"""

import asyncio
import logging
import re
from time import monotonic
from typing import Final

from proxy.destination import Destination, LiveEndpoint
from proxy.errors import Failure
from proxy.http1.heads import IDEMPOTENT, RequestHead, ResponseHead
from proxy.seams import Caller, Client, Connector
from proxy.stats import HttpTraffic, Labels, Stats

log = logging.getLogger(__name__)

MAX_TRIES: Final = 8


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
        "_asked_at", "_body", "_body_ended", "_counted", "_deadline", "_over", "_timer", "_trailers", "_tries",
        "_unsent", "caller", "client", "head", "live", "replayable", "responding", "route", "started",
    )  # fmt: skip

    def __init__(self, caller: Caller, head: RequestHead, route: Route, now: float) -> None:
        self.caller = caller
        self.head = head
        self.route = route
        self.started = now
        self.client: Client | None = None
        self.live: LiveEndpoint | None = None
        self.replayable = True  # nothing of the body is gone from here
        self._body = b""
        self._body_ended = True
        self._trailers = b""
        self.responding = False  # an answer has begun to be passed on
        self._counted: HttpTraffic | None = None
        self._tries = 0
        self._asked_at = 0.0  # when the present endpoint was picked
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._unsent = False  # a proxy said that it sent nothing, and its answer is let pass

    # --- towards the endpoint

    def start(self, payload: bytes, ended: bool, trailers: bytes) -> None:
        """Begin, with what has come of the body."""
        self._body = payload
        self._body_ended = ended
        self._trailers = trailers
        self._dispatch(self.started)

    def _dispatch(self, now: float) -> None:
        live = self.route.destination.pick(now)
        if live is None:
            self._wait(now)
            return
        self.live = live
        self._asked_at = now
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
            self.replayable = self.replayable and not body
            self._body = b""
            self.caller.release()  # first: to send may be to hold again
        client.send(self, self.route.extra, body, self._body_ended, self._trailers)
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
            self._body += payload
            self.caller.hold()
        else:
            self.replayable = False
            self.client.send_more(payload, ended, trailers)

    def hold(self) -> None:
        """The caller has no room for more of the answer."""
        if self.client is not None and not self._over:
            self.client.hold()

    def release(self) -> None:
        """The caller has room again."""
        if self.client is not None and not self._over:
            self.client.release()

    # --- towards the caller

    def interim(self, head: ResponseHead) -> None:
        """The endpoint answered 1xx."""
        if head.status == 100 and not self.head.expects_continue:
            return
        if self.head.minor == 1:
            self.caller.interim(head)

    def respond(self, head: ResponseHead, length: int, payload: bytes, done: bool, whole: bytes | None) -> None:
        """The endpoint answered; `done` when all of it is here."""
        now = monotonic()
        assert self.live is not None  # an answer comes from an endpoint
        self.live.ewma.observe(now - self._asked_at, now)
        if head.unsent and self.replayable and self._body_ended and self._tries < MAX_TRIES:
            self._unsent = True
            if done:
                self._ask_again(now)
            return
        self.responding = True
        if done:
            self._finish(head.status, now, head.forward if self.head.grpc else b"")
        self.caller.respond(head, length, payload, done, whole)

    def _ask_again(self, now: float) -> None:
        self._unsent = False
        self._leave_endpoint()
        self._retry(Failure.NO_ENDPOINT, now)

    def respond_more(self, status: int, payload: bytes, done: bool, trailers: bytes) -> None:
        """More of the answer's body has come."""
        if self._unsent:
            if done:
                self._ask_again(monotonic())
            return
        if done:
            self._finish(status, monotonic(), trailers)
        self.caller.respond_more(payload, done, trailers)

    def _finish(self, status: int, now: float, trailers: bytes) -> None:
        """The answer is whole. For gRPC the outcome is in its trailers, which may be its head."""
        self._over = True
        self._leave_endpoint()
        assert self._counted is not None  # counted when it was sent
        self._counted.record(status, now - self.started, _grpc_status(trailers) if self.head.grpc else "")

    # --- when something goes wrong

    def lost(self, failure: Failure, error: BaseException | None, *, unsent: bool = False) -> None:
        """The endpoint's connection ended, or spoke nonsense, before the answer was whole. `unsent`: the endpoint says
        that it did nothing for the request."""
        if self._over:
            return
        if error is not None:
            log.debug("%s: %s", self.route.destination.name, error)
        client, self.client = self.client, None
        self._leave_endpoint()
        now = monotonic()
        if self.responding:
            self._over = True
            assert self._counted is not None  # an answer had begun
            self._counted.record(502, now - self.started)
            self.route.stats.count_error(self.route.labels.direction, "http", failure.value.label)
            self.caller.abort()
        elif client is not None and failure is Failure.CLOSED and self._may_replay(client, unsent or self._unsent):
            self._unsent = False
            self._retry(failure, now)
        else:
            self._fail(failure, now, unsent=False)

    def _may_replay(self, client: Client, unsent: bool) -> bool:
        safe = unsent or (client.reused and self.head.method in IDEMPOTENT)
        return safe and self.replayable and self._body_ended and self._tries < MAX_TRIES

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
        destination = self.route.destination
        if destination.known is False:
            self._fail(Failure.NO_SERVICE, now, unsent=True)
            return
        if not self._deadline:
            self._deadline = now + self.route.patience_s
        if not destination.wait(self):
            self._fail(Failure.SHED, now, unsent=True)
        elif self._timer is None:
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
            self.route.destination.leave(self)
            known = self.route.destination.known
            failure = Failure.NOT_RESOLVED if known is None else Failure.NO_ENDPOINT
            self._fail(failure, monotonic(), unsent=True)

    def _fail(self, failure: Failure, now: float, *, unsent: bool) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
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
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.client is not None:
            self.client.cancel()
            if self.live is not None and not self.responding:
                now = monotonic()
                self.live.ewma.observe(now - self._asked_at, now)  # it took so long at least
            self._leave_endpoint()
        elif self.live is None:
            self.route.destination.leave(self)

    def _leave_endpoint(self) -> None:
        if self.live is not None:
            self.live.ewma.pending -= 1
            self.live = None


_GRPC_STATUS = re.compile(rb"(?:^|\r\n)grpc-status:[ \t]*([0-9]{1,3})[ \t]*\r\n")


def _grpc_status(lines: bytes) -> str:
    """The status that trailers (field lines, each with its CRLF) tell; "2" (UNKNOWN) where they tell none."""
    found = _GRPC_STATUS.search(lines)
    return "2" if found is None else found[1].decode()
