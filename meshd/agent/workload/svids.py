"""The X.509-SVIDs that processes get from the Workload API: one for each workload, shared by its processes.

The key is made in the agent's process, and is in no file: it has to go through the agent in any case, since a process
that speaks the Workload API is handed its key by it, so that a child as the proxies have would keep it from nobody. It
is kept until a successor is due, at two thirds of its life give or take, so that a process that asks again costs the CA
nothing. There are as many as there are workloads with selectors.
"""

import logging
import math
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from meshd.agent.certificates import NotSigned
from meshd.agent.core import Core
from meshd.agent.node import JITTER, request
from meshd.agent.workload.standing import RETRY_MIN_S, Standing
from meshd.api.logs import about
from meshd.api.names import Identity, WorkloadName
from meshd.ca import certificates
from meshd.ca.material import when

log = logging.getLogger(__name__)


class Svid(NamedTuple):
    """An identity with the key that proves it; DER, the chain's leaf first. `serial` as the CA's deny list has it."""

    identity: Identity
    chain: bytes
    key: bytes
    serial: str
    not_before: float
    not_after: float


@dataclass(slots=True)
class _Held(Standing):
    """What there is for one workload."""

    svid: Svid | None = None


class Svids:
    """Gets them from the CA through the agent's signer."""

    def __init__(self, core: Core, draw: Callable[[float, float], float] = random.uniform) -> None:
        self._core, self._clock, self._draw = core, core.clock, draw
        self._held: defaultdict[WorkloadName, _Held] = defaultdict(_Held)
        self._asked = self._asked_at = 0.0
        core.holds.append(self.oldest)

    async def get(self, workload: WorkloadName) -> Svid:
        """The one to use now; NotSigned when there is none. A CA that is away is asked again after a pause, and until
        it answers what there is is used for as long as it is good."""
        held = self._held[workload]
        async with held.lock:
            if held.svid is not None and self._is_denied(held.svid):
                serial, identity = held.svid.serial, held.svid.identity
                log.warning("the CA denies the SVID %s of %s", serial, identity, extra=about(workload=workload))
                held.svid, held.due_at = None, 0.0
            self._heed_renewal(held)
            if self._clock() >= held.due_at:
                await self._renew(workload, held)
        if held.svid is not None and self._clock() < held.svid.not_after:
            return held.svid
        raise held.error or NotSigned("the certificate has expired", retry=True)

    def due_in_s(self, workload: WorkloadName) -> float:
        """How long what `get` gave is good for asking."""
        return max(self._held[workload].due_at - self._clock(), RETRY_MIN_S)

    def oldest(self) -> float:
        """Since when the oldest of those that are good yet has been good; inf when there is none."""
        now = self._clock()
        good = (held.svid for held in self._held.values() if held.svid is not None and held.svid.not_after > now)
        return min((svid.not_before for svid in good), default=math.inf)

    def _heed_renewal(self, held: _Held) -> None:
        """What is older than the CA wants is renewed at a time that is drawn once for all."""
        renewal = self._core.signer.trust.renewal
        if renewal is None or held.svid is None or held.svid.not_before >= renewal.issued_before:
            return
        if self._asked != renewal.issued_before:
            self._asked = renewal.issued_before
            self._asked_at = self._clock() + self._draw(0.0, renewal.within_s)
        if held.error is None and not held.is_paused:  # else it is tried again when its pause is over
            held.due_at = min(held.due_at, self._asked_at)

    def keep(self, workloads: frozenset[WorkloadName]) -> None:
        """Forget the keys of all others."""
        for workload in self._held.keys() - workloads:
            del self._held[workload]

    async def _renew(self, workload: WorkloadName, held: _Held) -> None:
        identity = self._core.identity(workload)
        try:
            svid = await self._sign(identity)
        except NotSigned as error:
            held.failed(error, self._clock())
            return
        self._core.signer.signed.renewed += held.svid is not None
        held.svid = svid
        life_s = svid.not_after - svid.not_before
        due_at = svid.not_before + life_s * (2 / 3 + self._draw(-JITTER, JITTER))
        if svid.not_before < self._asked:  # the CA that signed has another clock than the one that asks
            due_at = min(due_at, self._asked_at)
        held.got(due_at, svid.not_after, self._clock())
        self._core.signer.renewed()
        until = when(svid.not_after)
        log.info("%s: SVID for its processes, until %s", identity, until, extra=about(workload=workload))

    async def _sign(self, identity: Identity) -> Svid:
        key = certificates.new_key()
        signed = await self._core.signer.sign(request(key), identity)
        try:
            chain = x509.load_pem_x509_certificates(signed.chain_pem.encode())
        except ValueError as error:
            raise NotSigned("what the CA signed is no certificate", retry=True) from error
        form = (serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return Svid(
            identity,
            ders(chain),
            key.private_bytes(*form),
            certificates.serial(chain[0]),
            signed.not_before,
            signed.not_after,
        )

    def _is_denied(self, svid: Svid) -> bool:
        peers = self._core.signer.trust.denied_peers
        return svid.serial in peers or str(svid.identity) in peers


def ders(found: list[x509.Certificate]) -> bytes:
    """Certificates in DER, one after the other, as the Workload API has them."""
    return b"".join(each.public_bytes(serialization.Encoding.DER) for each in found)
