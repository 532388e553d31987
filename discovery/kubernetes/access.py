"""The API server, reached as the `kubernetes` library reaches it: its kubeconfig, credentials, exec plugins and TLS.

Of the library its configuration and its HTTP client are used, and none of its models: these are objects of 10 kB for
every pod, where a few fields are enough (`discovery.kubernetes.objects`). It is imported when the first request is
made, in a thread, since that takes a third of a second.

Credentials are loaded anew when the API server does not know them any more (401) or shows a certificate that is not
good: a rotated token, CA or client certificate needs no restart. Requests that are under way go on with the old.
"""

import asyncio
import importlib
import logging
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from discovery.kubernetes.objects import Status
from discovery.registry import Away, Denied
from meshd.api.documents import API_VERSION

log = logging.getLogger(__name__)

ANSWER_S: Final = 10.0
"""Until an answer begins."""

CONNECT_S: Final = 5.0

LOAD_S: Final = 30.0
"""For the credentials, which a plugin may have to fetch."""

LOAD_AGAIN_S: Final = 2.0
"""Before they are looked for again where there were none: for all that waits for them, they are looked for once."""

AT_ONCE: Final = 16
"""Requests that are read whole; an agent that starts asks for all that it follows."""

MAX_BODY_BYTES: Final = 32 * 2**20
"""Of an answer that is read whole: a page of 500 large objects has a tenth of that."""

MAX_EVENT_BYTES: Final = 3 * 2**20
"""Of a line of a watch; the API server stores no object above 1.5 MiB."""

CHUNK_BYTES: Final = 2**16

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

DOCUMENTS: Final = f"/apis/{API_VERSION}/"
"""Where the mesh's own objects are."""

_PATCH: Final = "application/json-patch+json"

Query = Mapping[str, str]


class Absent(Away):
    """The API server knows no such thing (404)."""


class Unreached(Away):
    """The API server cannot be connected to."""


class Gone(Exception):
    """The version that was asked for is too old to be known (410)."""


class _Client:
    """The library's client with credentials as they were loaded. `users` are requests under way with it."""

    def __init__(self, api: Any, session: aiohttp.ClientSession) -> None:
        self.api = api
        self.users = 0
        self.retired = False
        api.rest_client.pool_manager = session

    @property
    def url(self) -> str:
        return str(self.api.configuration.host)

    async def close_if_unused(self) -> None:
        if self.retired and not self.users:
            await self.api.close()


