"""The agent's side of the CA: signing through whichever source there is, and knowing how that source is.

A CA that is away is said once, shown in the status, and looked for again with a growing, jittered pause. What proxies
hold stays good meanwhile; their requests are refused with the reason and may be repeated.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from meshd.agent.clock import TrustPeriod, clocks_apart
from meshd.api.control import Certificate, Health
from meshd.api.names import Identity
from meshd.ca.source import CertificateSource, Refusal, Unreachable

log = logging.getLogger(__name__)

PROBE_EVERY_S = 20.0
"""Between looks at a CA that is well: certificates last hours, so this is for the status alone."""

PROBE_AGAIN_S = 1.0
"""The first pause before looking again at a CA that is away; it doubles up to PROBE_EVERY_S."""


class NotSigned(Exception):
    """There is no certificate; the message says why. `retry`: whether there may be one later."""

    def __init__(self, reason: str, *, retry: bool) -> None:
        super().__init__(reason)
        self.retry = retry


class Signer:
    """Certificates from `source`, which is called `name` in the status."""

    def __init__(
        self, source: CertificateSource, trust_bundle_pem: str, name: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._clock_trouble = ""
        self._clock = clock
        self._health = Health(name, healthy=True)
        self.use(source, trust_bundle_pem)

    def use(self, source: CertificateSource, trust_bundle_pem: str) -> None:
        """Sign through source from now on, for proxies that believe the roots of trust_bundle_pem. ValueError when
        that is no bundle."""
        self._trust_period = TrustPeriod(trust_bundle_pem)
        self._source, self.trust_bundle_pem = source, trust_bundle_pem

    def health(self) -> Health:
        """`since` is 0 until the CA was first heard from, or found to be away."""
        return self._health

    def troubles(self) -> Iterator[str]:
        """What is wrong with this host's time, for as long as it is."""
        yield from filter(None, (self._trust_period.trouble(self._clock()), self._clock_trouble))

    async def sign(self, csr_pem: str, identity: Identity) -> Certificate:
        """A certificate of identity for the CSR's key; NotSigned when there is none."""
        try:
            certificate = await self._source.sign(csr_pem, identity)
        except Refusal as error:
            log.warning("CA %s refused a certificate for %s: %s", self._health.name, identity, error)
            raise NotSigned(f"the CA refused: {error}", retry=False) from error
        except Unreachable as error:
            self._is_away(str(error))
            raise NotSigned(f"the CA is away: {error}", retry=True) from error
        self._is_well()
        self._compare_clocks(certificate)
        return certificate

    async def probe(self) -> None:
        """Look at the CA again and again."""
        pause_s = PROBE_AGAIN_S
        while True:
            try:
                await self._source.health()
            except Unreachable as error:
                self._is_away(str(error))
            except Refusal as error:
                self._is_away(f"refused: {error}")
            else:
                self._is_well()
            pause_s = PROBE_EVERY_S if self._health.healthy else min(pause_s * 2, PROBE_EVERY_S)
            await asyncio.sleep(pause_s * random.uniform(0.75, 1.25))  # noqa: S311 - spread, not secret

    def _compare_clocks(self, issued: Certificate) -> None:
        trouble = clocks_apart(issued, self._clock())
        if trouble and not self._clock_trouble:
            log.error("%s", trouble)
        self._clock_trouble = trouble

    def _is_away(self, reason: str) -> None:
        if self._health.healthy:
            log.error(
                "CA %s: %s; certificates in use stay good until they expire, none is renewed", self._health.name, reason
            )
            self._health = replace(self._health, healthy=False, message=reason, since=self._clock())
        else:
            self._health = replace(self._health, message=reason)

    def _is_well(self) -> None:
        if not self._health.healthy:
            log.info("CA %s answers again", self._health.name)
        if not self._health.healthy or not self._health.since:
            self._health = replace(self._health, healthy=True, message="", since=self._clock())
