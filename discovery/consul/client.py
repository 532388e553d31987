"""Calls to one Consul agent. py-consul knows paths, parameters and bodies; what it leaves open is settled here:
time-outs, a bound on every answer, the headers that say how good an answer is, a token and certificates that may
change, and that no redirect, proxy or variable of the environment leads elsewhere.

An answer that is not a success is `Away`, but for those that mean that there is no such thing. Any server may answer,
if it is not far behind. But one that has just started says what was so long ago, or nothing, until it has read its log,
even as the leader: where Consul did not answer well for some time yet, it is read in its mode `consistent`, which waits
for a leader that knows all.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

import aiohttp
from consul import base
from consul.check import Check
from yarl import URL

from discovery.consul.answers import (
    CatalogInstance,
    Instance,
    NodeServices,
    Pair,
    QueryResult,
    Registered,
    decoded,
    shown,
)
from discovery.consul.settings import ConsulDiscovery
from discovery.registry import Away, Denied

T = TypeVar("T")

WITHIN_S: Final = 10.0
CONNECT_WITHIN_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 64 << 20
"""20,000 instances, each with the checks of its node, take some 50 MiB."""

OFF_LOOP_BYTES: Final = 256 << 10
"""An answer larger than this is parsed in a thread, where it does not hold up others."""

SHORT_CALLS: Final = 8
"""Calls at a time of those that are not waiting for a change."""

MAX_TOKEN_BYTES: Final = 4096

SETTLED_AFTER_S: Final = 60.0
"""So long after a failure, and after the first call, a server that answers may be one that has just started."""


class Answer(NamedTuple):
    """What Consul said: `at`, its index, is None where it gave none; `last_contact_s` how long ago the server that
    answered had heard from its leader."""

    body: bytes
    at: int | None
    last_contact_s: float


class Refused(Away):
    """Consul answered, and would not."""


class NotAllowed(Refused, Denied):
    """Consul answered that this is not for those who have this token, or none."""


class _Request(NamedTuple):
    """One that py-consul made up, and nobody has sent yet."""

    method: str
    url: str
    headers: Mapping[str, str]
    data: str | bytes

    @property
    def what(self) -> str:
        url = URL(self.url, encoded=True)
        datacenter = url.query.get("dc")
        return f"{self.method} {url.raw_path}{f'?dc={datacenter}' if datacenter else ''}"

    def read(self, how: Literal["stale", "consistent"]) -> "_Request":
        """The same, with another mode of consistency than Consul's default, which is to ask whoever leads."""
        return self._replace(url=f"{self.url}{'&' if '?' in self.url else '?'}{how}=")


class _Composer(base.HTTPClient):  # type: ignore[misc]
    """Makes requests of py-consul's calls instead of sending them."""

    def get(self, _: object, path: str, params: Any = None, headers: Any = None) -> _Request:
        return _Request("GET", self.uri(path, params), headers or {}, "")

    def put(self, _: object, path: str, params: Any = None, data: Any = "", headers: Any = None) -> _Request:
        return _Request("PUT", self.uri(path, params), headers or {}, data)

    def delete(self, _: object, path: str, params: Any = None, data: Any = "", headers: Any = None) -> _Request:
        return _Request("DELETE", self.uri(path, params), headers or {}, data)

    def post(self, _: object, path: str, params: Any = None, data: Any = "", headers: Any = None) -> _Request:
        return _Request("POST", self.uri(path, params), headers or {}, data)

    def close(self) -> None:
        pass


class _Calls(base.Consul):  # type: ignore[misc]
    def http_connect(self, host: str, port: int, scheme: str, verify: Any = True, cert: Any = None) -> _Composer:
        return _Composer(host, port, scheme, verify, cert)


