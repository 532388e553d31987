"""The CA's HTTPS API (`meshd.ca.wire`) as a web application over an authority. Its server is `meshd.ca.server`.

    401  no proof of who asks, or a bad one       413  a body that is too large
    403  not for this requester, or not of this   429  too many requests at once, of all
         trust domain; a token that is used up    500  a bug: the log has it
    400  a bad CSR, a body that is no request     503  the CA cannot sign now
    429  one who asks too often: `Retry-After` says when to come again

Of a failure inside, the client learns that there was one, and the log what it was. Every refusal is in the audit log
before it is answered, and in the log with the peer's address and the reason, those of strangers there within bounds;
tokens never are. What may block (the store) is called from threads, and certificates are signed in those of
`meshd.ca.desk`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from aiohttp import web
from cryptography import x509
from msgspec.structs import replace

from meshd.api.complaints import BURST, Dam
from meshd.api.control import Certificate
from meshd.api.names import Identity, InvalidName, check_label
from meshd.ca import certificates
from meshd.ca.attest import Attestor, Attestors, ByJoinToken, ByNodeCertificate, BySharedToken, Evidence
from meshd.ca.authority import Authority
from meshd.ca.counts import Counts
from meshd.ca.desk import Desk
from meshd.ca.following import Following
from meshd.ca.material import when
from meshd.ca.rates import Rate, Rates, TooOften
from meshd.ca.records import Held, Node
from meshd.ca.requester import Requester
from meshd.ca.settings import LimitSettings
from meshd.ca.source import Forbidden, NotAuthenticated, Refusal, TooLarge, Unreachable
from meshd.ca.wire import MAX_BODY_BYTES, Bundle, Error, Health, Joined, JoinRequest, JwtRequest, SignRequest

log = logging.getLogger(__name__)

complaints = logging.getLogger(f"{__name__}.complaints")
"""What anyone can cause who can connect."""
complaints.addFilter(Dam())

MAX_REQUESTS: Final = 256
"""At once: bodies on their way, and what waits for the store."""

MAX_LOGGED: Final = 400

COMPLAIN_EVERY_S: Final = 60.0
MAX_COMPLAINTS: Final = 100
"""Reasons that are remembered; there are a handful."""

AGAIN_S: Final = "5"
"""When to come again to a CA that cannot sign now. Who knows another asks that at once."""

AUDITED_PER_SECOND: Final = 0.5
"""Of those who ask too often."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
T = TypeVar("T", bound=msgspec.Struct)


@dataclass(slots=True)
class _Call:
    """A request for a certificate or a token, and what has become known of it: for the audit log, if it is refused."""

    request: web.Request
    requester: Requester | None = None
    identity: str = ""

    @property
    def address(self) -> str:
        return self.request.remote or "unknown"


