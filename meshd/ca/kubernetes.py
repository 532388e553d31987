"""Pods prove themselves by the token of their service account, which their cluster's API server reviews.

A TokenReview (authentication.k8s.io/v1) says whether the token is good now, also after its pod or its service account
was deleted, and for which audiences. Only tokens made for this CA are taken (AUDIENCE): one that a pod uses with the
API server, or has given to another service, is refused. A pod is then the workload NAMESPACE/SERVICE-ACCOUNT, and may
have no other's identity.

The CA needs an account of its own in that cluster, with the role `system:auth-delegator`; its token is read anew for
each review, since clusters replace it every hour.
"""

import base64
import math
import re
import ssl
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
from msgspec import Struct

from meshd.api.names import InvalidName, WorkloadName, check_label
from meshd.api.problems import Problem
from meshd.ca.attest import Evidence
from meshd.ca.calls import bounded, reason_of
from meshd.ca.requester import OneWorkload, Requester
from meshd.ca.settings import KubernetesSettings
from meshd.ca.source import Forbidden, NotAuthenticated, Unreachable

AUDIENCE: Final = "identity.meshd.io"

TIMEOUT: Final = aiohttp.ClientTimeout(total=8.0, sock_connect=4.0)

_PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
"""A JWS in compact form (RFC 7515, section 7.1), whose header is a JSON object and so begins with {" in base64url."""

_ACCOUNT: Final = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")


class _User(Struct, frozen=True):
    username: str = ""


class _Status(Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()
    audiences: tuple[str, ...] = ()
    error: str = ""


class _Review(Struct, frozen=True):
    """A TokenReview that was answered, as far as it matters."""

    kind: str
    status: _Status


class ByServiceAccount:
    """Service accounts of the cluster that `settings` say."""

    def __init__(self, settings: KubernetesSettings) -> None:
        """Problem when the file with the API server's CA cannot be read or holds none."""
        self._url, self._token_file = settings.url.rstrip("/"), Path(settings.token_file)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            self._tls.load_verify_locations(settings.ca)
        except (OSError, ssl.SSLError) as error:
            raise Problem(
                f"kubernetes.ca: {settings.ca}: no CA's certificate (PEM) can be read there: {error}"
            ) from error

    async def attest(self, evidence: Evidence) -> Requester | None:
        if _JWT.fullmatch(evidence.credential) is None:
            return None
        status = await self._review(evidence.credential)
        if not status.authenticated:
            raise NotAuthenticated("the cluster does not know the service account's token (any more)", status.error)
        if AUDIENCE not in status.audiences:
            raise NotAuthenticated(
                f"the service account's token is not for the audience {AUDIENCE}", str(status.audiences)
            )
        workload = _workload(status.user.username)
        name = f"service account {workload}"
        until = _ends(evidence.credential)
        return Requester(name, OneWorkload(f"the {name}", workload), evidence.address, until=until)

    async def _review(self, token: str) -> _Status:
        """What the API server says of the token; Unreachable when it says nothing of it."""
        spec = {"token": token, "audiences": [AUDIENCE]}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        headers = {"Authorization": f"Bearer {self._own_token()}", "Content-Type": "application/json"}
        try:
            async with (
                aiohttp.ClientSession(timeout=TIMEOUT, trust_env=False) as session,
                session.post(
                    self._url + _PATH,
                    data=msgspec.json.encode(body),
                    headers=headers,
                    ssl=self._tls,
                    allow_redirects=False,
                ) as response,
            ):
                content = await bounded(response.content)
                if response.status not in {200, 201}:
                    raise Unreachable(_advice(self._url, response.status))
                review = msgspec.json.decode(content, type=_Review)
        except aiohttp.ClientConnectorCertificateError as error:
            why = f"its certificate is not good: {error.certificate_error}: see kubernetes.ca"
            raise Unreachable(f"{self._url}: {why}") from error
        except TimeoutError as error:  # before OSError, which it is
            raise Unreachable(f"{self._url}: no answer within {TIMEOUT.total:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError, msgspec.DecodeError) as error:
            raise Unreachable(
                f"{self._url}: the service account's token is not reviewed: {reason_of(error)}"
            ) from error
        if review.kind != "TokenReview":
            raise Unreachable(f"{self._url}: answers with a {review.kind[:50]}, which is no TokenReview")
        return review.status

    def _own_token(self) -> str:
        try:
            return self._token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Unreachable(f"kubernetes.tokenFile: {self._token_file}: cannot be read: {error}") from error


class _Claims(Struct, frozen=True):
    """What a token says, as far as it matters."""

    exp: float = math.inf


def _ends(token: str) -> float:
    """Until when a token says that it is good, which the cluster has vouched for; inf where it does not say."""
    claims = token.split(".")[1]
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)), type=_Claims).exp
    except (ValueError, msgspec.DecodeError):
        return math.inf


def _workload(username: str) -> WorkloadName:
    """The workload that a user of the cluster is; Forbidden when it is none."""
    found = _ACCOUNT.fullmatch(username)
    if found is None:
        raise Forbidden("the token is not of a service account", username)
    try:
        return WorkloadName(check_label(found[1], "the namespace"), check_label(found[2], "the service account"))
    except InvalidName as error:
        raise Forbidden(f"the service account cannot be a workload: {error}") from error


def _advice(url: str, status: int) -> str:
    match status:
        case 401:
            why = "it does not know this CA: see kubernetes.tokenFile"
        case 403:
            why = "this CA may not review tokens there: bind its service account to the role system:auth-delegator"
        case _:
            why = "it does not review tokens now"
    return f"{url}: {why} (status {status})"
