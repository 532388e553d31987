"""What the double says no with: `Status` objects in the words of the real API server."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Cause(NamedTuple):
    """One thing that is wrong with an object. `reason` as in `FieldValueInvalid`."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"


def required(path: str) -> Cause:
    return Cause(path, "Required value", "FieldValueRequired")


def invalid(path: str, value: str, why: str) -> Cause:
    return Cause(path, f"Invalid value: {value}: {why}")


@dataclass
class Refused(Exception):
    """A request that is answered with an error."""

    code: int
    reason: str
    message: str
    details: dict[str, Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> dict[str, Any]:
        body: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": self.metadata, "status": "Failure"}
        body["message"] = self.message
        if self.reason:
            body["reason"] = self.reason
        if self.details is not None:
            body["details"] = self.details
        return body | {"code": self.code}


def unauthorized() -> Refused:
    return Refused(401, "Unauthorized", "Unauthorized")


def bad_request(message: str) -> Refused:
    return Refused(400, "BadRequest", message)


def named(plural: str, group: str) -> str:
    """A resource as messages have it: `services`, `workloads.meshd.io`."""
    return f"{plural}.{group}" if group else plural


def details(kind: str, group: str, name: str = "") -> dict[str, Any]:
    said = {"name": name, "group": group, "kind": kind}
    return {key: value for key, value in said.items() if value}


def not_found(plural: str, group: str, name: str) -> Refused:
    return Refused(404, "NotFound", f'{named(plural, group)} "{name}" not found', details(plural, group, name))


def exists(plural: str, group: str, name: str) -> Refused:
    return Refused(
        409, "AlreadyExists", f'{named(plural, group)} "{name}" already exists', details(plural, group, name)
    )


def conflict(plural: str, group: str, name: str, why: str = "") -> Refused:
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {named(plural, group)} "{name}": {why}'
    return Refused(409, "Conflict", message, details(plural, group, name))


def unprocessable(kind: str, group: str, name: str, causes: list[Cause]) -> Refused:
    said = [f"{cause.field}: {cause.message}" for cause in causes]
    text = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    what = details(kind, group, name)
    what["causes"] = [{"reason": each.reason, "message": each.message, "field": each.field} for each in causes]
    return Refused(422, "Invalid", f'{named(kind, group)} "{name}" is invalid: {text}', what)


def forbidden(plural: str, group: str, name: str, why: str) -> Refused:
    of = f' "{name}"' if name else ""
    return Refused(403, "Forbidden", f"{named(plural, group)}{of} is forbidden: {why}", details(plural, group, name))


def unsupported_media_type() -> Refused:
    return Refused(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})


def expired(message: str, token: str = "") -> Refused:
    return Refused(410, "Expired", message, metadata={"continue": token} if token else {})


def too_large(version: int, current: int) -> Refused:
    message = f"Timeout: Too large resource version: {version}, current: {current}"
    why = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return Refused(
        504, "Timeout", message, {"causes": [why], "retryAfterSeconds": 1}, headers={"Retry-After": "1"}
    )  # fmt: skip
