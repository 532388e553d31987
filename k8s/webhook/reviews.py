"""An AdmissionReview of the API server, and its answer (admission.k8s.io/v1). Pure.

Of a pod: a patch that gives it its sidecar, or none, with a warning for the person who made it where it was asked for
and cannot be. A pod is never denied: only the installation's `failurePolicy` may keep pods from starting. Of a document
of the mesh: whether it is good, where its types say nothing of it; what was stored before and is only marked or removed
now is let pass.
"""

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from discovery.documents import document_of
from discovery.kubernetes.objects import Custom
from k8s.injector import Injected, Surroundings, inject
from k8s.injector.reasons import SIDECAR
from k8s.settings import Installation
from meshd.api.documents import API_VERSION
from meshd.api.loading import ConfigurationError

REVIEW_VERSION: Final = "admission.k8s.io/v1"
REVIEW_KIND: Final = "AdmissionReview"

MAX_WARNING: Final = 256
MAX_WARNINGS: Final = 8
"""What the API server lets through of them."""
MAX_MESSAGE: Final = 4096

INJECTED: Final = "injected"
SKIPPED: Final = "skipped"
REFUSED: Final = "refused"
ALLOWED: Final = "allowed"
DENIED: Final = "denied"


class NoReview(ValueError):
    """What came is no AdmissionReview that can be answered."""


class Kind(Struct, frozen=True):
    group: str = ""
    version: str = ""
    kind: str = ""


_NOTHING: Final = msgspec.Raw(b"null")


class Request(Struct, frozen=True, rename="camel"):
    uid: str
    kind: Kind = Kind()
    namespace: str = ""
    name: str = ""
    operation: str = ""
    object: msgspec.Raw = _NOTHING
    old_object: msgspec.Raw = _NOTHING


class Review(Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    request: Request


class Answer(Struct, frozen=True):
    """`result` is for the metrics."""

    body: bytes
    result: str


_REVIEW: Final = msgspec.json.Decoder(Review)


def request_in(body: bytes) -> Request:
    """NoReview when it is none."""
    try:
        review = _REVIEW.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NoReview(f"not an AdmissionReview: {error}") from error
    if (review.api_version, review.kind) != (REVIEW_VERSION, REVIEW_KIND):
        raise NoReview(f"found {review.kind} of {review.api_version}; expected {REVIEW_KIND} of {REVIEW_VERSION}")
    return review.request


def mutated(request: Request, annotations: Mapping[str, str], settings: Installation, *, native: bool) -> Answer:
    """What becomes of a pod; `annotations` are its namespace's."""
    if (request.kind.group, request.kind.kind, request.operation) != ("", "Pod", "CREATE"):
        return _allowed(request, SKIPPED)
    said = inject(_object(request), Surroundings(request.namespace, annotations, native), settings)
    if isinstance(said, Injected):
        patch = base64.b64encode(msgspec.json.encode(said.patch)).decode()
        more = {"patchType": "JSONPatch", "patch": patch}
        return _allowed(request, INJECTED, [f"meshd: {note}" for note in said.notes], more)
    if not said.refused or said.reasons == (SIDECAR,):  # `meshd inject --manual` put it there, or another mesh did
        return _allowed(request, SKIPPED)
    return _allowed(request, REFUSED, [f"meshd: the pod is not injected: {reason}" for reason in said.reasons])


def validated(request: Request) -> Answer:
    """Whether a Service or Workload of the mesh is good."""
    if f"{request.kind.group}/{request.kind.version}" != API_VERSION or request.operation not in ("CREATE", "UPDATE"):
        return _allowed(request, ALLOWED)
    value = _object(request)
    metadata = value.get("metadata")
    if not isinstance(metadata, dict) or metadata.get("deletionTimestamp") or _is_as_it_was(request, value):
        return _allowed(request, ALLOWED)
    kept = {name: metadata[name] for name in ("name", "namespace", "labels") if metadata.get(name)}
    kept.setdefault("name", _NAMELESS)  # generateName: the API server makes one up later
    document = {"apiVersion": API_VERSION, "kind": request.kind.kind, "metadata": kept}
    try:
        document_of(document | ({"spec": value["spec"]} if "spec" in value else {}), "")
    except ConfigurationError as error:
        said = "; ".join(": ".join(part for part in (each.path, each.message) if part) for each in error.findings)
        status = {"code": 422, "reason": "Invalid", "message": said[:MAX_MESSAGE]}
        return _answered(request, DENIED, {"allowed": False, "status": status})
    return _allowed(request, ALLOWED)


_NAMELESS: Final = "generated"


def _object(request: Request) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(request.object)
    except msgspec.DecodeError as error:
        raise NoReview(f"request.object: {error}") from error
    if not isinstance(value, dict):
        raise NoReview("request.object: expected an object")
    return value


def _is_as_it_was(request: Request, value: Mapping[str, Any]) -> bool:
    """Whether an update leaves the spec alone: labels may be put on what was stored before anybody looked."""
    if request.operation != "UPDATE":
        return False
    try:
        spec = msgspec.json.decode(request.old_object, type=Custom).spec
        return spec is not msgspec.UNSET and bool(msgspec.json.decode(spec) == value.get("spec"))
    except msgspec.DecodeError:
        return False


def _allowed(
    request: Request, result: str, warnings: Iterable[str] = (), more: Mapping[str, Any] | None = None
) -> Answer:
    said = [_line(each) for each in warnings][:MAX_WARNINGS]
    return _answered(request, result, {"allowed": True, **(more or {}), **({"warnings": said} if said else {})})


def _line(text: str) -> str:
    """As the API server passes it on: one line of printable letters, and not too long."""
    shown = "".join(each if each.isprintable() else " " for each in text)
    return shown if len(shown) <= MAX_WARNING else f"{shown[: MAX_WARNING - 3]}..."


def _answered(request: Request, result: str, response: Mapping[str, Any]) -> Answer:
    review = {"apiVersion": REVIEW_VERSION, "kind": REVIEW_KIND, "response": {"uid": request.uid, **response}}
    return Answer(msgspec.json.encode(review), result)
