"""Whose a service account's token is, by the API server's word (TokenReview, `meshd.ca.kubernetes`).

What was good is believed for a moment, so that a sidecar that attaches and then asks for a certificate costs one
review; an address whose tokens are not good is answered without one after a while. No token is kept: what is remembered
is found by its hash. The CA, which signs, believes none of this and has the token reviewed itself.
"""

import hashlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from discovery.kubernetes.access import Access, Gone
from discovery.registry import Away
from meshd.agent.registry import Unacceptable
from meshd.api.complaints import Dam
from meshd.ca.kubernetes import REVIEWS, Account, is_token, review_of, reviewed
from meshd.ca.rates import Rate
from meshd.ca.source import Refusal

log = logging.getLogger(__name__)
log.addFilter(Dam())

BELIEVED_S: Final = 60.0
MAX_BELIEVED: Final = 10_000

FAILURES_PER_SECOND, FAILURES_AT_ONCE = 0.5, 30
"""Of one address, as the CA has it: beyond it the API server is not asked."""


class Reviews:
    """By `access`. `results` counts reviews by what came of them."""

    def __init__(
        self,
        access: Access,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._access, self._clock, self._monotonic = access, clock, monotonic
        self._believed: OrderedDict[bytes, tuple[Account, float]] = OrderedDict()
        self._failures = Rate(FAILURES_PER_SECOND, FAILURES_AT_ONCE, monotonic)
        self.results: Counter[str] = Counter({"good": 0, "refused": 0, "away": 0})

    async def account(self, token: str, address: str) -> Account:
        """Whose the token is that was shown at an address. Unacceptable."""
        key = hashlib.sha256(token.encode()).digest()
        known = self._believed.get(key)
        if known is not None and known[1] > self._monotonic() and known[0].until > self._clock():
            return known[0]
        if wait_s := self._failures.wait_s(address):
            raise Unacceptable(f"too many tokens of {address} were not good: again in {wait_s:.0f} s", retry=True)
        try:
            account = await self._reviewed(token)
        except Refusal as error:
            self.results["refused"] += 1
            self._failures.take(address)
            if error.detail:
                log.warning("the token of %s is not good: %s: %s", address, error, error.detail[:300])
            # the kubelet renews tokens, and the file is read again
            raise Unacceptable(str(error), retry=True) from error
        except (Away, Gone, ValueError) as error:
            self.results["away"] += 1
            raise Unacceptable(f"the API server does not review the token now: {error}", retry=True) from error
        self.results["good"] += 1
        self._believed[key] = (account, self._monotonic() + BELIEVED_S)
        if len(self._believed) > MAX_BELIEVED:
            self._believed.popitem(last=False)
        return account

    async def _reviewed(self, token: str) -> Account:
        if not is_token(token):
            raise Refusal("that is no service account's token")
        return reviewed(await self._access.post(REVIEWS, review_of(token)), token)
