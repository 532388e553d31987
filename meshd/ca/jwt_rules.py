"""What the CA asks before it signs a JWT-SVID: the rules of certificates (`meshd.ca.rules`) as far as they are about
who asks for whom, and those of tokens.

What a token says besides its identity, audiences and life is no one's to ask for (`meshd.ca.jwt`).
"""

import math
from dataclasses import dataclass

from meshd.api.names import Identity
from meshd.ca.certificates import Life
from meshd.ca.jwt import DEFAULT_LIFE_S, LEAST_LIFE_S, MOST_LIFE_S, check_audiences
from meshd.ca.records import JwtKey
from meshd.ca.requester import Requester
from meshd.ca.rules import Claim, Denials, OfTrustDomain, Pipeline, is_granted, is_not_denied
from meshd.ca.source import Forbidden, Refusal, Unreachable


@dataclass(frozen=True, slots=True)
class AskedJwt:
    """What is asked for, by whom, and when; `life_s` is 0 for the usual, `denied` what is no longer believed."""

    identity: Identity
    audiences: tuple[str, ...]
    life_s: float
    now: float
    requester: Requester
    denied: Denials


def is_of_a_workload(asked: Claim) -> None:
    """Authorise: a host's identity is good for asking the CA, and says nothing to anybody else."""
    if asked.identity.host:
        raise Forbidden(f"{asked.identity} is a host's identity, and tokens are of workloads")


def begin_and_end(asked: AskedJwt, life: Life) -> Life:  # noqa: ARG001 - a Change
    """Modify: from now, for as long as was asked for, or five minutes."""
    return Life(asked.now, asked.now + (asked.life_s or DEFAULT_LIFE_S))


def is_for_audiences(asked: AskedJwt) -> None:
    """Validate: a token says for whom it is, and not for just anybody (JWT-SVID, section 3.2)."""
    try:
        check_audiences(asked.audiences)
    except ValueError as error:
        raise Refusal(str(error)) from error


def is_short_lived(asked: AskedJwt) -> None:
    """Validate: who has a token may use it, so it is good for an hour at most."""
    if asked.life_s and not (math.isfinite(asked.life_s) and LEAST_LIFE_S <= asked.life_s <= MOST_LIFE_S):
        raise Refusal(f"a token is good for {LEAST_LIFE_S:g} to {MOST_LIFE_S:g} seconds, not {asked.life_s:g}")


def within_requester(asked: AskedJwt, life: Life) -> Life:
    """Enforce: a token ends no later than what its requester proved itself with."""
    not_after = min(life.not_after, asked.requester.until)
    if not_after < asked.now + LEAST_LIFE_S:
        raise Forbidden(f"what {asked.requester.name} proved itself with is about to expire: renew it first")
    return Life(life.not_before, not_after)


@dataclass(frozen=True, slots=True)
class WithinKey:
    """Enforce: a token ends no later than its key is believed."""

    key: JwtKey

    def __call__(self, asked: AskedJwt, life: Life) -> Life:
        not_after = min(life.not_after, self.key.not_after)
        if not_after < asked.now + LEAST_LIFE_S:
            raise Unreachable("the CA's key for JWT-SVIDs is about to expire: see the log of the CA")
        return Life(life.not_before, not_after)


def jwt_rules(trust_domain: str, key: JwtKey) -> Pipeline[AskedJwt]:
    """The rules of a CA of trust_domain that signs with that key."""
    return Pipeline(
        authorise=(OfTrustDomain(trust_domain), is_granted, is_of_a_workload, is_not_denied),
        modify=(begin_and_end,),
        validate=(is_for_audiences, is_short_lived),
        enforce=(within_requester, WithinKey(key)),
    )
