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
from typing import Any, Final, NamedTuple

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

REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
"""Where the API server takes a TokenReview (POST)."""
_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
"""A JWS in compact form (RFC 7515, section 7.1), whose header is a JSON object and so begins with {" in base64url."""

_ACCOUNT: Final = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")

_POD: Final = "authentication.kubernetes.io/pod-name"


class _User(Struct, frozen=True):
    username: str = ""
    extra: dict[str, tuple[str, ...] | None] | None = None


class _Status(Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()
    audiences: tuple[str, ...] = ()
    error: str = ""


class _Review(Struct, frozen=True):
    """A TokenReview that was answered, as far as it matters."""

    kind: str
    status: _Status


class Account(NamedTuple):
    """Whose a token is: the workload, until when the token is good (seconds since the epoch; inf where it does not
    say), and the name of the pod that it was made for, empty where it was made for none."""

    workload: WorkloadName
    until: float
    pod: str = ""


def is_token(credential: str) -> bool:
    """Whether it has the form of a service account's token."""
    return _JWT.fullmatch(credential) is not None


def review_of(token: str) -> dict[str, Any]:
    """The TokenReview to be asked for."""
    spec = {"token": token, "audiences": [AUDIENCE]}
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}


def reviewed(content: bytes, token: str) -> Account:
    """Whose the token is, by the API server's answer. NotAuthenticated, Forbidden; ValueError (DecodeError is one) when
    the answer is no review."""
    review = msgspec.json.decode(content, type=_Review)
    if review.kind != "TokenReview":
        raise ValueError(f"answers with a {review.kind[:50]}, which is no TokenReview")
    status = review.status
    if not status.authenticated:
        raise NotAuthenticated("the cluster does not know the service account's token (any more)", status.error)
    if AUDIENCE not in status.audiences:
        raise NotAuthenticated(f"the service account's token is not for the audience {AUDIENCE}", str(status.audiences))
    pods = (status.user.extra or {}).get(_POD) or ("",)
    return Account(_workload(status.user.username), _ends(token), pods[0])


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
        if not is_token(evidence.credential):
            return None
        account = await self._review(evidence.credential)
        name = f"service account {account.workload}"
        workload = OneWorkload(f"the {name}", account.workload)
        return Requester(name, workload, evidence.address, until=account.until)

    async def _review(self, token: str) -> Account:
        """Whose the token is; Unreachable when the API server says nothing of it."""
        headers = {"Authorization": f"Bearer {self._own_token()}", "Content-Type": "application/json"}
        try:
            async with (
                aiohttp.ClientSession(timeout=TIMEOUT, trust_env=False) as session,
                session.post(
                    self._url + REVIEWS,
                    data=msgspec.json.encode(review_of(token)),
                    headers=headers,
                    ssl=self._tls,
                    allow_redirects=False,
                ) as response,
            ):
                content = await bounded(response.content)
                if response.status not in {200, 201}:
                    raise Unreachable(_advice(self._url, response.status))
                return reviewed(content, token)
        except aiohttp.ClientConnectorCertificateError as error:
            why = f"its certificate is not good: {error.certificate_error}: see kubernetes.ca"
            raise Unreachable(f"{self._url}: {why}") from error
        except TimeoutError as error:  # before OSError, which it is
            raise Unreachable(f"{self._url}: no answer within {TIMEOUT.total:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError, msgspec.DecodeError) as error:
            raise Unreachable(
                f"{self._url}: the service account's token is not reviewed: {reason_of(error)}"
            ) from error

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