class Access:
    """The API server of one cluster. Away, from everything, says why it cannot be read. `account` and `environ` are
    what a pod finds its API server by."""

    def __init__(
        self,
        kubeconfig: str = "",
        context: str = "",
        *,
        account: Path = SERVICE_ACCOUNT,
        environ: Mapping[str, str] = os.environ,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._kubeconfig, self._context, self._account, self._environ = kubeconfig, context, account, environ
        self._answer_s = answer_s
        self._client: _Client | None = None
        self._loading = asyncio.Lock()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._unloaded, self._load_again = "", 0.0
        self._closed = False

    async def get(self, path: str, query: Query, *, absent_is_none: bool = False) -> bytes | None:
        """The body of the answer to GET; where that is wanted, None for 404. Gone for 410."""
        async with (
            self._turns,
            self._answer(path, query, total_s=3 * self._answer_s, absent_is_good=absent_is_none) as response,
        ):
            return None if response.status == 404 else await _whole(response, path)

    async def post(self, path: str, body: Mapping[str, Any]) -> bytes:
        """The body of the answer to POST of an object. Gone for 410."""
        return await self._write("POST", path, body)

    async def put(self, path: str, body: Mapping[str, Any]) -> bytes:
        """The body of the answer to PUT of an object. Away where it has changed since it was read (409)."""
        return await self._write("PUT", path, body)

    async def patch(self, path: str, operations: list[dict[str, Any]]) -> bytes:
        """The body of the answer to PATCH by a JSON patch (RFC 6902)."""
        return await self._write("PATCH", path, operations)

    async def _write(self, method: str, path: str, body: Any) -> bytes:
        async with self._turns, self._answer(path, {}, 3 * self._answer_s, False, method, body) as response:
            return await _whole(response, path)

    @asynccontextmanager
    async def lines(self, path: str, query: Query, total_s: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of an answer as they come, until it ends or breaks off; total_s is the longest that it may take.
        Gone for 410."""
        async with self._answer(path, query, total_s=total_s) as response, aclosing(_lines(response)) as lines:
            yield lines

    async def close(self) -> None:
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.api.close()

    # --- one request ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _answer(
        self,
        path: str,
        query: Query,
        total_s: float,
        absent_is_good: bool = False,
        method: str = "GET",
        body: Any = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request, once it is known to be a good one."""
        client, response = await self._asked(path, query, total_s, method, body)
        try:
            try:
                if response.status == 410:
                    raise Gone
                good = (200,) if body is None else (200, 201)
                if response.status not in good and not (absent_is_good and response.status == 404):
                    kind = {401: Denied, 403: Denied, 404: Absent}.get(response.status, Away)
                    raise kind(await _refusal(response))
                yield response
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise Away(f"{client.url}: {_reason(error)}") from error
        finally:
            _break_off(response)
            await self._used(client)

    async def _asked(
        self, path: str, query: Query, total_s: float, method: str, body: Any
    ) -> tuple[_Client, aiohttp.ClientResponse]:
        """The client, which is to be given back by `_used`, and the answer as far as its head."""
        for last in (False, True):
            try:
                client = await self._loaded()
            except Away as error:
                raise Unreached(str(error)) from error
            client.users += 1
            try:
                response = await self._sent(client, path, query, total_s, method, body)
            except aiohttp.ClientConnectorCertificateError as error:
                await self._used(client)
                await self._forget(client)
                if last:
                    raise Unreached(f"{client.url}: its certificate is not good: {error.certificate_error}") from error
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                await self._used(client)
                kind = Unreached if isinstance(error, aiohttp.ClientConnectorError) else Away
                raise kind(f"{client.url}: {_reason(error)}") from error
            except BaseException:
                await self._used(client)
                raise
            else:
                if response.status != 401 or last:
                    return client, response
                _break_off(response)
                await self._used(client)
                await self._forget(client)
        raise AssertionError("unreachable")

    async def _sent(
        self, client: _Client, path: str, query: Query, total_s: float, method: str, body: Any
    ) -> aiohttp.ClientResponse:
        said = {} if body is None else {"Content-Type": _PATCH if method == "PATCH" else "application/json"}
        method, url, headers, content, _ = await client.api.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", **said},
            body=body,
            auth_settings=["BearerToken"],
        )
        timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=CONNECT_S)
        async with asyncio.timeout(self._answer_s):
            answer = await client.api.rest_client.request(
                method, url, headers=headers, body=content, _request_timeout=timeout
            )
        response: aiohttp.ClientResponse = answer.response
        return response

    async def _used(self, client: _Client) -> None:
        client.users -= 1
        await client.close_if_unused()

    async def _forget(self, client: _Client) -> None:
        """Its credentials are no longer good: the next request is made with others."""
        if self._client is client:
            self._client = None
        client.retired = True
        await client.close_if_unused()

    # --- the client -----------------------------------------------------------------------------------------------

    async def _loaded(self) -> _Client:
        async with self._loading:
            if self._client is None:
                clock = asyncio.get_running_loop().time
                if clock() < self._load_again:
                    raise Away(self._unloaded)
                try:
                    self._client = await self._load()
                except Away as error:
                    self._unloaded, self._load_again = str(error), clock() + LOAD_AGAIN_S
                    raise
            return self._client

    async def _load(self) -> _Client:
        where = self._kubeconfig or "the pod's service account"
        if self._closed:
            raise Away("it is closed")
        try:
            async with asyncio.timeout(LOAD_S):
                library = await asyncio.to_thread(importlib.import_module, "kubernetes.aio")
                configuration: Any = library.client.Configuration()
                if self._kubeconfig:
                    await self._read_kubeconfig(library, configuration)
                else:
                    self._read_account(library, configuration)
        except Away:
            raise
        except TimeoutError as error:
            raise Away(f"{where}: no credentials within {LOAD_S:g} s") from error
        except Exception as error:  # the library's own, and whatever a file that is wrong makes it run into
            raise Away(f"{where}: {_reason(error)}") from error
        _check(configuration, where)
        try:
            api = library.client.ApiClient(configuration)
        except (OSError, ValueError) as error:
            raise Away(f"{where}: its certificates cannot be used: {_reason(error)}") from error
        api.user_agent = "meshd"
        return _Client(api, _session(api.rest_client.ssl_context))

    async def _read_kubeconfig(self, library: Any, configuration: Any) -> None:
        try:
            await asyncio.to_thread(Path(self._kubeconfig).read_bytes)
        except OSError as error:
            raise Away(f"{self._kubeconfig}: {error.strerror}") from error
        await library.config.load_kube_config(
            self._kubeconfig,
            context=self._context or None,
            client_configuration=configuration,
            persist_config=False,
        )
        configuration.api_key = {name: value.strip() for name, value in configuration.api_key.items()}

    def _read_account(self, library: Any, configuration: Any) -> None:
        loader: Callable[..., Any] = library.config.incluster_config.InClusterConfigLoader
        token, ca = self._account / "token", str(self._account / "ca.crt")
        loader(token_filename=str(token), cert_filename=ca, environ=self._environ).load_and_set(configuration)

        def refresh(used: Any) -> None:  # for each request: the kubelet replaces it, at the latest after an hour
            used.api_key = {"BearerToken": f"Bearer {token.read_text(encoding='ascii').strip()}"}

        configuration.refresh_api_key_hook = refresh


