"""The CA's HTTPS API (`meshd.ca.wire`) as a web application over an authority. Its server is `meshd.ca.server`.

    401  no token, or one that is not known       429  too many requests at once
    403  another trust domain, a host's identity  500  a bug: the log has it
    400  a bad CSR, a body that is no SignRequest 503  the CA cannot sign now
    413  a body that is too large

Of a failure inside, the client learns that there was one, and the log what it was. Refusals are logged with the peer's
address and the reason, those of strangers within bounds; tokens never are.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from aiohttp import web

from meshd.api.complaints import Dam
from meshd.api.names import Identity, InvalidName
from meshd.ca.authority import Authority
from meshd.ca.source import Forbidden, Refusal, Unreachable
from meshd.ca.wire import MAX_BODY_BYTES, Bundle, Error, Health, SignRequest

log = logging.getLogger(__name__)

complaints = logging.getLogger(f"{__name__}.complaints")
"""What anyone can cause who can connect."""
complaints.addFilter(Dam())

MAX_REQUESTS: Final = 256
"""At once; signing itself takes no time in which another could come in, so these are bodies on their way."""

MAX_LOGGED: Final = 400

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class NotAuthenticated(Refusal):
    """There is no token, or none that is known."""


class Api:
    """Answers for `authority`. `application` is what a server runs."""

    def __init__(
        self, authority: Authority, clock: Callable[[], float] = time.time, max_requests: int = MAX_REQUESTS
    ) -> None:
        self._authority, self._clock, self._max = authority, clock, max_requests
        self._requests = 0
        self.application = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY_BYTES)
        self.application.add_routes(
            [
                web.post("/v1/sign", self._sign),
                web.get("/v1/bundle", self._bundle),
                web.get("/v1/health", self._health),
            ]
        )
        self.application.on_response_prepare.append(_name_server)

    async def _sign(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        try:
            asked = msgspec.json.decode(await request.read(), type=SignRequest)
            identity = Identity.parse(asked.identity)
        except (msgspec.DecodeError, UnicodeDecodeError, InvalidName) as error:
            raise Refusal(f"the body is not a request to sign: {error}") from error
        try:
            return _answer(self._authority.issue(asked.csr_pem, identity, self._clock(), _peer(request)))
        except Refusal as refusal:
            log.warning("refused %s to %s: %s", identity, _peer(request), _line(refusal))
            return _refused(refusal)

    async def _bundle(self, _: web.Request) -> web.Response:
        return _answer(Bundle(self._authority.trust_domain, self._authority.bundle_pem))

    async def _health(self, _: web.Request) -> web.Response:
        now = self._clock()
        self._authority.check(now)
        return _answer(Health(self._authority.trust_domain, now))

    def _authenticate(self, request: web.Request) -> None:
        """NotAuthenticated without a token that the CA knows (RFC 6750, section 2.1). Before the body is read."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise NotAuthenticated("there is no token: `Authorization: Bearer TOKEN` is needed")
        if not self._authority.store.knows_token(token.strip()):
            raise NotAuthenticated("the token is not known to this CA: copy agent.token of the CA")

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Bounds what is under way, and answers everything that goes wrong in the API's own form."""
        if self._requests >= self._max:
            return _failed(429, "too many requests at once: try again")
        self._requests += 1
        try:
            return await handler(request)
        except Refusal as refusal:
            complaints.warning("refused %s %s of %s: %s", request.method, request.path, _peer(request), _line(refusal))
            return _refused(refusal)
        except Unreachable as error:
            log.error("%s %s of %s failed: %s", request.method, request.path, _peer(request), error)
            return _failed(503, "the CA cannot sign now: its log says why")
        except web.HTTPException as error:
            return _failed(error.status, error.reason.lower())
        except (ConnectionError, TimeoutError):  # the client has gone, and an answer to no one ends it quietly
            return _failed(408, "the request did not arrive whole")
        except Exception:
            log.exception("%s %s of %s failed", request.method, request.path, _peer(request))
            return _failed(500, "the CA failed: its log says why")
        finally:
            self._requests -= 1


def _refused(refusal: Refusal) -> web.Response:
    match refusal:
        case NotAuthenticated():
            return _failed(401, str(refusal), {"WWW-Authenticate": "Bearer"})
        case Forbidden():
            return _failed(403, str(refusal))
        case _:
            return _failed(400, str(refusal))


def _failed(status: int, reason: str, headers: dict[str, str] | None = None) -> web.Response:
    return _answer(Error(reason), status, headers)


def _answer(body: msgspec.Struct, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, headers=headers, content_type="application/json")


async def _name_server(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "meshd-ca"  # rather than the versions of what it is built with


def _peer(request: web.Request) -> str:
    return request.remote or "unknown"


def _line(refusal: Refusal) -> str:
    """For the log: one line of bounded length, whatever the peer put into its names."""
    return " ".join(f"{refusal} {refusal.detail}".split())[:MAX_LOGGED]
