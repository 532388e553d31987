"""Keeps the webhook's authority in its Secret, its certificates in the webhook configurations, and one to show.

All replicas do the same, and whoever is first has done it: the Secret is written with the version that it was read at,
and a configuration is patched only where it says something else. While the API server is away, certificates are renewed
by the authority as it was known last; nothing of a key is ever logged.
"""

import asyncio
import base64
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from cryptography import x509

from discovery.kubernetes.access import Access, Gone
from discovery.registry import Away
from k8s.settings import INJECTOR, Installation
from k8s.webhook import certificates
from k8s.webhook.certificates import Authority, Unreadable
from meshd.api.complaints import Dam
from meshd.ca.certificates import KeyPair, Life

log = logging.getLogger(__name__)
complaints = logging.getLogger(f"{__name__}.complaints")
complaints.addFilter(Dam())

SECRET: Final = f"{INJECTOR}-tls"
POLL_S: Final = 30.0
AGAIN_S: Final = 1.0
"""After what went wrong; four times as long each time, up to POLL_S."""

_CONFIGURATIONS: Final = "/apis/admissionregistration.k8s.io/v1"


class Keeper:
    """Of one installation. `show` is given each certificate with its key that is to be shown from then on."""

    def __init__(
        self, access: Access, installation: Installation, show: Callable[[KeyPair], None], clock: Callable[[], float]
    ) -> None:
        self._access, self._show, self._clock = access, show, clock
        self._names: Sequence[str] = (
            installation.injector_name, f"{installation.injector_name}.{installation.cluster_domain}"
        )  # fmt: skip
        space = installation.namespace
        self._secret = f"/api/v1/namespaces/{space}/secrets/{SECRET}"
        self._configurations = tuple(
            f"{_CONFIGURATIONS}/{kind}webhookconfigurations/{INJECTOR}" for kind in ("mutating", "validating")
        )
        self._authority: Authority | None = None
        self._shown: KeyPair | None = None
        self.announced = False
        """Whether the API server has been told what to believe."""
        self.trouble, self._said = "the webhook has no certificate yet", ""

    @property
    def shown_by(self) -> x509.Name | None:
        """Whose certificate is shown: the authority's that signed it."""
        return None if self._shown is None else self._shown.certificate.issuer

    @property
    def not_after(self) -> float:
        """When the certificate that is shown expires; 0 where there is none."""
        return 0.0 if self._shown is None else Life.of(self._shown.certificate).not_after

    async def run(self) -> None:
        """For ever."""
        wait_s = AGAIN_S
        while True:
            try:
                await self.look()
            except (Away, Gone) as error:
                trouble = str(error) or "the API server does not know any more (410)"
                if trouble != self._said:  # it may be away for hours
                    complaints.warning("the webhook's certificate: %s", trouble)
                self.trouble = self._said = trouble
                self._serve()
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - replicas take turns
                wait_s = min(4 * wait_s, POLL_S)
            else:
                if self._said:
                    complaints.info("the webhook's certificate: all is well again")
                self.trouble, self._said, wait_s = "", "", AGAIN_S
                await asyncio.sleep(POLL_S * random.uniform(0.5, 1.0))  # noqa: S311 - the same

    async def look(self) -> None:
        """Once: have everything be as it is to be by now. Away where it cannot be."""
        secret = await self._read()
        authority = await self._kept(secret)
        self._authority = authority
        self._serve()
        for path in self._configurations:
            await self._announce(path, authority.bundle)
        self.announced = True
        after = certificates.promoted(authority, self._clock())
        if after is not authority:
            await self._write(await self._read(), authority, after)
            self._authority = after
            log.info("the webhook's next authority signs its certificates from now on")
            self._serve()

    # --- the Secret

    async def _read(self) -> dict[str, Any]:
        body = await self._access.get(self._secret, {}, absent_is_none=True)
        if body is None:
            raise Away(f"the Secret {SECRET} is not there: `meshd install` makes it")
        found = msgspec.json.decode(body)
        if not isinstance(found, dict) or not isinstance(found.get("data") or {}, dict):
            raise Away(f"the Secret {SECRET} cannot be read")
        return found

    async def _kept(self, secret: dict[str, Any]) -> Authority:
        now, name = self._clock(), self._names[0]
        try:
            found = certificates.authority_in(secret.get("data") or {})
        except Unreadable as error:
            log.error("the Secret %s holds no authority: %s: it is made anew", SECRET, error)
            found = None
        wanted = certificates.begun(name, now) if found is None else certificates.kept(found, name, now)
        if wanted is not found:
            await self._write(secret, found, wanted)
        return wanted

    async def _write(self, secret: dict[str, Any], before: Authority | None, wanted: Authority) -> None:
        """Away where somebody else has written since it was read: then it is read again."""
        if before is not None and (secret.get("data") or {}) != certificates.data_of(before):
            raise Away(f"the Secret {SECRET} was written by another controller")
        await self._access.put(self._secret, secret | {"data": certificates.data_of(wanted)})

    # --- what is shown and believed

    def _serve(self) -> None:
        authority, now = self._authority, self._clock()
        if authority is None or (self._shown is not None and not certificates.is_due(self._shown, authority, now)):
            return
        self._shown = certificates.serving(authority, self._names, now)
        self._show(self._shown)

    async def _announce(self, path: str, bundle: bytes) -> None:
        body = await self._access.get(path, {}, absent_is_none=True)
        if body is None:
            raise Away(f"{path.rpartition('/')[2]}: there is no such webhook configuration: `meshd install` makes it")
        said = base64.b64encode(bundle).decode()
        operations: list[dict[str, Any]] = []
        for place, webhook in enumerate(msgspec.json.decode(body).get("webhooks") or ()):
            if webhook["clientConfig"].get("caBundle") != said:
                at = f"/webhooks/{place}"
                operations.append({"op": "test", "path": f"{at}/name", "value": webhook["name"]})
                operations.append({"op": "add", "path": f"{at}/clientConfig/caBundle", "value": said})
        if operations:
            await self._access.patch(path, operations)
            log.info("%s: the API server knows the webhook's authority", path.rpartition("/")[2])
