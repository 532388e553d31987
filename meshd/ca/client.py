"""A certificate source that asks a CA over HTTPS: the agent's side of `meshd.ca.api`.

The server is believed when its certificate chains to the pinned trust bundle and is of the URL's host name; nothing
else vouches for it, and neither proxies nor redirects lead anywhere else.
"""

import errno
import os
import ssl
from typing import Final, TypeVar

import aiohttp
import msgspec

from meshd.api.control import Certificate
from meshd.api.names import Identity
from meshd.api.problems import Misuse
from meshd.ca.source import Forbidden, Refusal, Unreachable
from meshd.ca.wire import MAX_ANSWER_BYTES, Error, Health, SignRequest

T = TypeVar("T")

TIMEOUT: Final = aiohttp.ClientTimeout(total=10.0, sock_connect=5.0)

_REFUSALS: Final = {400: Refusal, 401: Forbidden, 403: Forbidden, 404: Refusal, 405: Refusal, 413: Refusal}
"""Any other status but 200 may be another the next time."""


class CaClient:
    """The CA at `url` (https). A call has a connection of its own: certificates last for hours, and what is opened
    for each call need not be closed by anyone."""

    def __init__(self, url: str, bundle_pem: str, token: str) -> None:
        """Misuse when the bundle holds no certificate."""
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self._tls.verify_flags |= ssl.VERIFY_X509_STRICT
        try:
            self._tls.load_verify_locations(cadata=bundle_pem)
        except (ssl.SSLError, ValueError) as error:
            raise Misuse("the CA's trust bundle holds no certificate (PEM): copy bundle.pem of the CA") from error

    async def sign(self, csr_pem: str, identity: Identity) -> Certificate:
        request = msgspec.json.encode(SignRequest(csr_pem, str(identity)))
        return await self._call("POST", "/v1/sign", Certificate, request)

    async def health(self) -> None:
        await self._call("GET", "/v1/health", Health)

    async def _call(self, method: str, path: str, answer: type[T], body: bytes | None = None) -> T:
        """The 200 answer; Refusal and Unreachable by what came instead."""
        headers = {**self._headers, "Content-Type": "application/json"} if body is not None else {}
        try:
            async with (
                aiohttp.ClientSession(timeout=TIMEOUT, trust_env=False) as session,
                session.request(
                    method, self._url + path, data=body, headers=headers, ssl=self._tls, allow_redirects=False
                ) as response,
            ):
                status, content = response.status, await _bounded(response.content)
        except aiohttp.ClientConnectorCertificateError as error:
            raise Unreachable(f"{self._url}: {_doubt(error.certificate_error)}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreachable(f"{self._url}: {_reason(error)}") from error
        except TimeoutError as error:
            raise Unreachable(f"{self._url}: no answer within {TIMEOUT.total:g} s") from error
        if status != 200:
            raise _REFUSALS.get(status, Unreachable)(f"{_error(content)} (status {status})")
        try:
            return msgspec.json.decode(content, type=answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unreachable(f"{self._url}: its answer is not a CA's: {error}") from error


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    """All of the body; aiohttp.ClientPayloadError when it is larger than any answer of a CA."""
    body = b""
    async for part in content.iter_any():
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise aiohttp.ClientPayloadError(f"an answer larger than {MAX_ANSWER_BYTES >> 10} KiB")
    return body


def _error(content: bytes) -> str:
    try:
        return msgspec.json.decode(content, type=Error).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "not the answer of a CA"


def _doubt(error: Exception) -> str:
    """Why the server's certificate is not believed, and what to look at (the codes are OpenSSL's X509_V_ERR_…)."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return str(error)
    match error.verify_code:
        case 62 | 64:  # HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH
            advice = "give that name to `meshd ca serve` with --name"
        case 9 | 10:  # CERT_NOT_YET_VALID, CERT_HAS_EXPIRED
            advice = "compare this host's clock with that of the CA's"
        case _:
            advice = "it is not the CA that the trust bundle is of: copy bundle.pem of the CA anew"
    return f"its certificate is not good: {error.verify_message.rstrip('.')}: {advice}"


def _reason(error: Exception) -> str:
    """What the system said, without the library's words around it."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
        return os.strerror(cause.errno)
    return str(getattr(cause, "strerror", None) or cause or type(error).__name__)
