"""The API server, as far as the CA's records need it: objects of one kind in one namespace, one at a time.

The account is the pod's own; its token is read for each call, since clusters replace it every hour, and is in no
message and no log. Neither the environment's proxies nor redirects are followed, and an answer is bounded. Every
failure is Unreachable, but that an object is another than it was: that is a Clash.
"""

import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import requests
from msgspec import Struct

from meshd.api.documents import API_VERSION
from meshd.ca.keyed.answers import bounded
from meshd.ca.objects.client import Clash
from meshd.ca.objects.records import LABEL, PLURAL, Record
from meshd.ca.settings import ObjectSettings
from meshd.ca.source import Unreachable

CONNECT_WITHIN_S: Final = 2.0
ANSWER_WITHIN_S: Final = 5.0

PAGE: Final = 20
"""Objects in one answer. The largest, `issued-*` of 16 transactions with 40 KiB each, are of almost a megabyte: so many
of them are below half of what `meshd.ca.keyed.answers` takes, and a pod has memory for them. The usual ones are of
some kilobytes."""

MAX_TOKEN_BYTES: Final = 16 << 10

MAX_SAID: Final = 300

_TIMES_LISTED: Final = 3

T = TypeVar("T")


class _Listing(Struct, frozen=True, rename="camel"):
    continued: str = msgspec.field(default="", name="continue")


class _Page(Struct, frozen=True):
    metadata: _Listing
    items: tuple[Record, ...] = ()


class _Details(Struct, frozen=True):
    name: str = ""


class _Status(Struct, frozen=True):
    """How the API server says no."""

    message: str = ""
    reason: str = ""
    details: _Details | None = None


class _Expired(Exception):
    """A list was begun too long ago to be gone on with (410)."""


class ApiServer:
    """See `meshd.ca.objects.client.Objects`."""

    def __init__(self, settings: ObjectSettings, namespace: str) -> None:
        self._settings = settings
        self._path = f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}"
        self.where = f"Kubernetes at {settings.url}"
        self.place = f"{self.where}, namespace {namespace}"
        self.in_the_way = (
            f"see whose it is; what an interrupted `init` left there is removed with `kubectl delete {PLURAL} --all -n "
            f"{namespace}`"
        )
        self._ahead_s = 0.0
        self._session = requests.Session()
        self._session.trust_env = False

    def get(self, name: str) -> Record | None:
        content = self._call("GET", f"/{name}")
        return None if content is None else self._read(content, Record)

    def pages(self, label: str) -> Iterator[list[Record]]:
        """Nothing comes twice where the list had to be begun anew."""
        seen: set[str] = set()
        for again in range(_TIMES_LISTED):
            query = {"labelSelector": f"{LABEL}={label}", "limit": str(PAGE)}
            try:
                while True:
                    content = self._call("GET", "", query)
                    assert content is not None  # a list is there, or its kind is not
                    page = self._read(content, _Page)
                    yield [record for record in page.items if record.name not in seen]
                    seen.update(record.name for record in page.items)
                    if not page.metadata.continued:
                        return
                    query["continue"] = page.metadata.continued
            except _Expired as error:
                if again + 1 == _TIMES_LISTED:
                    raise Unreachable(f"{self.where} gives no whole list of the CA's records") from error

    def create(self, record: Record) -> Record:
        content = self._call("POST", "", body=record)
        return self._read(content or b"", Record)

    def replace(self, record: Record) -> Record:
        content = self._call("PUT", f"/{record.name}", body=record)
        if content is None:
            raise Clash(f"{record.name} is gone")
        return self._read(content, Record)

    def delete(self, record: Record) -> None:
        only = {"apiVersion": "v1", "kind": "DeleteOptions"}
        version = {"resourceVersion": record.metadata.resource_version}
        self._call("DELETE", f"/{record.name}", body={**only, "preconditions": version})

    def now(self) -> float:
        """Of the last answer, by its `Date`, and what has passed since: all CAs go by that, not by clocks of theirs."""
        return time.time() + self._ahead_s

    def close(self) -> None:
        self._session.close()

    # --- one request

    def _read(self, content: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unreachable(f"{self.where} gives an answer that is none of the CA's records: {error}") from error

    def _call(self, method: str, path: str, query: Mapping[str, str] | None = None, body: Any = None) -> bytes | None:
        """The body of a good answer; None where there is no such object."""
        headers = {"Authorization": f"Bearer {self._token()}", "Accept": "application/json", "User-Agent": "meshd-ca"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            with self._session.request(
                method,
                self._settings.url.rstrip("/") + self._path + path,
                params=query,
                data=None if body is None else msgspec.json.encode(body),
                headers=headers,
                timeout=(CONNECT_WITHIN_S, ANSWER_WITHIN_S),
                allow_redirects=False,
                stream=True,
                verify=self._settings.ca,
            ) as answer:
                content = bounded(answer)
        except (requests.RequestException, OSError, ValueError) as error:
            raise Unreachable(f"{self.where} cannot be used: {_said(error)}") from error
        self._hear(answer)
        if answer.status_code in {200, 201}:
            return content
        self._refused(answer.status_code, content, path)
        return None

    def _hear(self, answer: requests.Response) -> None:
        """What time it is there."""
        try:
            self._ahead_s = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp() - time.time()
        except ValueError:
            return

    def _refused(self, code: int, content: bytes, path: str) -> None:
        """None where the object is not there."""
        try:
            status = msgspec.json.decode(content, type=_Status)
        except (msgspec.DecodeError, UnicodeDecodeError):
            status = _Status()
        said = "".join(each if each.isprintable() else " " for each in status.message[:MAX_SAID]) or f"status {code}"
        match code:
            case 404 if path and status.details is not None and status.details.name:
                return
            case 404:
                advice = f": there is no custom resource {PLURAL}, or no such namespace: `meshd upgrade` makes both"
            case 409 if status.reason in {"Conflict", "AlreadyExists"}:
                raise Clash(said)
            case 410:
                raise _Expired
            case 401:
                advice = ": it does not know this CA's account: see store.kubernetes.tokenFile"
            case 403:
                advice = f": this CA needs get, list, create, update and delete for {PLURAL} in that namespace"
            case _:
                advice = ""
        raise Unreachable(f"{self.where} refuses: {said} (status {code}){advice}")

    def _token(self) -> str:
        file = Path(self._settings.token_file)
        try:
            with file.open("rb") as opened:
                return opened.read(MAX_TOKEN_BYTES).decode("ascii", "replace").strip()
        except OSError as error:
            raise Unreachable(f"{file}: the CA's own token cannot be read: {error.strerror}") from error


def _said(error: Exception) -> str:
    """Without the library's words around it, in one line. No exception of theirs has the headers that were sent."""
    if isinstance(error, requests.Timeout):
        return f"no answer within {ANSWER_WITHIN_S:g} s"
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return " ".join(str(cause).split())[:MAX_SAID] or type(cause).__name__
