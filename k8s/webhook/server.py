"""The webhooks' listener: HTTPS, with a certificate that is replaced while it serves.

    POST /inject      a pod
    POST /validate    a Service or Workload of the mesh

What the API server cannot be answered is an error of HTTP (400, 413, 503 …), and what comes of that its
`failurePolicy` says. Anybody who can connect may ask: an answer says nothing that the asker did not know but for the
installation's settings, which every pod has.

A review takes a millisecond, but for what must be read first (`k8s.webhook.namespaces`); it is made on the loop.
"""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from discovery.registry import Away
from k8s.webhook import reviews
from k8s.webhook.connections import Connections
from k8s.webhook.reviews import Answer, NoReview, Request
from meshd.api.complaints import Dam
from meshd.api.names import Address
from meshd.api.problems import Problem
from meshd.ca.certificates import KeyPair, key_pem, pem
from meshd.ca.door import Door
from meshd.ca.shown import Shown

complaints = logging.getLogger(__name__)
complaints.addFilter(Dam())

MAX_BODY_BYTES: Final = 8 << 20
"""The API server takes 3 MiB in a request, and an update is sent with what it replaces."""
BODY_WITHIN_S: Final = 10.0
ANSWER_WITHIN_S: Final = 10.0
MAX_HEADER_BYTES: Final = 8 << 10
SHUTDOWN_S: Final = 5.0
"""For reviews on their way."""

BUCKETS_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)

Review = Callable[[Request], Awaitable[Answer]]


class Durations:
    """A histogram of how long answers took."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        place = next((place for place, most in enumerate(BUCKETS_S) if seconds <= most), len(BUCKETS_S))
        self.counts[place] += 1
        self.sum_s += seconds


class WebhookServer:
    """Serves at `listen`: `review` has the answer for each path. `address` is where it listens, once it does."""

    def __init__(self, listen: Address, review: dict[str, Review]) -> None:
        self._listen, self._review = listen, review
        self.address = listen
        self.results: Counter[tuple[str, str]] = Counter()
        """(path without its slash, what came of it) → how often."""
        self.durations = {path: Durations() for path in review}
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.add_routes([web.post(path, self._answer) for path in review])
        application.on_response_prepare.append(self._prepared)
        self._runner = web.AppRunner(
            application,
            handle_signals=False,
            access_log=None,
            shutdown_timeout=SHUTDOWN_S,
            keepalive_timeout=24 * 3600.0,  # `Connections` knows better
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        self._shown = Shown()
        self._connections: Connections | None = None
        self._door: Door | None = None

    @property
    def connections(self) -> int:
        """How many are open."""
        return 0 if self._connections is None else self._connections.count

    @property
    def is_open(self) -> bool:
        return self._door is not None

    def show(self, pair: KeyPair) -> None:
        """Handshakes that begin from now on are with this certificate."""
        self._shown.show(key_pem(pair.key) + pem(pair.certificate))

    async def start(self) -> None:
        """Problem when it cannot listen."""
        await self._runner.setup()
        assert self._runner.server is not None
        self._connections = Connections(self._runner.server)
        door = Door(self._connections, self._shown.listener)
        try:
            self.address = await door.open(self._listen)
        except OSError as error:
            await self._runner.cleanup()
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise Problem(f"the webhooks cannot listen at {self._listen}: {reason}") from error
        self._door = door

    async def close(self) -> None:
        """No new connection, and reviews on their way are answered."""
        if self._door is not None:
            await self._door.close()
            self._door = None
        await self._runner.cleanup()

    # --- a review

    async def _answer(self, request: web.Request) -> web.Response:
        began = time.perf_counter()
        path = request.path
        assert self._connections is not None
        with self._connections.busy(request.transport):
            status, content, result = await self._answered(request)
        self.results[path.lstrip("/"), result] += 1
        self.durations[path].add(time.perf_counter() - began)
        if status == 200:
            return web.Response(body=content, content_type="application/json")
        complaints.warning("%s: %s", path, content.decode())
        return web.Response(status=status, body=content, content_type="text/plain")

    async def _answered(self, request: web.Request) -> tuple[int, bytes, str]:
        """(status, body, what came of it)"""
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                body = await request.read()
        except TimeoutError:
            return 408, b"the review did not come in time", "slow"
        except web.HTTPRequestEntityTooLarge:
            return 413, f"a review above {MAX_BODY_BYTES} bytes".encode(), "too large"
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                answer = await self._review[request.path](reviews.request_in(body))
        except NoReview as error:
            return 400, str(error)[:1024].encode(), "malformed"
        except (Away, TimeoutError) as error:
            return 503, (str(error) or "no answer in time")[:1024].encode(), "unavailable"
        return 200, answer.body, answer.result

    async def _prepared(self, request: web.Request, response: web.StreamResponse) -> None:
        """A connection that has lived long is given back, so that replicas that came later have their share."""
        if self._connections is not None and self._connections.is_old(request.transport):
            response.force_close()
