"""Consul's API as the CA uses it: keys read and changed in transactions (`/v1/txn`), and sessions.

On `py-consul`, with a transport of its own: one that follows neither the environment's proxies nor redirects, bounds an
answer, and gives the ACL token with every call, which is in no message and no log. Every failure is Unreachable; a
transaction that others were faster than is Raced, and has changed nothing.

All is read in Consul's mode `consistent`: by default, a server that is elected answers before it has read its log, and
a CA would take it that there is no revocation, or no root, and one that has lost its place answers for a moment more.
"""

import base64
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import consul
import requests
from consul import base

from meshd.ca.keyed.answers import bounded
from meshd.ca.keyed.operations import Found, Operation, Raced
from meshd.ca.settings import ConsulSettings
from meshd.ca.source import Unreachable

CONNECT_WITHIN_S: Final = 2.0
ANSWER_WITHIN_S: Final = 5.0

MAX_BATCH_BYTES: Final = 288 << 10
"""Consul takes 512 KiB in one transaction, in base64 and with what is around it."""

MAX_SAID: Final = 200


class Client:
    """All keys below `settings.prefix`; keys here are without it. See `meshd.ca.keyed.operations.Keys`."""

    max_batch_bytes: Final = MAX_BATCH_BYTES

    def __init__(self, settings: ConsulSettings) -> None:
        self._consul = _Consul(settings)
        self.where = f"Consul at {settings.address}"
        self.place = f"{self.where}, {settings.prefix}"
        self.in_the_way = (
            "choose another `store.consul.prefix`; what an interrupted `init` left there is removed with "
            f"`consul kv delete -recurse {settings.prefix}/`"
        )
        self._prefix = f"{settings.prefix}/"

    def read(self, *prefixes: str) -> dict[str, Found]:
        """All that is under keys that begin so, at one moment."""
        operations = [{"KV": {"Verb": "get-tree", "Key": self._prefix + prefix}} for prefix in prefixes]
        answer = self._call(lambda: self._consul.txn.put(operations))
        return {key: Found(value, index) for key, value, index in self._keys(answer)}

    def get(self, key: str) -> Found | None:
        _, found = self._call(lambda: self._consul.kv.get(self._prefix + key))
        return None if found is None else Found(found["Value"] or b"", int(found["ModifyIndex"]))

    def pages(self, prefix: str) -> Iterator[dict[str, Found]]:
        """By the next digit, in hexadecimal, where it ends with a slash, so that no answer is of all."""
        for each in [f"{prefix}{digit:x}" for digit in range(16)] if prefix.endswith("/") else [prefix]:
            yield self.read(each)

    def commit(self, operations: Sequence[Operation]) -> dict[str, int]:
        asked = [self._written(each) for each in operations]
        answer = self._call(lambda: self._consul.txn.put(asked))
        return {key: index for key, _, index in self._keys(answer)}

    def _written(self, operation: Operation) -> dict[str, Any]:
        """As Consul's API has it."""
        verb, key, value, index, session = operation
        content: dict[str, Any] = {"Key": self._prefix + key}
        if verb in {"put", "take"}:
            content["Value"] = base64.b64encode(value).decode()
        match verb:
            case "take":
                content |= {"Verb": "lock", "Session": session}
            case "remove":
                content |= {"Verb": "delete-cas", "Index": index}
            case "check":
                content |= {"Verb": "check-index", "Index": index}
            case "put":
                content |= {"Verb": "set"} if index is None else {"Verb": "cas", "Index": index}
        return {"KV": content}

    def begin_session(self, name: str, ttl_s: int) -> str:
        """A session that ends ttl_s after its last renewal, at the earliest, with all that it holds."""
        create = self._consul.session.create
        return str(self._call(lambda: create(name=f"meshd-ca {name}", lock_delay=0, behavior="delete", ttl=ttl_s)))

    def renew_session(self, session: str) -> bool:
        """Whether there still was one."""
        try:
            self._call(lambda: self._consul.session.renew(session))
        except _Gone:
            return False
        return True

    def end_session(self, session: str) -> None:
        self._call(lambda: self._consul.session.destroy(session))

    def close(self) -> None:
        self._consul.http.close()

    def _keys(self, answer: Any) -> Iterable[tuple[str, bytes, int]]:
        try:
            for result in answer["Results"] or ():
                found = result["KV"]
                value = base64.b64decode(found["Value"] or "", validate=True)
                yield str(found["Key"]).removeprefix(self._prefix), value, int(found["ModifyIndex"])
        except (KeyError, TypeError, ValueError) as error:
            raise Unreachable(f"{self.where} gives an answer that is not Consul's") from error

    def _call(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except consul.NotFound as error:
            raise _Gone(f"{self.where} has no such session any more") from error
        except (consul.ACLPermissionDenied, consul.ACLDisabled) as error:
            raise Unreachable(
                f"{self.where} refuses: {_said(error)}: the token needs key_prefix {self._prefix!r} and "
                'session_prefix "", both with write'
            ) from error
        except _RolledBack as rolled_back:
            self._raise(rolled_back)
        except (consul.ConsulException, requests.RequestException, OSError, ValueError) as error:
            raise Unreachable(f"{self.where} cannot be used: {_said(error)}") from error

    def _raise(self, rolled_back: "_RolledBack") -> NoReturn:
        """Raced where keys were not as expected, which is what Consul answers a transaction with that was not done."""
        said = ""
        keys: set[str] = set()
        for error in rolled_back.errors:
            said = str(error.get("What", ""))
            if "index" not in said and "lock" not in said:  # «index is stale», «failed to check index», «lock …»
                raise Unreachable(f"{self.where} refuses: {said[:MAX_SAID]}") from None
            keys |= {part for part in said.split('"') if part.startswith(self._prefix)}
        raise Raced(frozenset(key.removeprefix(self._prefix) for key in keys)) from None


class _Gone(Unreachable):
    """What was asked about is not there."""


class _RolledBack(Exception):
    """The answer 409 of /v1/txn."""

    def __init__(self, text: str) -> None:
        super().__init__("rolled back")
        self.errors: list[dict[str, Any]] = json.loads(text).get("Errors") or []


class _Consul(base.Consul):  # type: ignore[misc]  # it has no types
    """py-consul's API over the transport below."""

    def __init__(self, settings: ConsulSettings) -> None:
        self._settings = settings
        url = urlsplit(settings.address)
        assert url.hostname is not None
        super().__init__(url.hostname, url.port, scheme=url.scheme, verify=settings.ca or True)

    def http_connect(
        self, host: str, port: int, scheme: str, verify: bool | str = True, cert: tuple[str, str] | None = None
    ) -> "_Transport":
        own = self._settings
        return _Transport(own, host, port, scheme, verify, (own.certificate, own.key) if own.certificate else cert)


class _Transport(base.HTTPClient):  # type: ignore[misc]  # as above
    """As of py-consul's own, and bounded. What the library would send as a token is replaced by what the settings say:
    it does not send one with transactions, and would take another from the environment."""

    def __init__(self, settings: ConsulSettings, *where: Any) -> None:
        super().__init__(*where)
        self._settings = settings
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify, self._session.cert = self.verify, self.cert

    def get(self, callback: Callable[[base.Response], Any], path: str, params: Any = None, **_: Any) -> Any:
        return callback(self._exchange("GET", path, params))

    def put(
        self, callback: Callable[[base.Response], Any], path: str, params: Any = None, data: Any = "", **_: Any
    ) -> Any:
        return callback(self._exchange("PUT", path, params, data))

    def delete(self, callback: Callable[[base.Response], Any], path: str, params: Any = None, **_: Any) -> Any:
        return callback(self._exchange("DELETE", path, params))

    def post(
        self, callback: Callable[[base.Response], Any], path: str, params: Any = None, data: Any = "", **_: Any
    ) -> Any:
        return callback(self._exchange("POST", path, params, data))

    def close(self) -> None:
        self._session.close()

    def _exchange(self, method: str, path: str, params: Any, data: Any = "") -> base.Response:
        asked = [("consistent", ""), *((name, value) for name, value in params or () if name != "dc")]
        if self._settings.datacenter:
            asked.append(("dc", self._settings.datacenter))
        token = read_token(self._settings)
        headers = {"X-Consul-Token": token} if token else {}
        within = (CONNECT_WITHIN_S, ANSWER_WITHIN_S)
        with self._session.request(
            method,
            self.uri(path, asked),
            data=data,
            headers=headers,
            timeout=within,
            allow_redirects=False,
            stream=True,
        ) as answer:
            text = bounded(answer).decode("utf-8", "replace")
            if answer.status_code == 409:
                raise _RolledBack(text)
            return base.Response(answer.status_code, answer.headers, text)


def read_token(settings: ConsulSettings) -> str:
    """The ACL token, as it is now; Unreachable when its file cannot be read, or everyone can read it."""
    if not settings.token_file:
        return settings.token
    file = Path(settings.token_file)
    try:
        with file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_mode & 0o007:
                raise Unreachable(f"{file}: holds Consul's token, and everyone on this host can read it: `chmod o=`")
            return opened.read(4096).decode("ascii", "replace").strip()
    except OSError as error:
        raise Unreachable(f"{file}: Consul's token cannot be read: {error.strerror}") from error


def _said(error: Exception) -> str:
    """Without the library's words around it, in one line. No exception of theirs has the headers that were sent."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None and not isinstance(cause, consul.ConsulException):
        cause = inner
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    if isinstance(error, requests.Timeout):
        return f"no answer within {ANSWER_WITHIN_S:g} s"
    return " ".join(str(cause).split())[:MAX_SAID] or type(cause).__name__
