"""What the demo's HTTP servers have in common."""

import os
from collections.abc import AsyncIterator

import uvloop
from aiohttp import ClientSession, ClientTimeout, web
from aiohttp.typedefs import Handler, Middleware

from meshd.api.names import DEFAULT_NAMESPACE, Identity, WorkloadName

SESSION = web.AppKey("session", ClientSession)

CALL_TIMEOUT = ClientTimeout(total=10.0)
SHUTDOWN_WITHIN_S = 5.0


def application(caller: str) -> web.Application:
    """An application that serves the workload `caller` and nobody else."""
    return web.Application(middlewares=[only_from(caller)])


def only_from(caller: str) -> Middleware:
    """403 for requests that do not come from the workload `caller`.

    The workload's proxy has verified the caller's certificate and says whose it is in `l5d-client-id`; it removes such
    a header from what callers send, and it alone can be reached from elsewhere, since the server is bound to loopback.
    """
    trust_domain = os.environ["MESHD_TRUST_DOMAIN"]
    expected = str(Identity.of(trust_domain, WorkloadName(DEFAULT_NAMESPACE, caller)))

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        found = request.headers.get("l5d-client-id", "nobody")
        if found != expected:
            raise web.HTTPForbidden(text=f"this is for {expected}, not for {found}\n")
        return await handler(request)

    return check


async def session(app: web.Application) -> AsyncIterator[None]:
    """A client session for as long as the application runs; it calls through the mesh, by http_proxy."""
    async with ClientSession(trust_env=True, timeout=CALL_TIMEOUT) as calls:
        app[SESSION] = calls
        yield


def serve(app: web.Application, port: int) -> None:
    """Serve on loopback until SIGTERM."""
    web.run_app(
        app,
        host="127.0.0.1",
        port=port,
        print=None,
        access_log=None,
        shutdown_timeout=SHUTDOWN_WITHIN_S,
        loop=uvloop.new_event_loop(),
    )
