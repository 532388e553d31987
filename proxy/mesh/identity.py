"""A workload's identity in this proxy: its key and certificate, and the contexts made of them.

The certificate is renewed when about two thirds of its life are over. What is open goes on with the one it began with;
new connections take the new one, once it is good by this host's clock. Should renewal fail it is tried again with
back-off for as long as the proxy runs, and the old certificate serves until it expires.
"""

import asyncio
import logging
import random
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from meshd.api.clocks import clocks_apart, rest_s, until_good
from meshd.api.control import Certificate, CertificateState
from meshd.api.logs import about
from meshd.api.names import Identity, WorkloadName
from proxy.mesh.tls import Held, NoCertificate, ServerContexts, context

log = logging.getLogger(__name__)

RETRY_MIN_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
CHILD_TIMEOUT_S: Final = 30.0
FIRST_WITHIN_S: Final = 10.0
"""How long what is to be opened in a workload's name waits for its first certificate: a generation of the proxy accepts
beside the one before it, which has had one for long."""


class SigningFailed(Exception):
    """No certificate could be had; the message says why and whether it is worth trying again."""


Sign = Callable[[str], Awaitable[Certificate]]
"""A certificate request (PEM) to a certificate; SigningFailed."""


def renewal_at(not_before: float, not_after: float, chance: float) -> float:
    """When to renew a certificate of that life (all seconds since the epoch): at two thirds of it, give or take a
    twentieth by `chance` in [0, 1), so that a fleet started at once does not renew at once."""
    return not_before + (not_after - not_before) * (2 / 3 + (chance - 0.5) / 10)


def check(workload: WorkloadName, held: Held, bundle_pem: str) -> None:
    """Whether certificate, key and trust bundle fit. ssl.SSLError where they do not."""
    context(True, workload, held, bundle_pem)


