"""Who may do what: users by their bearer tokens, tokens of service accounts (TokenRequest), and TokenReview."""

import base64
import json
import secrets
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.support.kubernetes.refusals import bad_request, invalid, unprocessable

API_AUDIENCE = "https://kubernetes.default.svc"
ISSUER = API_AUDIENCE


@dataclass(frozen=True)
class Rule:
    """What a user may do, as in RBAC; `*` is everything. `resources` as in `pods` or `serviceaccounts/token`."""

    verbs: tuple[str, ...] = ("*",)
    resources: tuple[str, ...] = ("*",)
    groups: tuple[str, ...] = ("*",)
    namespace: str = ""
    """Where; everywhere when it is empty."""
    names: tuple[str, ...] = ()
    """Of which objects alone; of all when it is empty."""

    def allows(self, verb: str, group: str, resource: str, namespace: str, name: str = "") -> bool:
        return (
            {"*", verb} & set(self.verbs) != set()
            and {"*", resource} & set(self.resources) != set()
            and {"*", group} & set(self.groups) != set()
            and self.namespace in ("", namespace)
            and (not self.names or name in self.names)
        )


@dataclass(frozen=True)
class User:
    name: str
    groups: tuple[str, ...] = ("system:authenticated",)
    rules: tuple[Rule, ...] = ()


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))


def jwt(name: str) -> str:
    """Something of the form of a service account's token; who it is of only the cluster can say."""
    return f"{_part({'alg': 'RS256', 'kid': 'x'})}.{_part({'sub': name})}.{_part('signature')}"


def _part(content: object) -> str:
    return _encoded(json.dumps(content).encode())


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class NotGood(Exception):
    """A token that is not to be believed; the message is TokenReview's."""


@dataclass
class Signer:
    """The issuer of service accounts' tokens."""

    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    key_id: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def sign(self, claims: dict[str, Any]) -> str:
        signed = f"{_part({'alg': 'RS256', 'kid': self.key_id})}.{_part(claims)}"
        return f"{signed}.{_encoded(self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def claims(self, token: str) -> dict[str, Any]:
        """What a token of this issuer says; NotGood when it is none, or its time is over."""
        parts = token.split(".")
        try:
            head, claims = (json.loads(_decoded(part)) for part in parts[:2])
            known = len(parts) == 3 and head["kid"] == self.key_id and claims["iss"] == ISSUER
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise NotGood("invalid bearer token")
        try:
            public = self.key.public_key()
            public.verify(_decoded(parts[2]), ".".join(parts[:2]).encode(), padding.PKCS1v15(), hashes.SHA256())
        except (InvalidSignature, ValueError) as error:
            raise NotGood("[invalid bearer token, go-jose/go-jose: error in cryptographic primitive]") from error
        if claims["exp"] < time.time():
            raise NotGood("[invalid bearer token, service account token has expired]")
        return dict(claims)

    def request(self, body: Any, account: dict[str, Any], author: str) -> dict[str, Any]:
        """The answer to a TokenRequest for that ServiceAccount."""
        if body.get("kind", "TokenRequest") != "TokenRequest":
            raise bad_request("the object provided is unrecognized (must be of type TokenRequest)")
        spec = body.get("spec") or {}
        seconds = spec.get("expirationSeconds", 3600)
        if seconds < 600:
            cause = invalid("spec.expirationSeconds", str(seconds), "may not specify a duration less than 10 minutes")
            raise unprocessable("TokenRequest", "authentication.k8s.io", "", [cause])
        now, meta = int(time.time()), account["metadata"]
        audiences = spec.get("audiences") or [API_AUDIENCE]
        of = {"namespace": meta["namespace"], "serviceaccount": {"name": meta["name"], "uid": meta["uid"]}}
        claims = {
            "aud": audiences, "exp": now + seconds, "iat": now, "iss": ISSUER, "jti": str(uuid.uuid4()),
            "kubernetes.io": of, "nbf": now, "sub": f"system:serviceaccount:{meta['namespace']}:{meta['name']}",
        }  # fmt: skip
        expires = datetime.fromtimestamp(now + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {key: meta[key] for key in ("name", "namespace", "uid", "creationTimestamp")}
            | {"managedFields": [written_by(author) | {"subresource": "token"}]},
            "spec": {
                "audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": spec.get("boundObjectRef")
            },
            "status": {"token": self.sign(claims), "expirationTimestamp": expires},
        }  # fmt: skip


def written_by(author: str) -> dict[str, Any]:
    """What managedFields say of an object of this group that is not kept."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {
        "manager": author, "operation": "Update", "apiVersion": "authentication.k8s.io/v1", "time": now,
        "fieldsType": "FieldsV1", "fieldsV1": {},
    }  # fmt: skip


def check_review(review: Any) -> None:
    """Refused when it is no TokenReview that can be answered."""
    if not isinstance(review, dict) or (review.get("apiVersion"), review.get("kind")) != (
        "authentication.k8s.io/v1",
        "TokenReview",
    ):
        raise bad_request("the object provided is unrecognized (must be of type TokenReview)")
    if not (review.get("spec") or {}).get("token"):
        raise bad_request("token is required for TokenReview in authentication")


def audiences_wrong(has: list[str], wanted: list[str]) -> str:
    said, asked = (json.dumps(each, separators=(" ", ":")) for each in (has, wanted))
    return f"[invalid bearer token, token audiences {said} is invalid for the target audiences {asked}]"