class Api:
    """Answers for `authority` to those whom one of `attestors` knows, which come before those that there always are.
    `application` is what a server runs."""

    def __init__(
        self,
        authority: Authority,
        clock: Callable[[], float] = time.time,
        max_requests: int = MAX_REQUESTS,
        attestors: Sequence[Attestor] = (),
        limits: LimitSettings = LimitSettings(),  # noqa: B008 - it is frozen
    ) -> None:
        self._rates = Rates(limits, time.monotonic)
        self._too_often = Rate(AUDITED_PER_SECOND, BURST, time.monotonic)
        self._authority, self._clock, self._max = authority, clock, max_requests
        store = authority.store
        self._attestors = Attestors(
            (
                ByNodeCertificate(store),
                ByJoinToken(store, authority.root_hashes),
                *attestors,
                BySharedToken(store),
            )
        )
        self._mesh = Attestors((ByNodeCertificate(store), BySharedToken(store)))
        """Those who may wait for news; of these the CA knows itself whether it knows them."""
        self.following = Following(store, limits.waiting)
        self._heard: dict[str, tuple[int, float]] = {}  # of those with a node's certificate: as many as there are nodes
        self._requests = 0
        self._complained: dict[str, float] = {}
        self._desk = Desk(authority, clock)
        self.counts = Counts()
        self.application = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY_BYTES)
        self.application.add_routes(
            [
                web.post("/v1/sign", self._audited(self._sign)),
                web.post("/v1/jwt", self._audited(self._jwt)),
                web.post("/v1/join", self._audited(self._join)),
                web.get("/v1/bundle", self._bundle),
                web.get("/v1/health", self._health),
            ]
        )
        self.application.on_response_prepare.append(_name_server)

    async def close(self) -> None:
        """Once the server is closed, and asks no more."""
        await self._desk.close()

    def _complain(self, request: web.Request, error: Unreachable) -> None:
        """Of what goes wrong with all requests alike, one line is enough for a while."""
        now, reason = time.monotonic(), str(error)
        if now - self._complained.get(reason, -COMPLAIN_EVERY_S) < COMPLAIN_EVERY_S:
            return
        if len(self._complained) >= MAX_COMPLAINTS:
            self._complained.clear()
        self._complained[reason] = now
        log.error("%s %s of %s failed: %s", request.method, request.path, request.remote, reason)

    async def _sign(self, call: _Call) -> web.Response:
        requester = await self._attest(call)
        asked = await _body(call.request, SignRequest, what := "a request to sign")
        identity = _identity(asked.identity, what)
        return _answer(await self._issue(call, requester, asked.csr_pem, identity))

    async def _jwt(self, call: _Call) -> web.Response:
        requester = await self._attest(call)
        asked = await _body(call.request, JwtRequest, what := "a request for a token")
        identity = _identity(asked.identity, what)
        call.identity = str(identity)
        issued = await asyncio.to_thread(
            self._authority.jwts.issue, identity, asked.audiences, asked.life_s, self._clock(), requester
        )
        self.counts.tokens += 1
        return _answer(issued)

    async def _join(self, call: _Call) -> web.Response:
        requester = await self._attest(call)
        if requester.token is None:
            raise Forbidden(f"{requester.name} is no join token, and a node joins with one: `meshd ca token create`")
        asked = await _body(call.request, JoinRequest, "a request to join")
        authority = self._authority
        try:
            identity = Identity.of_host(authority.trust_domain, check_label(asked.node, "node"))
        except InvalidName as error:
            raise Refusal(f"the body is not a request to join: {error}") from error
        before = await asyncio.to_thread(authority.store.node, asked.node)
        signed = await self._issue(call, requester, asked.csr_pem, identity)
        if before is not None and before.not_after > self._clock():
            _compare(before, signed, call.address)
        return _answer(
            Joined(authority.trust_domain, authority.bundle_pem, signed.chain_pem, signed.not_before, signed.not_after)
        )

    async def _bundle(self, request: web.Request) -> web.Response:
        after, wait_s = _number(request, "after"), _number(request, "wait")
        requester = await self._member(request) if after is not None and wait_s else None
        if requester is not None and after is not None and wait_s:
            await self._hear(requester.node, after, float(_number(request, "oldest") or 0))
            self._requests -= 1  # who waits holds a connection, and no place of those who are served
            try:
                again_s = await self.following.newer(after, wait_s)
            finally:
                self._requests += 1
            if again_s and self.following.is_unchanged(after):
                return _answer(Bundle(self._authority.trust_domain, "", after, again_s=again_s))
        if requester is not None:  # who may know of another CA does not hear old news from this one
            return _answer(await asyncio.to_thread(self._authority.bundle))
        return _answer(await asyncio.to_thread(self._authority.last_bundle))

    async def _member(self, request: web.Request) -> Requester | None:
        """Who asks; None for strangers. Waiting is for the mesh's own: anyone else is answered at once."""
        try:
            return await self._mesh.attest(_evidence(request))
        except Refusal:
            return None

    async def _hear(self, node: str, sequence: int, oldest: float) -> None:
        """What a node says that it has, kept when it is another than before."""
        if node and self._heard.get(node) != (sequence, oldest):
            await asyncio.to_thread(self._authority.store.hear, Held(node, sequence, oldest, self._clock()))
            self._heard[node] = (sequence, oldest)

    async def _health(self, request: web.Request) -> web.Response:
        now = self._clock()
        self._authority.check(now)
        requester = await self._member(request) if _number(request, "node") else None
        health = Health(self._authority.trust_domain, now)
        if requester is not None and requester.node:
            known = await asyncio.to_thread(self._authority.store.node, requester.node)
            shown = x509.load_der_x509_certificate(_certificate(request)).public_key()
            if known is not None and known.key_hash != certificates.key_hash(shown).hex():
                health = replace(health, other_since=max(known.joined_at, known.renewed_at))
        return _answer(health)

    async def _attest(self, call: _Call) -> Requester:
        """Who asks; before the body is read (RFC 6750, section 2.1, for the bearer's token)."""
        evidence = _evidence(call.request)
        if evidence.credential or not evidence.certificate:
            self._rates.hear(call.address)
        try:
            call.requester = await self._attestors.attest(evidence)
        except NotAuthenticated:
            self._rates.failed(call.address)
            raise
        self._rates.admit(call.requester, call.request.path)
        return call.requester

    async def _issue(self, call: _Call, requester: Requester, csr_pem: str, identity: Identity) -> Certificate:
        call.identity = str(identity)
        issued = await self._desk.issue(csr_pem, identity, requester)
        self.counts.issued["sign" if not identity.host else "join" if requester.token is not None else "renew"] += 1
        return issued

    def _audited(self, handle: Callable[[_Call], Awaitable[web.Response]]) -> Handler:
        """What handles a request for a certificate or a token. A refusal is answered once the audit log has it."""

        async def handler(request: web.Request) -> web.Response:
            call = _Call(request)
            try:
                return await handle(call)
            except Refusal as refusal:
                await self._tell(call, refusal)
                return _refused(refusal)

        return handler

    async def _tell(self, call: _Call, refusal: Refusal) -> None:
        """Unreachable when the audit log cannot be told. Of those who ask too often it hears now and then: it is not
        theirs to fill."""
        if isinstance(refusal, TooOften) and self._too_often.wait_s(""):
            return
        if isinstance(refusal, TooOften):
            self._too_often.take("")
        request, requester = call.request, call.requester
        teller, who = (complaints, call.address) if requester is None else (log, str(requester))
        what = call.identity or f"{request.method} {request.path}"
        teller.warning("refused %s to %s: %s", what, who, _line(refusal))
        action = request.path.rpartition("/")[2]
        name = "unknown" if requester is None else requester.name
        await asyncio.to_thread(
            self._authority.refused, action, name, call.address, call.identity, str(refusal), self._clock()
        )

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        begun = time.monotonic()
        response = await self._guarded(request, handler)
        waits = "wait" in request.query
        self.counts.answered(request.path, response.status, time.monotonic() - begun, waits=waits)
        return response

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Bounds what is under way, and answers everything that goes wrong in the API's own form."""
        if self._requests >= self._max:
            return _failed(429, "too many requests at once: try again", {"Retry-After": "1"})
        self._requests += 1
        try:
            return await handler(request)
        except Refusal as refusal:
            return _refused(refusal)
        except Unreachable as error:
            self._complain(request, error)
            what = "its store is away" if self._authority.store.trouble else "it is not ready"
            return _failed(503, f"the CA cannot sign now: {what}, and its log says why", {"Retry-After": AGAIN_S})
        except web.HTTPException as error:
            return _failed(error.status, error.reason.lower())
        except (ConnectionError, TimeoutError):  # the client has gone, and an answer to no one ends it quietly
            return _failed(408, "the request did not arrive whole")
        except Exception:
            log.exception("%s %s of %s failed", request.method, request.path, request.remote)
            return _failed(500, "the CA failed: its log says why")
        finally:
            self._requests -= 1