def _check(configuration: Any, where: str) -> None:
    """Away where the configuration would have us talk to just anybody, or as nobody."""
    if urlsplit(configuration.host).scheme != "https":
        raise Away(f"{where}: the server {configuration.host!r} is not an https URL")
    if not configuration.verify_ssl:
        raise Away(f"{where}: insecure-skip-tls-verify is not to be had: name the CA in certificate-authority")
    if not configuration.api_key and not configuration.cert_file:
        raise Away(f"{where}: there are no credentials in it, or its plugin gave none")


def _break_off(response: aiohttp.ClientResponse) -> None:
    """Be done with an answer. One that goes on, as a watch's does, ends with its connection, and at once: an end of TLS
    in order would wait for the other side's, half a minute where that is gone, and outlive `Access.close`."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


def _session(tls: ssl.SSLContext) -> aiohttp.ClientSession:
    """What the library would make, but for these: each watch is a connection, and there may be thousands; a peer that
    is gone is noticed in a minute; the agent's own environment sends nobody through a proxy (a kubeconfig may)."""
    connector = aiohttp.TCPConnector(limit=0, ssl=tls, socket_factory=_socket)
    return aiohttp.ClientSession(connector=connector, trust_env=False, read_bufsize=CHUNK_BYTES)


def _socket(info: Any) -> socket.socket:
    family, kind, proto, _, _ = info
    made = socket.socket(family, kind, proto)
    made.setblocking(False)
    for option, value in (
        (socket.TCP_KEEPIDLE, 30),
        (socket.TCP_KEEPINTVL, 10),
        (socket.TCP_KEEPCNT, 3),
        (socket.TCP_USER_TIMEOUT, 60_000),
    ):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return made


async def _whole(response: aiohttp.ClientResponse, path: str) -> bytes:
    parts, size = [], 0
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        parts.append(chunk)
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise Away(f"{_origin(response)}: an answer above {MAX_BODY_BYTES} bytes to {path}")
    return b"".join(parts)


async def _lines(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """Whole lines; what comes after the last of them when the answer breaks off is dropped."""
    rest = b""
    try:
        async for chunk in response.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line:
                    yield line
            if len(rest) > MAX_EVENT_BYTES:
                raise Away(f"{_origin(response)}: an event above {MAX_EVENT_BYTES} bytes")
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        log.debug("%s: a watch broke off: %s", _origin(response), _reason(error))


async def _refusal(response: aiohttp.ClientResponse) -> str:
    """Why the API server refuses, and what to do about it."""
    content = b""
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        content += chunk
        if len(content) > CHUNK_BYTES:
            break
    try:
        status = msgspec.json.decode(content, type=Status)
    except msgspec.DecodeError:
        status = Status()
    said = "".join(each if each.isprintable() else " " for each in status.message[:300]) or "it does not say why"
    of_documents = response.url.path.startswith(DOCUMENTS)
    needs = "list and watch for it" if of_documents else "get, list and watch for services, endpointslices and pods"
    if response.url.path.endswith("/tokenreviews"):
        needs = "create for tokenreviews, as the role system:auth-delegator has it"
    advice = {
        401: ": it does not know these credentials",
        403: f": this agent needs {needs}",
        404: ": the custom resources of the mesh are not installed" if of_documents else "",
    }.get(response.status, "")
    return f"{_origin(response)}: {said} (status {response.status}){advice}"


def _origin(response: aiohttp.ClientResponse) -> str:
    return str(response.url.origin())


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
