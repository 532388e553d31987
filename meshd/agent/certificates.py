"""The agent's side of the CA: signing through whichever source there is, and knowing how that source is.

A CA that is away, or does not know this host, is said once, shown in the status, and looked for again with a growing,
jittered pause. What proxies hold stays good meanwhile; their requests are refused with the reason and may be repeated.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from meshd.agent.clock import TrustPeriod
from meshd.agent.trust import Trust, TrustFile
from meshd.api.backoff import Backoff
from meshd.api.clocks import clocks_apart
from meshd.api.control import Certificate, Health
from meshd.api.logs import about
from meshd.api.names import Identity
from meshd.api.problems import Misuse, Problem
from meshd.ca.source import CertificateSource, Forbidden, NotAuthenticated, Refusal, Unable, Unreachable
from meshd.ca.wire import Bundle, Token

log = logging.getLogger(__name__)

LOOK_EVERY_S = 20.0
"""Between looks at a CA that is well: certificates last hours, so this is for the status alone. It is also the longest
pause between looks at one that is away."""

UNABLE_S = 60.0
"""A CA that answers, and that could not sign a moment ago, is not well for its answering; who waits for a certificate
asks again within this time."""

LOOK_AGAIN_S = 1.0
"""The first pause before looking again at a CA that is away."""


class NotSigned(Exception):
    """There is no certificate; the message says why. `retry`: whether there may be one later."""

    def __init__(self, reason: str, *, retry: bool) -> None:
        super().__init__(reason)
        self.retry = retry


def _no_failures() -> dict[str, int]:
    return dict.fromkeys(("not_authenticated", "forbidden", "refused", "unreachable"), 0)


@dataclass(slots=True)
class Signed:
    """How many certificates the CA signed, and did not, for workloads since the start, and how many `tokens`, which are
    JWT-SVIDs. `renewed` are those certificates issued that took another's place, as far as who asks for them knows."""

    issued: int = 0
    renewed: int = 0
    failed: dict[str, int] = field(default_factory=_no_failures)
    tokens: int = 0
    tokens_failed: dict[str, int] = field(default_factory=_no_failures)