class Client:
    """The agent of `settings`, whose files are read when they are needed."""

    def __init__(self, settings: ConsulDiscovery) -> None:
        self.url = settings.url.rstrip("/")
        url = URL(self.url)
        self._settings = settings
        host = f"[{url.host}]" if ":" in (url.host or "") else url.host
        self._calls = _Calls(host=host, port=url.port, scheme=url.scheme, verify=True)
        self._calls.token = None  # which it would take from the environment
        self._tls = _Tls(settings) if url.scheme == "https" else None
        self._token_file = Path(settings.token_file) if settings.token_file else None
        self._max_stale_s = settings.max_stale_s
        self.slots = settings.max_connections - SHORT_CALLS
        self._waiting = asyncio.Semaphore(self.slots)
        self._short = asyncio.Semaphore(SHORT_CALLS)
        self._session: aiohttp.ClientSession | None = None
        self._lost_at = time.monotonic()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- what can be asked ----------------------------------------------------------------------------------------

    async def instances(
        self, service: str, datacenter: str = "", index: int = 0, wait_s: float = 0.0
    ) -> tuple[bytes, int]:
        """The JSON of all instances of a service, well or not, and its index. With an index, once it is another, or
        after wait_s and a sixteenth. `parse_instances` reads it."""
        health = self._calls.health
        request = at_once = health.service(service, dc=datacenter or None)
        if index:
            request = health.service(service, index=index, wait=f"{round(wait_s * 1000)}ms", dc=datacenter or None)
        answer = await self._fresh(request, at_once, wait_s * 17 / 16 if index else 0.0)
        if answer.at is None:
            raise Away(f"{self.url}: {request.what}: an answer without X-Consul-Index is not Consul's")
        return answer.body, answer.at

    async def run_query(self, name: str, datacenter: str = "") -> QueryResult | None:
        """What a prepared query gives; None when there is no such query."""
        request = self._calls.query.execute(name, dc=datacenter or None)
        answer = await self._fresh(request, request, absent=404)
        return await self.parsed(answer.body, QueryResult, request.what) if answer.body else None

    async def services(self, datacenter: str = "") -> tuple[str, ...]:
        """The names of all services."""
        request = self._calls.catalog.services(dc=datacenter or None)
        return tuple(
            await self.parsed((await self._fresh(request, request)).body, dict[str, tuple[str, ...]], request.what)
        )

    async def nodes_at(self, address: str) -> tuple[str, ...]:
        """The names of the nodes with an IP address."""
        request = self._calls.catalog.nodes(filter_expr=f'Address == "{address}"', dc=self._settings.datacenter or None)
        nodes = await self.parsed(
            (await self._fresh(request, request)).body, tuple[dict[str, object], ...], request.what
        )
        return tuple(str(node.get("Node", "")) for node in nodes)

    async def services_of(self, node: str, port: int) -> NodeServices | None:
        """What is registered of a node at a port; None when there is no such node."""
        datacenter = self._settings.datacenter or None
        request = self._calls.catalog.node(node, filter_expr=f"Port == {port}", dc=datacenter)
        return await self.parsed((await self._fresh(request, request)).body, NodeServices | None, request.what)  # type: ignore[arg-type]

    async def catalogue_of(self, service: str) -> tuple[CatalogInstance, ...]:
        """Where a service is registered."""
        request = self._calls.catalog.service(service, dc=self._settings.datacenter or None)
        return await self.parsed((await self._fresh(request, request)).body, tuple[CatalogInstance, ...], request.what)

    async def values(
        self, prefix: str, datacenter: str = "", index: int = 0, wait_s: float = 0.0
    ) -> tuple[tuple[Pair, ...] | None, int]:
        """All keys below a prefix and their index, as of `instances`; None when there is none. Away when they may not
        be read, which Consul says of a single key alone."""
        read = self._calls.kv.get
        request = at_once = read(prefix, recurse=True, dc=datacenter or None)
        if index:
            wait = f"{round(wait_s * 1000)}ms"
            request = read(prefix, index=index, wait=wait, recurse=True, dc=datacenter or None)
        answer = await self._fresh(request, at_once, wait_s * 17 / 16 if index else 0.0, absent=404)
        if answer.at is None:
            raise Away(f"{self.url}: {request.what}: an answer without X-Consul-Index is not Consul's")
        if not answer.body:
            await self._call(read(prefix, dc=datacenter or None), absent=404)
            return None, answer.at
        return await self.parsed(answer.body, tuple[Pair, ...], request.what), answer.at

    # --- what can be written, with the agent that is asked ---------------------------------------------------------

    async def registered(self) -> dict[str, Registered]:
        """What is registered with the agent itself, by id."""
        request = self._calls.agent.services()
        answer = await self._call(request)
        return await self.parsed(answer.body, dict[str, Registered], request.what)

    async def register(
        self,
        service: Registered,
        ttl_s: float,
        gone_after_s: float,
        status: str,
    ) -> None:
        """Register a service, with one check that is to be kept up (`check`), in that state."""
        check = Check.ttl(f"{ttl_s:g}s") | {
            "Name": "meshd", "Status": status, "DeregisterCriticalServiceAfter": f"{gone_after_s:g}s",
        }  # fmt: skip
        weights = service.weights
        request = self._calls.agent.service.register(
            service.service,
            service_id=service.id,
            address=service.address,
            port=service.port,
            tags=list(service.tags or ()),
            meta=service.meta,
            check=check,
            weights={"Passing": weights.passing, "Warning": weights.warning} if weights else None,
        )
        await self._call(request)

    async def deregister(self, service_id: str) -> None:
        """Take a registration back; that there is none is good, too."""
        await self._call(self._calls.agent.service.deregister(service_id), absent=404)

    async def check(self, service_id: str, passing: bool, note: str) -> None:
        """Keep up the check of what `register` registered."""
        way = self._calls.agent.check.ttl_pass if passing else self._calls.agent.check.ttl_fail
        await self._call(way(f"service:{service_id}", notes=note))

    # --- how ------------------------------------------------------------------------------------------------------

    async def parsed(self, body: bytes, kind: type[T], what: str) -> T:
        """body as kind; Away when it is none."""
        what = f"{self.url}: {what}"
        if len(body) > OFF_LOOP_BYTES:
            return await asyncio.to_thread(decoded, body, kind, what)
        return decoded(body, kind, what)

    async def parse_instances(self, body: bytes, service: str) -> tuple[Instance, ...]:
        return await self.parsed(body, tuple[Instance, ...], f"service {service}")

    async def _fresh(self, request: _Request, at_once: _Request, waits_s: float = 0.0, absent: int = 0) -> Answer:
        """The answer of any server, if that is not too far behind its leader, and none may have just started; the
        leader's otherwise, to at_once where the other has waited already."""
        try:
            if time.monotonic() - self._lost_at < SETTLED_AFTER_S:
                return await self._call(request.read("consistent"), waits_s, absent)
            answer = await self._call(request.read("stale"), waits_s, absent)
            if answer.last_contact_s > self._max_stale_s:
                answer = await self._call(at_once.read("consistent"), 0.0, absent)
        except Denied:
            raise
        except Away:
            self._lost_at = time.monotonic()
            raise
        return answer

    async def _call(self, request: _Request, waits_s: float = 0.0, absent: int = 0) -> Answer:
        """One exchange. With the status `absent`, an answer with no body."""
        what = f"{self.url}: {request.what}"
        within_s = waits_s + WITHIN_S
        try:
            async with self._waiting if waits_s else self._short, self._exchange(request, within_s) as response:
                body = await _bounded(response.content)
                status, headers = response.status, response.headers
        except TimeoutError as error:  # before OSError, which it is
            raise Away(f"{what}: no answer within {within_s:g} s") from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise Away(f"{what}: its certificate is not good: {error.certificate_error}: see consul.tls") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Away(f"{what}: {_reason(error)}") from error
        is_absent = bool(absent) and status == absent
        if status != 200 and not is_absent:
            kind = NotAllowed if status in (401, 403) else Refused
            raise kind(f"{what}: {_refusal(status, body, self._token_file)}")
        if headers.get("X-Consul-KnownLeader", "true") != "true":
            raise Away(f"{what}: Consul has no leader, and may know old things only")
        if is_absent:
            body = b""
        elif headers.get("X-Consul-Results-Filtered-By-ACLs") == "true" and len(body) <= len("null\n"):
            raise Denied(f"{what}: the token may not see it: it needs service:read and node:read")
        index = _number(headers, "X-Consul-Index", what)
        return Answer(body, index, (_number(headers, "X-Consul-LastContact", what) or 0) / 1000)

    @asynccontextmanager
    async def _exchange(self, request: _Request, within_s: float) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=30)
            self._session = aiohttp.ClientSession(
                connector=connector,
                trust_env=False,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent",),
            )
        headers = {**request.headers, "Accept-Encoding": "identity"}
        if token := self._token():
            headers["X-Consul-Token"] = token
        async with self._session.request(
            request.method,
            URL(request.url, encoded=True),
            headers=headers,
            data=request.data or None,
            timeout=aiohttp.ClientTimeout(total=within_s, sock_connect=CONNECT_WITHIN_S),
            ssl=self._tls.context() if self._tls is not None else True,
            server_hostname=self._settings.tls.server_name or None if self._tls is not None else None,
            allow_redirects=False,
        ) as response:
            yield response

    def _token(self) -> str:
        if self._token_file is None:
            return ""
        try:
            with self._token_file.open("rb") as file:
                token = file.read(MAX_TOKEN_BYTES + 1).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
            raise Away(f"consul.tokenFile: {self._token_file}: cannot be read: {reason}") from error
        if not token or not token.isprintable() or " " in token or len(token) > MAX_TOKEN_BYTES:
            raise Away(f"consul.tokenFile: {self._token_file}: what is in it is not a token")
        return token


