"""What of an authority is about JWT-SVIDs: who may have one, and the signing. `meshd.ca.authority` is the rest of it.

    authorise → modify → validate → enforce (`meshd.ca.jwt_rules`) → sign → the audit log

A token is on no record but the audit log's, and there before it is returned. What ends it is its short life, or a
denial of its identity; a host that is denied gets none any more.
"""

import logging
import secrets
from collections.abc import Callable
from typing import Final

from meshd.api.logs import about
from meshd.api.names import Identity
from meshd.ca import jwt
from meshd.ca.audit import AuditLog
from meshd.ca.jwt_keys import JwtKeys
from meshd.ca.jwt_rules import AskedJwt, jwt_rules
from meshd.ca.material import when
from meshd.ca.requester import ITSELF, Requester
from meshd.ca.rules import Denials
from meshd.ca.store import Store
from meshd.ca.wire import Jwk, Token

log = logging.getLogger(__name__)

MAX_LOGGED: Final = 400
"""Characters of the audiences, which a peer chose, in a line of the log."""


class JwtAuthority:
    """Signs with `keys`. It has no clock, and may be called from several threads, but `keep` from one at a time."""

    def __init__(
        self,
        trust_domain: str,
        keys: JwtKeys,
        store: Store,
        audit: AuditLog | None,
        denials: Callable[[], Denials],
    ) -> None:
        self._trust_domain, self._keys, self._store, self._audit = trust_domain, keys, store, audit
        self._denials = denials

    def issue(
        self, identity: Identity, audiences: tuple[str, ...], life_s: float, now: float, requester: Requester
    ) -> Token:
        """A JWT-SVID of identity for the audiences, by the rules; life_s is 0 for the usual. Refusal or Unreachable
        when there is none."""
        signing = self._keys.signing(now)
        asked = AskedJwt(identity, audiences, life_s, now, requester, self._denials())
        life = jwt_rules(self._trust_domain, signing.record).decide(asked)
        claims = jwt.Claims(identity, audiences, int(life.not_before), int(life.not_after), secrets.token_hex(16))
        token = jwt.sign(claims, signing.key, signing.record.kid)
        self._tell(claims, requester, now)
        return Token(token, claims.issued_at, claims.expires_at)

    def public(self, now: float) -> tuple[Jwk, ...]:
        """The keys of all CAs that are to be believed. Unreachable when they cannot be read."""
        known = self._store.jwt_keys()
        return tuple(Jwk(each.kid, each.x, each.y, each.not_after) for each in known if each.not_after > now)

    def keep(self, now: float) -> None:
        """Make and change keys as far as that is due. Problem or Unreachable when it cannot be done."""
        for change in self._keys.keep(now):
            log.info("%s", change.text)
            if self._audit is not None:
                self._audit.write(now, change.sequence, "rotate", "changed", str(ITSELF), subject=change.text)

    def _tell(self, claims: jwt.Claims, requester: Requester, now: float) -> None:
        audiences = " ".join(claims.audiences)
        log.info(
            "issued a token of %s for %s to %s: %s, until %s",
            claims.subject,
            audiences[:MAX_LOGGED],
            requester,
            claims.id,
            when(claims.expires_at),
            extra=about(workload=claims.subject.workload, peer=requester),
        )
        if self._audit is not None:
            self._audit.write(
                now,
                self._store.next_audit(),
                "jwt",
                "issued",
                requester.name,
                peer=requester.address,
                identity=str(claims.subject),
                node=requester.node,
                serial=claims.id,
                until=claims.expires_at,
                subject=f"for {audiences}",
            )