class Signer:
    """Certificates from `source`, which is called `name` in the status. `watch` and `follow` run beside it for as long
    as it is in use. `changed` is called when the CA went away or came back, and when there is something else to believe
    (`trust`, kept in `memory`): the roots, and what is denied. `oldest` says since when the oldest certificate of the
    proxies here has been good, in seconds since the epoch; 0 when that is not known. `ask_every_s` is the longest pause
    between questions for news of a CA that answers at once, as it does where it does not let this one wait."""

    def __init__(
        self,
        source: CertificateSource,
        trust_bundle_pem: str,
        name: str,
        clock: Callable[[], float] = time.time,
        memory: TrustFile | None = None,
        ask_every_s: float = LOOK_EVERY_S,
    ) -> None:
        """Problem when what is remembered cannot be read."""
        self._clock, self._memory, self._ask_every_s = clock, memory, ask_every_s
        self.trust = memory.recall() if memory is not None else Trust()
        self.signed = Signed()
        self._clock_trouble = ""
        self._away = self._unknown = ""
        self._health = Health(name, healthy=True)
        self.changed: Callable[[], None] = lambda: None
        self._woken = asyncio.Event()
        self.oldest: Callable[[], float] = lambda: 0.0
        self._said = 0.0
        self._has_asked = False
        self._asking: asyncio.Timeout | None = None
        self.use(source, trust_bundle_pem)

    def use(self, source: CertificateSource, pinned_pem: str) -> None:
        """Sign through source from now on, for proxies that believe the roots of pinned_pem, or those that the CA told
        of since it was first trusted by those. ValueError when that is no bundle."""
        trust = self.trust.since(pinned_pem)
        bundle_pem = trust.bundle_pem or pinned_pem
        self._trust_period = TrustPeriod(bundle_pem)
        if trust.bundle_pem:
            source.trust(bundle_pem, trust.renewal)
        self.trust, self._source, self.trust_bundle_pem = trust, source, bundle_pem
        self._unable_at = -math.inf
        self._unknown = ""  # who asks may be another now

    def health(self) -> Health:
        """`since` is 0 until the CA was first heard from, or found to be away."""
        health, roots = self._health, self._trust_period.roots
        if roots > 1 and health.healthy:
            message = f"its root is being changed: {roots} roots are believed"
            renewal = self.trust.renewal
            if renewal is not None and self._oldest() < renewal.issued_before:
                message += ", certificates are being renewed"
            return Health(health.name, healthy=True, message=message, since=health.since)
        return health

    def troubles(self) -> Iterator[str]:
        """What is wrong with this host's time, for as long as it is."""
        yield from filter(None, (self._trust_period.trouble(self._clock()), self._clock_trouble))

    async def sign(self, csr_pem: str, identity: Identity) -> Certificate:
        """A certificate of identity for the CSR's key; NotSigned when there is none."""
        with self._calling("certificate", identity, self.signed.failed):
            certificate = await self._source.sign(csr_pem, identity)
        self.signed.issued += 1
        self._compare_clocks(certificate)
        return certificate

    async def jwt(self, identity: Identity, audiences: tuple[str, ...]) -> Token:
        """A JWT-SVID of identity for these audiences; NotSigned when there is none."""
        with self._calling("token", identity, self.signed.tokens_failed):
            token = await self._source.jwt(identity, audiences)
        self.signed.tokens += 1
        return token

    @contextmanager
    def _calling(self, kind: str, identity: Identity, failed: dict[str, int]) -> Iterator[None]:
        """Around a call to the CA: what of it shows how the CA is, what its errors mean, and how many there were."""
        what, known = f"a {kind} of {identity}", about(workload=identity.workload)
        try:
            yield
        except NotAuthenticated as error:
            failed["not_authenticated"] += 1
            self._unknown = f"it does not know this host: {error}"
            self._judge()
            raise NotSigned(f"the CA does not know this host: {error}", retry=True) from error
        except Forbidden as error:  # of this identity, for now: others may be signed, and an entry can be added
            failed["forbidden"] += 1
            log.warning("CA %s does not sign %s for this host: %s", self._health.name, what, error, extra=known)
            raise NotSigned(f"the CA does not sign this for this host: {error}", retry=True) from error
        except Refusal as error:
            failed["refused"] += 1
            log.warning("CA %s refused %s: %s", self._health.name, what, error, extra=known)
            raise NotSigned(f"the CA refused: {error}", retry=False) from error
        except Unreachable as error:
            failed["unreachable"] += 1
            self._away = str(error)
            self._unable_at = self._clock() if isinstance(error, Unable) else -math.inf
            self._judge()
            raise NotSigned(f"the CA is away: {error}", retry=True) from error
        self._away = self._unknown = ""
        self._unable_at = -math.inf
        self._judge()

    async def watch(self) -> None:
        """Look at the CA again and again."""
        backoff = Backoff(LOOK_AGAIN_S, LOOK_EVERY_S)
        while True:
            await self._look()
            if self._health.healthy:
                backoff.reset()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s()):
                        await self._woken.wait()
                self._woken.clear()
            await asyncio.sleep(backoff.next_s())

    def _pause_s(self) -> float:
        """Until the next look. A look also renews the host's own certificate, and the CA may want that within less than
        the time between looks; where it gives more, a mesh that renews does not look more often."""
        renewal = self.trust.renewal
        if renewal is None or self._source.begun() >= renewal.issued_before:
            return LOOK_EVERY_S
        return min(max(renewal.within_s / 10, LOOK_AGAIN_S), LOOK_EVERY_S)

    async def follow(self) -> None:
        """Keep up with the CA's roots and with what it denies; to be run beside `watch`. `changed` is called with each
        change of either."""
        backoff = Backoff(LOOK_AGAIN_S, self._ask_every_s)
        while True:
            asked_at = time.monotonic()
            self._said = self._oldest()
            try:
                async with asyncio.timeout(None) as self._asking:
                    news = await self._source.news(self._known(), self._said)
            except TimeoutError:  # `renewed`: there is something to be said
                continue
            except (Unreachable, Refusal):  # which `watch` finds too, and says
                await asyncio.sleep(backoff.next_s())
                continue
            finally:
                self._asking = None
            self._has_asked = True
            has_learnt = self._is_news(news) and self._learn(news)
            if not has_learnt and news.again_s > 0:  # the CA has no place for one who waits
                again_s = min(news.again_s, LOOK_EVERY_S)
                await asyncio.sleep(Backoff(again_s, again_s).next_s())
            elif not has_learnt and time.monotonic() - asked_at < LOOK_AGAIN_S:
                await asyncio.sleep(backoff.next_s())
            else:
                backoff.reset()

    def renewed(self) -> None:
        """To be called when proxies may have other certificates: the CA waits to hear that none is left which is to be
        renewed, and it hears at once."""
        renewal, asking = self.trust.renewal, self._asking
        if renewal is None or asking is None or asking.expired() or self._said >= renewal.issued_before:
            return
        if self._oldest() >= renewal.issued_before:
            asking.reschedule(asyncio.get_running_loop().time())

    def _oldest(self) -> float:
        """Since when the oldest certificate in use on this host has been good, in whole seconds since the epoch."""
        return float(int(min(self.oldest(), self._source.begun(), self._clock())))

    def _known(self) -> int:
        """The number of what this host has. What was kept by a version that knew of no keys of tokens has the number of
        what there is, and none of them: so who has none asks once as if for the first time."""
        return self.trust.sequence if self.trust.jwt_keys or self._has_asked else 0

    def _is_news(self, news: Bundle) -> bool:
        """Under the same number only the keys of tokens can be others: those that were not known (`_known`), and what
        has expired is left out. An answer that says when to ask again holds nothing."""
        trust = self.trust
        return news.sequence > trust.sequence or (
            news.sequence == trust.sequence and news.jwt_keys != trust.jwt_keys and not news.again_s
        )

    def _learn(self, news: Bundle) -> bool:
        """Believe what is news, which came over TLS that the bundle until now verified; whether it could be."""
        try:
            trust_period = TrustPeriod(news.bundle_pem)
            self._source.trust(news.bundle_pem, news.renewal)
        except (ValueError, Misuse) as error:
            log.error("CA %s says what is no trust bundle, and is not followed: %s", self._health.name, error)
            return False
        if news.bundle_pem.strip() != self.trust_bundle_pem.strip():
            log.info("the trust bundle is another now: %s", trust_period)
        if news.denied != self.trust.denied:
            log.info("the CA denies %d certificates, workloads and nodes", len(news.denied))
        self.trust, self._trust_period = self.trust.followed_by(news), trust_period
        self.trust_bundle_pem = news.bundle_pem
        self._woken.set()  # the host's own certificate may have to be renewed
        if self._memory is not None:
            try:
                self._memory.keep(self.trust)
            except Problem as problem:
                log.error("what is to be believed is not kept for the next start: %s", problem)
        self.changed()
        return True

    async def _look(self) -> None:
        try:
            await self._source.health()
        except (Unreachable, Refusal) as error:
            self._away = str(error)
        else:
            if abs(self._clock() - self._unable_at) >= UNABLE_S:
                self._away = ""
        self._judge()

    def _judge(self) -> None:
        before = self._health
        trouble = (self._away or self._unknown).removeprefix(f"{before.name}: ")  # its URL, which health begins with
        if trouble and before.healthy:
            log.error(
                "CA %s: %s; certificates in use stay good until they expire, none is renewed", before.name, trouble
            )
            self._woken.set()
        elif not trouble and not before.healthy:
            log.info("CA %s is well again", before.name)
            self._woken.clear()
        is_news = before.healthy == bool(trouble) or not before.since
        self._health = Health(before.name, not trouble, trouble, self._clock() if is_news else before.since)
        if before.healthy != self._health.healthy:
            self.changed()

    def _compare_clocks(self, issued: Certificate) -> None:
        trouble = clocks_apart(issued, self._clock())
        if trouble and not self._clock_trouble:
            log.error("%s", trouble)
        self._clock_trouble = trouble
