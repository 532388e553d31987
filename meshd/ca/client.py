"""A certificate source that asks a CA over HTTPS: the agent's side of `meshd.ca.api`.

The server is believed when its certificate chains to the pinned trust bundle and is of the URL's host name; nothing
else vouches for it, and neither proxies nor redirects lead anywhere else.
"""

import math
import ssl
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from meshd.api.control import Certificate
from meshd.api.names import Identity
from meshd.api.problems import Misuse
from meshd.ca.calls import WITHIN_S, BrokenOff, call
from meshd.ca.contacts import Contact
from meshd.ca.following import LONGEST_WAIT_S
from meshd.ca.source import NotAuthenticated, Refusal, Unreachable
from meshd.ca.wire import Bundle, Health, Joined, JoinRequest, JwtRequest, Renewal, SignRequest, Token

T = TypeVar("T")

_NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, for which `ssl` has no name."""


class CaClient:
    """The CA at `url` (https). A call has a connection of its own: certificates last for hours, and what is opened
    for each call need not be closed by anyone."""

    def __init__(
        self,
        url: str,
        bundle_pem: str,
        token: str = "",
        certificate: Path | None = None,
        contact: Contact | None = None,
    ) -> None:
        """Who asks is proven by a token, or by a node's key and certificate, both in one file. `contact` is told how
        calls go. Misuse when the bundle holds no certificate, or the file none that is good with its key."""
        self.url = url.rstrip("/")
        self._contact = contact or Contact(self.url)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._certificate = certificate
        self.trust(bundle_pem)

    def trust(self, bundle_pem: str, renewal: Renewal | None = None) -> None:  # noqa: ARG002 - see `NodeSource`
        """Calls begun from now on believe servers below these roots and no others. Misuse as of the constructor."""
        tls = _trusting(bundle_pem)
        if self._certificate is not None:
            _present(tls, self._certificate)
        self._tls, self._bundle_pem = tls, bundle_pem

    def present(self, certificate: Path) -> None:
        """Show this node's certificate in the calls from now on. Misuse when there is none in the file."""
        _present(self._tls, certificate)
        self._certificate = certificate

    async def sign(self, csr_pem: str, identity: Identity, token: str = "") -> Certificate:
        """With `token`, on behalf of whoever it is of: the CA is shown that and nothing else."""
        request = msgspec.json.encode(SignRequest(csr_pem, str(identity)))
        return await self._call("POST", "/v1/sign", Certificate, request, token=token)

    async def jwt(self, identity: Identity, audiences: tuple[str, ...]) -> Token:
        return await self._call("POST", "/v1/jwt", Token, msgspec.json.encode(JwtRequest(str(identity), audiences)))

    async def join(self, csr_pem: str, node: str) -> Joined:
        """Become the node of that name; errors as of `sign`."""
        return await self._call("POST", "/v1/join", Joined, msgspec.json.encode(JoinRequest(csr_pem, node)))

    async def news(self, after: int, oldest: float = 0.0) -> Bundle:
        path = f"/v1/bundle?after={after}&wait={LONGEST_WAIT_S:.0f}&oldest={oldest:.0f}"
        return await self._call("GET", path, Bundle, within_s=LONGEST_WAIT_S + 8.0)

    def begun(self) -> float:
        return math.inf

    async def health(self) -> None:
        await self.hello()

    async def hello(self) -> Health:
        """What the CA says of itself: its trust domain, its clock; errors as of `health`."""
        return await self._call("GET", "/v1/health", Health)

    async def other_since(self) -> float:
        """Since when another key than ours is that of the node of our name, in seconds since the epoch; 0: it is ours.
        Errors as of `sign`."""
        return (await self._call("GET", "/v1/health?node=1", Health)).other_since

    async def _call(
        self,
        method: str,
        path: str,
        answer: type[T],
        body: bytes | None = None,
        within_s: float = WITHIN_S,
        token: str = "",
    ) -> T:
        headers = {"Authorization": f"Bearer {token}"} if token else self._headers
        try:
            answered = await call(self._tls, method, self.url, path, answer, headers, body, within_s)
        except BrokenOff:
            if self._certificate is None or not await self._answers():
                self._contact.failed()
                raise
        except Unreachable:
            self._contact.failed()
            raise
        except Refusal:
            self._contact.answered()
            raise
        else:
            self._contact.answered()
            return answered
        self._contact.answered()
        raise NotAuthenticated(
            f"{self.url}: the CA answers, but not to who shows this node's certificate: it is another CA's, or expired "
            "by the CA's clock: join this host again"
        )

    async def _answers(self) -> bool:
        """Whether the CA does, to one without a certificate. TLS 1.3 tells a client that its certificate is not
        believed after the handshake, and what it hears is often no more than the end of the connection."""
        try:
            await call(_trusting(self._bundle_pem), "GET", self.url, "/v1/health", Health, {})
        except (Unreachable, Refusal):
            return False
        return True


async def clock_of(url: str, bundle_pem: str) -> float:
    """What the clock of the CA at url says, in seconds since the epoch, where its certificate is not good by ours: it
    has to chain to the bundle and be of that host all the same. To be told to a person who has two clocks to compare;
    nothing is to be done by it. Errors as of `health`."""
    tls = _trusting(bundle_pem)
    tls.verify_flags |= _NO_CHECK_TIME
    health = await call(tls, "GET", url.rstrip("/"), "/v1/health", Health, {})
    return health.now


def _trusting(bundle_pem: str) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        tls.load_verify_locations(cadata=bundle_pem)
    except (ssl.SSLError, ValueError) as error:
        raise Misuse("the CA's trust bundle holds no certificate (PEM): copy bundle.pem of the CA") from error
    return tls


def _present(tls: ssl.SSLContext, certificate: Path) -> None:
    try:
        tls.load_cert_chain(certificate)
    except (OSError, ssl.SSLError) as error:
        raise Misuse(f"{certificate}: holds no key with its certificate (PEM): join this host again") from error