class _Tls:
    """A context of what the files say now."""

    def __init__(self, settings: ConsulDiscovery) -> None:
        self._files = settings.tls
        self._seen: Sequence[object] = ()
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Away when one of the files cannot be used."""
        files = self._files
        try:
            seen = [_signature(Path(each)) for each in (files.ca, files.certificate, files.key) if each]
            if self._context is None or seen != self._seen:
                context = ssl.create_default_context(cafile=files.ca or None)
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                if files.certificate:
                    context.load_cert_chain(files.certificate, files.key)
                self._context, self._seen = context, seen
        except (OSError, ssl.SSLError) as error:
            named = ", ".join(each for each in (files.ca, files.certificate, files.key) if each)
            raise Away(f"consul.tls: {named}: cannot be used: {error.strerror or error}") from error
        return self._context


def _signature(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    async for part in content.iter_any():
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise aiohttp.ClientPayloadError(f"an answer larger than {MAX_ANSWER_BYTES >> 20} MiB")
    return bytes(body)


def _number(headers: Mapping[str, str], name: str, what: str) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise Away(f"{what}: {name} is {text[:50]!r}, which is not Consul's")
    return int(text)


def _refusal(status: int, body: bytes, token_file: Path | None) -> str:
    said = f"{shown(body)!r} (status {status})"
    match status:
        case 401 | 403:
            if token_file is None:
                return f"{said}: Consul asks for a token: set consul.tokenFile"
            return f"{said}: the token in {token_file} is not good for that"
        case 429:
            return f"{said}: too many connections from this host: see consul.maxConnections"
        case _:
            return said


def _reason(error: Exception) -> str:
    """What the system said, without the library's words around it."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return str(getattr(cause, "strerror", None) or cause or type(error).__name__)
