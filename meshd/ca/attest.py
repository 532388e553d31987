"""Attestation: from what a connection brings, who it is. One small object for each way to prove something.

    join token            once, to become a node                         ByJoinToken
    node certificate      what a node has from then on (mutual TLS)      ByNodeCertificate
    service account       a pod's token, reviewed by its cluster         meshd.ca.kubernetes
    shared token          `agent.token`: some agent, no one knows which  BySharedToken

An attestor says None to what is not of its kind, so that the next is asked; a proof of its kind that proves nothing is
refused, and no other is tried in its place. What comes of it is a `Requester`, with all that it may have.
"""

import asyncio
import hmac
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from cryptography import x509

from meshd.api.names import Identity, InvalidName
from meshd.ca import certificates
from meshd.ca.certificates import Life
from meshd.ca.records import hashed
from meshd.ca.requester import AnyWorkload, Joining, OfNode, Requester
from meshd.ca.source import NotAuthenticated
from meshd.ca.store import Store
from meshd.ca.tokens import MalformedToken, PrintedToken

_LIKE_A_JOIN_TOKEN: Final = re.compile(r"meshd-join-", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a connection brings: the bearer's credential, the certificate (DER) that TLS found good; empty for none."""

    credential: str = field(repr=False)
    certificate: bytes
    address: str


class Attestor(Protocol):
    """Knows one kind of proof."""

    async def attest(self, evidence: Evidence) -> Requester | None:
        """Who it is; None when the evidence is not of this kind. NotAuthenticated when it is and is not good, Forbidden
        when it is and nothing is granted for it, Unreachable when it cannot be looked at now."""


class Attestors:
    """All of them, asked in order."""

    def __init__(self, attestors: Sequence[Attestor]) -> None:
        self._attestors = attestors

    async def attest(self, evidence: Evidence) -> Requester:
        """Who it is; NotAuthenticated when none of them knows, and what theirs raise."""
        for attestor in self._attestors:
            requester = await attestor.attest(evidence)
            if requester is not None:
                return requester
        if evidence.credential:
            raise NotAuthenticated("the token is not known to this CA: copy agent.token of the CA, or join this host")
        raise NotAuthenticated(
            "there is no token, and no node's certificate: join this host with `meshd join`, or send "
            "`Authorization: Bearer TOKEN`"
        )


class ByJoinToken:
    """Join tokens of this CA, which has roots of these hashes now."""

    def __init__(self, store: Store, root_hashes: Callable[[], Collection[bytes]]) -> None:
        self._store, self._root_hashes = store, root_hashes

    async def attest(self, evidence: Evidence) -> Requester | None:
        if not _LIKE_A_JOIN_TOKEN.match(evidence.credential):
            return None
        try:
            printed = PrintedToken.parse(evidence.credential)
        except MalformedToken as error:
            raise NotAuthenticated(f"the join token is malformed: {error}") from error
        if printed.root_hash not in self._root_hashes():
            raise NotAuthenticated(f"the join token {printed.id} is of another CA")
        known = await asyncio.to_thread(self._store.join_token, printed.id)
        expected = known.secret_hash if known is not None else ""
        if not hmac.compare_digest(hashed(printed.secret), expected) or known is None:
            raise NotAuthenticated(f"the join token {printed.id} is not known to this CA")
        return Requester(known.origin, Joining(known), evidence.address, token=known)


class ByNodeCertificate:
    """Nodes by their certificates, which TLS has checked: the chain, the time, and that the peer has the key."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def attest(self, evidence: Evidence) -> Requester | None:
        if not evidence.certificate or evidence.credential:
            return None
        certificate = x509.load_der_x509_certificate(evidence.certificate)
        identity = _identity(certificate)
        if identity is None or not identity.host:
            raise NotAuthenticated(f"the certificate is not a node's, but that of {identity or 'no one'}")
        return Requester(
            f"node {identity.host}",
            OfNode(identity.host, self._store.entries_of),
            evidence.address,
            node=identity.host,
            serial=certificates.serial(certificate),
            until=Life.of(certificate).not_after,
        )


class BySharedToken:
    """The token that agents share. It comes last: any text may be one."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def attest(self, evidence: Evidence) -> Requester | None:
        if not evidence.credential or not await asyncio.to_thread(self._store.knows_token, evidence.credential):
            return None
        return Requester("shared token", AnyWorkload("the agents' token"), evidence.address)


def _identity(certificate: x509.Certificate) -> Identity | None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        return Identity.parse(uri)
    except (ValueError, x509.ExtensionNotFound, InvalidName):
        return None