async def _body(request: web.Request, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except web.HTTPRequestEntityTooLarge as error:
        raise TooLarge(f"the body is larger than {MAX_BODY_BYTES >> 10} KiB, and {what} is not") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(f"the body is not {what}: {error}") from error


def _identity(text: str, what: str) -> Identity:
    try:
        return Identity.parse(text)
    except InvalidName as error:
        raise Refusal(f"the body is not {what}: {error}") from error


def _compare(before: Node, signed: Certificate, address: str) -> None:
    """Two hosts may have been given one name, and each would be believed to be the other."""
    now = x509.load_pem_x509_certificate(signed.chain_pem.encode())
    if certificates.key_hash(now.public_key()).hex() != before.key_hash:
        log.warning(
            "the node %s joined from %s with another key, and the certificate of the one before is good until %s: if "
            "that is another host, join one of them under another name; `meshd ca issued list --node %s` has both",
            before.name, address, when(before.not_after), before.name,
        )  # fmt: skip


def _evidence(request: web.Request) -> Evidence:
    scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
    bearer = credential.strip() if scheme.lower() == "bearer" else ""
    return Evidence(bearer, _certificate(request), request.remote or "unknown")


def _number(request: web.Request, name: str) -> int | None:
    """A whole number in the query; None when it is not given. Refusal when it is none."""
    text = request.query.get(name)
    if text is not None and not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise Refusal(f"{name} is not a whole number")
    return None if text is None else int(text)


def _certificate(request: web.Request) -> bytes:
    """The peer's, which the server's TLS found good (DER); empty when it showed none."""
    tls = request.get_extra_info("ssl_object")
    return (tls.getpeercert(binary_form=True) if tls is not None else None) or b""


def _refused(refusal: Refusal) -> web.Response:
    match refusal:
        case TooOften():
            return _failed(429, str(refusal), {"Retry-After": str(refusal.after_s)})
        case NotAuthenticated():
            return _failed(401, str(refusal), {"WWW-Authenticate": "Bearer"})
        case Forbidden():
            return _failed(403, str(refusal))
        case TooLarge():
            return _failed(413, str(refusal))
        case _:
            return _failed(400, str(refusal))


def _failed(status: int, reason: str, headers: dict[str, str] | None = None) -> web.Response:
    return _answer(Error(reason), status, headers)


def _answer(body: msgspec.Struct, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, headers=headers, content_type="application/json")


async def _name_server(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "meshd-ca"  # rather than the versions of what it is built with


def _line(refusal: Refusal) -> str:
    """For the log: one line of bounded length, whatever the peer put into its names."""
    return " ".join(f"{refusal} {refusal.detail}".split())[:MAX_LOGGED]
