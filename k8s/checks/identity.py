"""What the CA signs with: the trust anchors, and the issuer in its Secret."""

import time
from collections.abc import Iterator

from cryptography import x509

from k8s import installed
from k8s.checks import kinds as of
from k8s.checks.kinds import Kind
from k8s.installed import Found
from k8s.manifests.identity import ISSUER_SECRET
from meshd.agent.check.kinds import Check
from meshd.ca.certificates import Life
from meshd.ca.material import when

WARN_UNDER_S = 60 * 86400.0
"""As `linkerd check` has it."""

_ROOT = "have another root follow it, in the steps of docs/kubernetes.md"
_ISSUER = "`meshd upgrade --root-key-file FILE | kubectl apply -f -`, or have it renewed where its root is"


def checks(found: Found) -> Iterator[Check]:
    now = time.time()
    anchors = x509.load_pem_x509_certificates(found.keys.anchors.encode())
    if found.lacks_issuer:
        said = f"the Secret {ISSUER_SECRET} is missing"
        yield of.ISSUER_READ.error(said, "restore it, or `meshd upgrade --root-key-file FILE | kubectl apply -f -`")
    elif found.keys.chain:
        yield from _issuer(found, now)
    yield from _lives(anchors, now, of.ANCHORS_VALID, of.ANCHORS_LAST, _ROOT)


def _issuer(found: Found, now: float) -> Iterator[Check]:
    """What something else makes is not looked at here: the CA says what it finds in it."""
    chain = x509.load_pem_x509_certificates(found.keys.chain.encode())
    if not installed.roots_above(found.keys.chain, found.keys.anchors):
        yield of.ISSUER_READ.error("it is not below one of the trust anchors: no peer believes what it signs", _ROOT)
    else:
        yield of.ISSUER_READ.well()
    yield from _lives(chain[:1], now, of.ISSUER_VALID, of.ISSUER_LASTS, _ISSUER)


def _lives(found: list[x509.Certificate], now: float, valid: Kind, lasts: Kind, hint: str) -> Iterator[Check]:
    lives = {each.subject.rfc4514_string(): Life.of(each) for each in found}
    bad = [
        f"{name} is good from {when(life.not_before)} to {when(life.not_after)}"
        for name, life in lives.items()
        if not life.not_before <= now < life.not_after
    ]
    if bad:
        yield valid.error("\n".join(bad), hint)
        return
    yield valid.well()
    soon = [
        f"{name} ends at {when(life.not_after)}" for name, life in lives.items() if life.not_after < now + WARN_UNDER_S
    ]
    yield lasts.warning("\n".join(soon), hint) if soon else lasts.well()