class WorkloadIdentity:
    """See the module. `changed` is called when the state that `state` tells has changed."""

    def __init__(self, identity: Identity, contexts: ServerContexts, changed: Callable[[], None]) -> None:
        self.identity = identity
        self.refreshed_at = 0.0
        self.refreshes: dict[str, int] = {"ok": 0, "error": 0}
        self._contexts = contexts
        self._changed = changed
        self._client: ssl.SSLContext | None = None
        self._held: Held | None = None
        self._bundle_pem = ""
        self._issued_before = self._renew_at = 0.0
        self._told = asyncio.Event()
        self._has_one = asyncio.Event()
        self._error = self._clock_trouble = ""

    async def client_context(self) -> ssl.SSLContext:
        """The context to open mesh connections with now; the first is waited for `FIRST_WITHIN_S`. NoCertificate where
        there is none."""
        if self._client is None and self._held is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_WITHIN_S):
                    await self._has_one.wait()
        if self._client is None:
            raise NoCertificate(f"no certificate for {self.identity} yet")
        return self._client

    @property
    def held(self) -> bool:
        return self._held is not None

    @property
    def presents(self) -> Held | None:
        """The key and certificate that are shown now."""
        return self._held

    def state(self) -> CertificateState:
        certificate = None if self._held is None else self._held.certificate
        not_before, not_after = (0.0, 0.0) if certificate is None else (certificate.not_before, certificate.not_after)
        return CertificateState(str(self.identity.workload), not_after, self._error, not_before)

    def trust(self, bundle_pem: str) -> None:
        """Take the trust bundle (PEM) that peers are checked against from now on. ssl.SSLError where it is none."""
        if bundle_pem != self._bundle_pem:
            self._bundle_pem = bundle_pem
            if self._held is not None:
                self.install(self._held)

    def renew_older(self, issued_before: float, within_s: float) -> None:
        """Renew a certificate that is good from before `issued_before` (seconds since the epoch) on, within so many
        seconds and at a time of its own: all the mesh is told at once."""
        if issued_before > self._issued_before:
            self._issued_before = issued_before
            self._renew_at = time.time() + within_s * random.random()  # noqa: S311 - jitter
            self._told.set()

    def install(self, held: Held) -> None:
        """Present this certificate from now on. ssl.SSLError where certificate and key do not fit."""
        workload = self.identity.workload
        client = context(False, workload, held, self._bundle_pem)
        server = context(True, workload, held, self._bundle_pem)
        self._client = client
        self._contexts[self.identity.server_name] = server
        self._held = held
        self._has_one.set()
        self._error = ""
        self._changed()

    def withdraw(self) -> None:
        """Present it no more: the workload is not served here any longer."""
        self._contexts.pop(self.identity.server_name, None)
        self._client = None

    async def renew_forever(self, sign: Sign) -> None:
        """Get a certificate, and a new one whenever its time has come."""
        pause = RETRY_MIN_S
        while True:
            try:
                key_pem, csr_pem = await _make_key(str(self.identity))
                certificate = await sign(csr_pem)
                self._compare_clocks(certificate)
                await until_good(certificate.not_before, self._serves_until, time.time)
                self.install(Held(certificate, key_pem))
            except (SigningFailed, ssl.SSLError, OSError, TimeoutError) as error:
                self._failed(error)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                pause = min(pause * 2, RETRY_MAX_S)
                continue
            self.refreshed_at = time.time()
            self.refreshes["ok"] += 1
            until = time.strftime("%FT%TZ", time.gmtime(certificate.not_after))
            log.info("%s: certificate until %s", self.identity, until, extra=about(workload=self.identity.workload))
            due = renewal_at(certificate.not_before, certificate.not_after, random.random())  # noqa: S311
            if self._left_s(due, certificate) > 0:
                await asyncio.sleep(RETRY_MIN_S)
            else:
                await asyncio.sleep(rest_s(pause, certificate.not_after, time.time(), RETRY_MIN_S))
                pause = min(pause * 2, RETRY_MAX_S)
                continue
            pause = RETRY_MIN_S
            await self._wait_until(due, certificate)

    def _compare_clocks(self, issued: Certificate) -> None:
        trouble = clocks_apart(issued, time.time())
        if trouble and not self._clock_trouble:
            log.error("%s", trouble)
        self._clock_trouble = trouble

    def _serves_until(self) -> float:
        """Not at all where it is renewed before its time, since it may be worthless."""
        held = self._held
        return 0.0 if held is None or held.certificate.not_before < self._issued_before else held.certificate.not_after

    async def _wait_until(self, due: float, certificate: Certificate) -> None:
        """Returns when it is due, or asked for before (`renew_older`)."""
        while True:
            self._told.clear()
            left_s = self._left_s(due, certificate)
            if left_s <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._told.wait()

    def _left_s(self, due: float, certificate: Certificate) -> float:
        is_older = certificate.not_before < self._issued_before
        return (min(due, self._renew_at) if is_older else due) - time.time()

    def _failed(self, error: BaseException) -> None:
        self.refreshes["error"] += 1
        message = str(error) or type(error).__name__
        if message != self._error:
            self._error = message
            known = about(workload=self.identity.workload)
            log.warning("%s: no new certificate: %s; trying again", self.identity, message, extra=known)
            self._changed()


def life(chain_pem: str) -> tuple[float, float]:
    """From when to when the first certificate of chain_pem is good, in seconds since the epoch; the child that knows
    X.509 reads it, and this waits for it. ValueError where it is no certificate."""
    child = subprocess.run(
        [sys.executable, "-I", "-m", "proxy.mesh.keys", "life"],
        input=chain_pem.encode(),
        capture_output=True,
        check=False,
        timeout=CHILD_TIMEOUT_S,
    )
    if child.returncode != 0:
        raise ValueError("not a certificate (PEM)")
    not_before, not_after = child.stdout.split()
    return float(not_before), float(not_after)


async def _make_key(identity: str) -> tuple[bytes, str]:
    """A new key and a request for it, both PEM, from the child that makes them."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-m", "proxy.mesh.keys", "make", identity, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(CHILD_TIMEOUT_S):
            output, _ = await child.communicate()
    except BaseException:
        child.kill()
        await child.wait()
        raise
    key, begin, request = output.partition(b"-----BEGIN CERTIFICATE REQUEST-----")
    if child.returncode != 0 or not begin:
        raise SigningFailed(f"the program that makes keys ended with status {child.returncode}")
    return key, (begin + request).decode()
