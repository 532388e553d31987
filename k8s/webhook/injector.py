"""The injector of one controller: both webhooks, and what they need to know. Started whole, closed whole.

    injector = Injector(installation, Access(""), Address("0.0.0.0", 8443))

It is ready once the API server knows its certificate, the namespaces are listed and, where that matters, the cluster's
version is known. Before that, and while nothing can be known, a review is answered by an error, and what comes of it
`failurePolicy` says.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from discovery.kubernetes.access import Access, Gone
from discovery.registry import Away
from k8s.settings import Installation
from k8s.webhook.keeping import Keeper
from k8s.webhook.namespaces import Namespaces
from k8s.webhook.reviews import Answer, Request, mutated, validated
from k8s.webhook.server import BUCKETS_S, WebhookServer
from meshd.admin.page import counters, gauge
from meshd.api.names import Address
from meshd.api.tasks import Tasks

log = logging.getLogger(__name__)

INJECT: Final = "/inject"
VALIDATE: Final = "/validate"

PATIENCE_S: Final = 60.0

VERSION_AGAIN_S: Final = 5.0
VERSION_EVERY_S: Final = 600.0
"""A cluster is upgraded while controllers run."""


class _Version(Struct, frozen=True):
    major: str
    minor: str


class Injector(Collector):
    """Serves at `listen`. `anchors` says what is to be trusted now, PEM, where that may become something else than the
    installation's: pods that are made while the CA's root is followed by another begin with both. It goes on for
    `linger_s` after it is told to end: API servers hear of that a little later."""

    def __init__(
        self,
        installation: Installation,
        access: Access,
        listen: Address,
        clock: Callable[[], float] = time.time,
        anchors: Callable[[], str] = str,
        linger_s: float = 0.0,
    ) -> None:
        self._linger_s = linger_s
        self._installation, self._access, self._anchors = installation, access, anchors
        self.namespaces = Namespaces(access)
        self.server = WebhookServer(listen, {INJECT: self._inject, VALIDATE: self._validate})
        self.keeper = Keeper(access, installation, self.server.show, clock)
        self._version: tuple[int, int] | None = None
        self._started: float | None = None
        self._tasks = Tasks("injector")

    def waiting_for(self) -> tuple[str, ...]:
        """What keeps it from being ready; nothing, once PATIENCE_S are over: sidecars are served by the same process,
        and are not to be without a controller because the API server is away."""
        found = []
        if self._started is not None and asyncio.get_running_loop().time() > self._started + PATIENCE_S:
            return ()
        if not self.server.is_open:
            found.append("the webhooks' listener")
        if not self.keeper.announced:
            found.append(f"the webhooks' certificate: {self.keeper.trouble or 'it is being made'}")
        if not self.namespaces.listed:
            found.append(f"the namespaces: {self.namespaces.trouble}")
        if self._native() is None:
            found.append("the cluster's version")
        return tuple(found)

    async def start(self) -> None:
        """Returns when it listens; it may be not ready yet. Problem when it cannot listen."""
        await self.server.start()
        self._started = asyncio.get_running_loop().time()
        self._tasks.start(self.keeper.run(), "certificate")
        self._tasks.start(self.namespaces.run(), "namespaces")
        self._tasks.start(self._ask_version(), "version")
        log.info("webhooks at https://%s", self.server.address)

    async def close(self) -> None:
        """Reviews on their way are answered. The access is its owner's to close."""
        await asyncio.sleep(self._linger_s if self.server.is_open else 0.0)
        await self.server.close()
        await self._tasks.cancel()

    # --- reviews

    async def _inject(self, request: Request) -> Answer:
        native = self._native()
        if native is None:
            raise Away("the cluster's version is not known yet, and with it what kind of sidecars it has")
        annotations = await self.namespaces.annotations(request.namespace)
        return mutated(request, annotations, self._current(), native=native)

    def _current(self) -> Installation:
        """The installation, with what is to be trusted now."""
        anchors = self._anchors()
        if anchors.strip() and anchors != self._installation.trust_anchors:
            self._installation = replace(self._installation, trust_anchors=anchors)
        return self._installation

    async def _validate(self, request: Request) -> Answer:
        return validated(request)

    # --- the cluster's version

    def _native(self) -> bool | None:
        """None where nobody knows yet."""
        installation = self._installation
        if installation.native_sidecar == "auto" and self._version is None:
            return None
        return installation.native(self._version)

    async def _ask_version(self) -> None:
        while True:
            try:
                body = await self._access.get("/version", {})
                said = msgspec.json.decode(body or b"", type=_Version)
                self._version = int(said.major), int(re.sub(r"\D.*", "", said.minor))
            except (Away, Gone, msgspec.DecodeError, ValueError) as error:
                log.warning("the cluster's version: %s", error)
            wait_s = VERSION_AGAIN_S if self._version is None else VERSION_EVERY_S
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - to spread load

    # --- metrics

    def collect(self) -> Iterator[Metric]:
        yield from counters(
            "meshd_injector_reviews_total",
            "Reviews that were answered, by webhook and by what came of them.",
            ("webhook", "result"),
            self.server.results.items(),
        )
        durations = HistogramMetricFamily(
            "meshd_injector_review_duration_seconds", "How long answers took.", labels=("webhook",)
        )
        for path, each in self.server.durations.items():
            counts, total = [], 0
            for count in each.counts:
                total += count
                counts.append(total)
            bounds = (*map(str, BUCKETS_S), "+Inf")
            durations.add_metric((path.lstrip("/"),), list(zip(bounds, counts, strict=True)), each.sum_s)
        yield durations
        yield from gauge("meshd_injector_connections", "Open connections to the webhooks.", self.server.connections)
        yield from gauge(
            "meshd_injector_certificate_expiration_timestamp_seconds",
            "When the webhooks' certificate expires; 0 where there is none yet.",
            self.keeper.not_after,
        )
        yield from gauge(
            "meshd_injector_namespaces_up", "Whether the namespaces can be watched.", self.namespaces.current
        )
