"""The mesh's CA, as a controller deals with it: for its own certificate, and for those of sidecars.

A sidecar's request goes on with the sidecar's own token, which the CA has reviewed itself: a controller by itself can
have no certificate but the controller's. Who has broken into one could put another key in place of a sidecar's, while
the token is good that the sidecar shows meanwhile: for those workloads, and for no others. What the CA says of roots
and of denials is followed as an agent does (`meshd.agent.certificates`), with the controller's token.
"""

import asyncio
import hashlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from meshd.agent import node
from meshd.agent.certificates import NotSigned, Signer
from meshd.api.backoff import Backoff
from meshd.api.clocks import rest_s, until_good
from meshd.api.control import Certificate
from meshd.api.names import Identity
from meshd.ca import certificates
from meshd.ca.failover import Failover
from meshd.ca.rates import Rate
from meshd.ca.source import Refusal, Unreachable
from meshd.ca.wire import Bundle, Renewal, Token

log = logging.getLogger(__name__)

RETRY_MIN_S, RETRY_MAX_S = 1.0, 30.0
JITTER: Final = 0.05
MAX_TOKEN_BYTES: Final = 16 << 10

SIGNED_PER_SECOND, SIGNED_AT_ONCE = 0.1, 256
"""Certificates that are asked for with one token, which is one pod's: those of its workers, some times over. The CA
knows all pods by the controller's address, and one of them is not to use up what there is for all."""

MAX_SIGNING: Final = 128
"""Requests of sidecars that are at the CA at a time; the others wait for their turn."""


class AccountSource:
    """The CAs that `clients` are of, to which the service account's token in `token_file` is shown; it is read for each
    call, since the kubelet replaces it. It is a `meshd.ca.source.CertificateSource`."""

    def __init__(self, clients: Failover, token_file: Path) -> None:
        self._clients, self._token_file = clients, token_file
        self.not_before = time.time()
        """When the controller's own certificate begins."""

    async def sign(self, csr_pem: str, identity: Identity) -> Certificate:
        return await self._clients.sign(csr_pem, identity, await asyncio.to_thread(self._token))

    async def sign_for(self, token: str, csr_pem: str, identity: Identity) -> Certificate:
        """The same for whoever the token is of."""
        return await self._clients.sign(csr_pem, identity, token)

    async def jwt(self, identity: Identity, audiences: tuple[str, ...]) -> Token:
        raise Refusal(f"a controller asks for no token of {identity} for {', '.join(audiences)}")

    async def news(self, after: int, oldest: float = 0.0) -> Bundle:
        return await self._clients.news(after, oldest)

    def trust(self, bundle_pem: str, renewal: Renewal | None = None) -> None:
        self._clients.trust(bundle_pem, renewal)

    def begun(self) -> float:
        return self.not_before

    async def health(self) -> None:
        await self._clients.health()

    def _token(self) -> str:
        try:
            with self._token_file.open("rb") as opened:
                return opened.read(MAX_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise Unreachable(f"{self._token_file}: the service account's token cannot be read: {reason}") from error


class Issuing:
    """Certificates for sidecars, from `source`. `results` counts requests by what came of them."""

    def __init__(self, source: AccountSource, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._turns = asyncio.Semaphore(MAX_SIGNING)
        self._rate = Rate(SIGNED_PER_SECOND, SIGNED_AT_ONCE, monotonic)
        self.results: Counter[str] = Counter({"signed": 0, "refused": 0, "away": 0})

    async def sign(self, token: str, csr_pem: str, identity: Identity) -> Certificate:
        """A certificate of identity, which the token is to prove to the CA. NotSigned."""
        pod = hashlib.sha256(token.encode()).hexdigest()
        if wait_s := self._rate.wait_s(pod):
            self.results["refused"] += 1
            raise NotSigned(f"too many certificates for this pod: again in {wait_s:.0f} s", retry=True)
        self._rate.take(pod)
        try:
            async with self._turns:
                certificate = await self._source.sign_for(token, csr_pem, identity)
        except Refusal as error:  # of this token: it may be another the next time
            self.results["refused"] += 1
            log.warning("the CA does not sign %s: %s", identity, error)
            raise NotSigned(f"the CA does not sign this: {error}", retry=True) from error
        except Unreachable as error:
            self.results["away"] += 1
            raise NotSigned(f"the CA is away: {error}", retry=True) from error
        self.results["signed"] += 1
        return certificate


class OwnCertificate:
    """The controller's: got, and renewed at two thirds of its life or when the CA's root is about to change. `changed`
    is called with each. `pem` is the key with its chain, empty before there is one."""

    def __init__(
        self,
        signer: Signer,
        source: AccountSource,
        identity: Identity,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._signer, self._source, self._identity = signer, source, identity
        self._changed, self._clock = changed, clock
        self._woken = asyncio.Event()
        self._renewal: Renewal | None = None
        self._renew_at = 0.0
        self.pem = b""
        self.not_before = self.not_after = 0.0
        self.trouble = ""

    def heed(self) -> None:
        """The CA may have said that certificates are to be renewed."""
        renewal = self._signer.trust.renewal
        if renewal is not None and renewal != self._renewal:
            self._renewal = renewal
            self._renew_at = self._clock() + random.uniform(0.0, renewal.within_s)  # noqa: S311 - jitter
            self._woken.set()

    async def run(self) -> None:
        """For ever."""
        backoff = Backoff(RETRY_MIN_S, RETRY_MAX_S)
        while True:
            key = certificates.new_key()
            try:
                certificate = await self._signer.sign(node.request(key), self._identity)
            except NotSigned as error:
                if str(error) != self.trouble:
                    log.error("no certificate of %s: %s", self._identity, error)
                self.trouble = str(error)
                await asyncio.sleep(backoff.next_s())
                continue
            self.trouble = ""
            await until_good(certificate.not_before, self._serves_until, self._clock)
            self.pem = certificates.key_pem(key) + certificate.chain_pem.encode()
            self.not_before, self.not_after = certificate.not_before, certificate.not_after
            self._source.not_before = certificate.not_before
            self._changed()
            log.info("%s: certificate until %s", self._identity, time.strftime("%FT%TZ", time.gmtime(self.not_after)))
            due = self._due()
            if self._left_s(due) > 0:
                backoff.reset()
            await asyncio.sleep(rest_s(backoff.next_s(), self.not_after, self._clock(), RETRY_MIN_S))
            await self._until_due(due)

    def _serves_until(self) -> float:
        """Not at all where the CA wants another before its time."""
        return self.not_after if self.pem and not self._is_older() else 0.0

    def _is_older(self) -> bool:
        return self._renewal is not None and self.not_before < self._renewal.issued_before

    def _due(self) -> float:
        share = 2 / 3 + random.uniform(-JITTER, JITTER)  # noqa: S311 - jitter
        return self.not_before + (self.not_after - self.not_before) * share

    def _left_s(self, due: float) -> float:
        return (min(due, self._renew_at) if self._is_older() else due) - self._clock()

    async def _until_due(self, due: float) -> None:
        while True:
            self._woken.clear()
            left_s = self._left_s(due)
            if left_s <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._woken.wait()
