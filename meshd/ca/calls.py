"""One call to a CA's HTTPS API, and what is made of whatever comes back. Who the server must be, its caller says by the
TLS context: `meshd.ca.client` verifies it, `meshd.ca.first_contact` cannot yet.
"""

import errno
import os
import ssl
from collections.abc import Mapping
from typing import Final, TypeVar

import aiohttp
import msgspec

from meshd.ca.source import Forbidden, NotAuthenticated, Refusal, Unable, Unreachable
from meshd.ca.wire import MAX_ANSWER_BYTES, Error

T = TypeVar("T")

WITHIN_S: Final = 10.0


class BrokenOff(Unreachable):
    """There was no connection, or it ended before its answer."""


CONNECT_WITHIN_S: Final = 5.0


class Untimely(Unreachable):
    """The server's certificate is one that would be believed at another time."""


_REFUSALS: Final = {400: Refusal, 401: NotAuthenticated, 403: Forbidden, 404: Refusal, 405: Refusal, 413: Refusal}
"""Any other status but 200 may be another the next time."""


async def call(
    tls: ssl.SSLContext,
    method: str,
    url: str,
    path: str,
    answer: type[T],
    headers: Mapping[str, str],
    body: bytes | None = None,
    within_s: float = WITHIN_S,
) -> T:
    """The 200 answer of the CA at url; Refusal and Unreachable by what came instead. Neither the environment's proxy
    nor a redirect leads anywhere else."""
    if body is not None:
        headers = {**headers, "Content-Type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=within_s, sock_connect=CONNECT_WITHIN_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            session.request(method, url + path, data=body, headers=headers, ssl=tls, allow_redirects=False) as response,
        ):
            status, content = response.status, await bounded(response.content)
    except aiohttp.ClientConnectorCertificateError as error:
        doubt = error.certificate_error
        raise (Untimely if _is_of_another_time(doubt) else Unreachable)(f"{url}: {_doubt(doubt)}") from error
    except TimeoutError as error:  # before OSError, which it is
        raise Unreachable(f"{url}: no answer within {within_s:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise BrokenOff(f"{url}: {reason_of(error)}") from error
    if status != 200:
        otherwise = Unable if status >= 500 else Unreachable
        raise _REFUSALS.get(status, otherwise)(f"{_error(content)} (status {status})")
    try:
        return msgspec.json.decode(content, type=answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreachable(f"{url}: its answer is not a CA's: {error}") from error


async def bounded(content: aiohttp.StreamReader) -> bytes:
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


def _is_of_another_time(error: Exception) -> bool:
    """CERT_NOT_YET_VALID, CERT_HAS_EXPIRED (X509_V_ERR_…)."""
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in (9, 10)


def _doubt(error: Exception) -> str:
    """Why the server's certificate is not believed, and what to look at (the codes are OpenSSL's X509_V_ERR_…)."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return str(error)
    match error.verify_code:
        case 62 | 64:  # HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH
            advice = "give that name to `meshd ca serve` with --name"
        case _ if _is_of_another_time(error):
            advice = "compare this host's clock with that of the CA's"
        case _:
            advice = "it is not the CA that the trust bundle is of: copy bundle.pem of the CA anew"
    return f"its certificate is not good: {error.verify_message.rstrip('.')}: {advice}"


def reason_of(error: Exception) -> str:
    """What the system said, without the library's words around it."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
        return os.strerror(cause.errno)
    return str(getattr(cause, "strerror", None) or cause or type(error).__name__)
