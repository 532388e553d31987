"""The JWT-SVIDs that processes get from the Workload API, and the keys that others' are checked with.

A token is asked for once for a workload and its audiences, shared by its processes, and given out until half of its
life is over, give or take; while the CA is away, for as long as it is good. Programs choose the audiences, so what is
kept is bounded, and how often a workload may have the CA asked: the rate that the CA gives this host is for all of its
workloads. Tokens are in memory alone.

How long a token is good is counted from when it was asked for: whatever the clock of the CA says, it is no longer.
"""

import json
import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from meshd.agent.certificates import NotSigned
from meshd.agent.core import Core
from meshd.agent.node import JITTER
from meshd.agent.workload.standing import Standing
from meshd.api.logs import about
from meshd.api.names import WorkloadName
from meshd.ca import jwt
from meshd.ca.jwt import BadToken, Point, Verified
from meshd.ca.material import when
from meshd.ca.rates import Rate, TooOften
from meshd.ca.wire import Jwk

log = logging.getLogger(__name__)

MAX_KEPT: Final = 1024
"""Tokens, by workload and audiences: 1 MB, and 22 MB at worst. The one that was asked for longest ago is forgotten."""

ASKED_PER_SECOND: Final = 5.0
"""Of the CA, for one workload in the long run; the CA gives a host 20 unless it is set otherwise."""

ASKED_BURST: Final = 100


@dataclass(slots=True)
class _Kept(Standing):
    """What there is for a workload and its audiences: a token is good until `ends_at`."""

    token: str = ""
    ends_at: float = 0.0


class Jwts:
    """Gets them from the CA through the agent's signer, and checks those of others by what it says of its keys."""

    def __init__(self, core: Core, draw: Callable[[float, float], float] = random.uniform) -> None:
        self._core, self._clock, self._draw = core, core.clock, draw
        self._kept: OrderedDict[tuple[WorkloadName, tuple[str, ...]], _Kept] = OrderedDict()
        self._rate = Rate(ASKED_PER_SECOND, ASKED_BURST, core.monotonic)

    async def get(self, workload: WorkloadName, audiences: Sequence[str]) -> str:
        """A token of the workload for these, in whatever order. NotSigned when there is none; TooOften when the
        workload has the CA asked too often; ValueError when no token can be for them."""
        wanted = tuple(sorted(set(audiences)))
        jwt.check_audiences(wanted)
        kept = self._of(workload, wanted)
        async with kept.lock:
            if kept.token and str(self._core.identity(workload)) in self._core.signer.trust.denied_peers:
                kept.token, kept.due_at = "", 0.0
            if self._clock() >= kept.due_at:
                await self._ask(workload, wanted, kept)
        if kept.token and self._clock() < kept.ends_at:
            return kept.token
        raise kept.error or NotSigned("the token has expired", retry=True)

    def keep(self, workloads: frozenset[WorkloadName]) -> None:
        """Forget the tokens of all others."""
        for key in [key for key in self._kept if key[0] not in workloads]:
            del self._kept[key]

    def verify(self, token: str, audience: str) -> Verified:
        """Whose the token is, and what it says. BadToken when it is not one of this trust domain for `audience`, or of
        somebody whom the CA denies."""
        now, trust = self._clock(), self._core.signer.trust
        believed = {each.kid for each in trust.jwt_keys if each.not_after > now}
        keys = {kid: key for kid, key in _public(trust.jwt_keys).items() if kid in believed}
        found = jwt.verify(token, keys, audience, self._core.trust_domain, now)
        if str(found.identity) in trust.denied_peers:
            raise BadToken(f"the CA denies {found.identity}")
        return found

    def key_set(self) -> bytes:
        """What tokens of this trust domain may be checked with, as a JWK set (RFC 7517, section 5; SPIFFE Trust Domain
        and Bundle, section 4); NotSigned while no key is known."""
        now = self._clock()
        keys = [_jwk(each) for each in self._core.signer.trust.jwt_keys if each.not_after > now]
        if not keys:
            raise NotSigned("the CA has not said by which keys it signs tokens", retry=True)
        return json.dumps({"keys": keys}).encode()

    def _of(self, workload: WorkloadName, audiences: tuple[str, ...]) -> _Kept:
        """What there is; a new place is only for a workload that may have the CA asked, or it would take others'."""
        key = (workload, audiences)
        if key not in self._kept:
            self._check_rate(workload)
            self._kept[key] = _Kept()
        self._kept.move_to_end(key)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _check_rate(self, workload: WorkloadName) -> None:
        if wait_s := self._rate.wait_s(str(workload)):
            raise TooOften(str(workload), wait_s)

    async def _ask(self, workload: WorkloadName, audiences: tuple[str, ...], kept: _Kept) -> None:
        asked_at = self._clock()
        if not (kept.token and asked_at < kept.ends_at):
            self._check_rate(workload)
        elif self._rate.wait_s(str(workload)):
            return  # what there is does for now
        self._rate.take(str(workload))
        try:
            signed = await self._core.signer.jwt(self._core.identity(workload), audiences)
        except NotSigned as error:
            kept.failed(error, self._clock())
            return
        life_s = signed.expires_at - signed.issued_at
        kept.token, kept.ends_at = signed.token, asked_at + life_s
        kept.got(asked_at + life_s * (0.5 + self._draw(-JITTER, JITTER)), kept.ends_at, self._clock())
        listed, until = " ".join(audiences)[:200], when(signed.expires_at)
        log.info("%s: token for %s, until %s", workload, listed, until, extra=about(workload=workload))


@lru_cache(maxsize=2)
def _public(keys: tuple[Jwk, ...]) -> Mapping[str, ec.EllipticCurvePublicKey]:
    """By their names, without those that are none."""
    found = {}
    for each in keys:
        try:
            found[each.kid] = Point(each.x, each.y).key()
        except ValueError as error:
            log.error("the CA's key %s for tokens is not taken: %s", each.kid, error)
    return found


def _jwk(key: Jwk) -> dict[str, str]:
    return {
        "kty": "EC",
        "crv": "P-256",
        "alg": jwt.ALGORITHM,
        "use": "jwt-svid",
        "kid": key.kid,
        "x": key.x,
        "y": key.y,
    }
