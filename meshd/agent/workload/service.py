"""What the Workload API answers: a process's own identity, as a certificate or as a token, and what it may check others
with, or whether a token is good.

Who asks is found out anew for each answer, by the kernel's word on the process that connected: a stream ends when its
process has, or when the documents no longer select it. Nothing in a request says who it is from.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import lru_cache
from typing import Final

from cryptography import x509
from google.protobuf.message import DecodeError, Message
from google.protobuf.struct_pb2 import Struct

from meshd.agent.certificates import NotSigned
from meshd.agent.complaints import complaints
from meshd.agent.core import Core
from meshd.agent.workload import workload_pb2 as messages
from meshd.agent.workload.attest import NotAttested, attest
from meshd.agent.workload.grpc import Code, Method, Refused
from meshd.agent.workload.jwts import Jwts
from meshd.agent.workload.process import LocalProcess
from meshd.agent.workload.svids import Svid, Svids, ders
from meshd.api.logs import about
from meshd.api.names import WorkloadName
from meshd.ca.jwt import BadToken
from meshd.ca.rates import TooOften

LOOK_AGAIN_S: Final = 60.0
"""A process whose bundle alone is followed is looked at this often, to see that it still is who it was."""


class WorkloadApi:
    """The methods, by path."""

    def __init__(self, core: Core, svids: Svids, jwts: Jwts) -> None:
        self._core, self._svids, self._jwts = core, svids, jwts
        self.methods: dict[str, Method[LocalProcess]] = {
            "/SpiffeWorkloadAPI/FetchX509SVID": self._fetch_x509_svid,
            "/SpiffeWorkloadAPI/FetchX509Bundles": self._fetch_x509_bundles,
            "/SpiffeWorkloadAPI/FetchJWTSVID": self._fetch_jwt_svid,
            "/SpiffeWorkloadAPI/FetchJWTBundles": self._fetch_jwt_bundles,
            "/SpiffeWorkloadAPI/ValidateJWTSVID": self._validate_jwt_svid,
        }

    async def _fetch_x509_svid(self, process: LocalProcess, request: bytes) -> AsyncGenerator[bytes, None]:
        _parsed(messages.X509SVIDRequest(), request)
        sent = b""
        with self._changes() as changes:
            while True:
                workload = await self._attest(process)
                svid = await self._svid(workload)
                answer = _svid_response(svid, self._bundle()).SerializeToString(deterministic=True)
                if answer != sent:
                    who, known = process.peer, about(workload=workload, peer=process.peer)
                    complaints.info(
                        "workload API: %s has the SVID %s of %s", who, svid.serial, svid.identity, extra=known
                    )
                    yield answer
                    sent = answer
                await changes.wait(self._svids.due_in_s(workload))

    async def _fetch_x509_bundles(self, process: LocalProcess, request: bytes) -> AsyncGenerator[bytes, None]:
        _parsed(messages.X509BundlesRequest(), request)
        async with aclosing(self._following(process, self._x509_bundles)) as answers:
            async for answer in answers:
                yield answer

    async def _fetch_jwt_bundles(self, process: LocalProcess, request: bytes) -> AsyncGenerator[bytes, None]:
        _parsed(messages.JWTBundlesRequest(), request)
        async with aclosing(self._following(process, self._jwt_bundles)) as answers:
            async for answer in answers:
                yield answer

    async def _fetch_jwt_svid(self, process: LocalProcess, request: bytes) -> AsyncGenerator[bytes, None]:
        asked = messages.JWTSVIDRequest()
        _parsed(asked, request)
        workload = await self._attest(process)
        identity = str(self._core.identity(workload))
        if asked.spiffe_id not in ("", identity):
            who, known = process.peer, about(workload=workload, peer=process.peer)
            complaints.warning("workload API: %s asks for a token of %.200a", who, asked.spiffe_id, extra=known)
            raise Refused(Code.PERMISSION_DENIED, f"this process has one identity, {identity}, and no other")
        token = await self._token(workload, asked.audience)
        svid = messages.JWTSVID(spiffe_id=identity, svid=token)
        yield messages.JWTSVIDResponse(svids=[svid]).SerializeToString(deterministic=True)

    async def _validate_jwt_svid(self, process: LocalProcess, request: bytes) -> AsyncGenerator[bytes, None]:
        asked = messages.ValidateJWTSVIDRequest()
        _parsed(asked, request)
        await self._attest(process)
        try:
            identity, claims = self._jwts.verify(asked.svid, asked.audience)
        except BadToken as bad:
            raise Refused(Code.INVALID_ARGUMENT, str(bad)) from bad
        said = Struct()
        said.update(claims)
        answer = messages.ValidateJWTSVIDResponse(spiffe_id=str(identity), claims=said)
        yield answer.SerializeToString(deterministic=True)

    async def _following(self, process: LocalProcess, made: Callable[[], Message]) -> AsyncGenerator[bytes, None]:
        """What `made` gives, and again whenever that is another, for as long as the process is a workload."""
        sent = b""
        with self._changes() as changes:
            while True:
                await self._attest(process)
                answer = made().SerializeToString(deterministic=True)
                if answer != sent:
                    yield answer
                    sent = answer
                await changes.wait(LOOK_AGAIN_S)

    def _x509_bundles(self) -> Message:
        return messages.X509BundlesResponse(bundles={self._trust_domain: self._bundle()})

    def _jwt_bundles(self) -> Message:
        try:
            return messages.JWTBundlesResponse(bundles={self._trust_domain: self._jwts.key_set()})
        except NotSigned as error:
            raise Refused(Code.UNAVAILABLE, str(error)) from error

    @property
    def _trust_domain(self) -> str:
        return f"spiffe://{self._core.trust_domain}"

    def _bundle(self) -> bytes:
        return _bundle_ders(self._core.signer.trust_bundle_pem)

    async def _attest(self, process: LocalProcess) -> WorkloadName:
        try:
            return attest(await asyncio.to_thread(process.facts), self._core.selectors)
        except NotAttested as refused:
            complaints.warning("workload API: no identity: %s", refused.detail, extra=about(peer=process.peer))
            raise Refused(Code.PERMISSION_DENIED, str(refused)) from refused

    async def _svid(self, workload: WorkloadName) -> Svid:
        try:
            return await self._svids.get(workload)
        except NotSigned as error:
            complaints.warning("workload API: no SVID for %s: %s", workload, error, extra=about(workload=workload))
            raise Refused(Code.UNAVAILABLE if error.retry else Code.PERMISSION_DENIED, str(error)) from error

    async def _token(self, workload: WorkloadName, audiences: Sequence[str]) -> str:
        try:
            return await self._jwts.get(workload, audiences)
        except ValueError as error:
            raise Refused(Code.INVALID_ARGUMENT, str(error)) from error
        except TooOften as error:
            complaints.warning("workload API: no token for %s: %s", workload, error, extra=about(workload=workload))
            raise Refused(Code.RESOURCE_EXHAUSTED, str(error)) from error
        except NotSigned as error:
            complaints.warning("workload API: no token for %s: %s", workload, error, extra=about(workload=workload))
            raise Refused(Code.UNAVAILABLE if error.retry else Code.PERMISSION_DENIED, str(error)) from error

    @contextmanager
    def _changes(self) -> Iterator["_Changes"]:
        changes = _Changes(self._core)
        leave = self._core.follow(changes.look)
        try:
            yield changes
        finally:
            leave()


class _Changes:
    """What of the agent's knowledge answers are made of, to be woken when that is another; the rest of what the agent
    hears, as proxies report, is not worth a look at the process."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._changed = asyncio.Event()
        self._seen = self._now()

    def _now(self) -> tuple[object, ...]:
        return self._core.selectors, self._core.signer.trust_bundle_pem, self._core.signer.trust

    def look(self) -> None:
        now = self._now()
        if any(new is not old for new, old in zip(now, self._seen, strict=True)):
            self._seen = now
            self._changed.set()

    async def wait(self, most_s: float) -> None:
        try:
            async with asyncio.timeout(most_s):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()


def _svid_response(svid: Svid, bundle: bytes) -> messages.X509SVIDResponse:
    found = messages.X509SVID(spiffe_id=str(svid.identity), x509_svid=svid.chain, x509_svid_key=svid.key, bundle=bundle)
    return messages.X509SVIDResponse(svids=[found])


@lru_cache(maxsize=2)
def _bundle_ders(bundle_pem: str) -> bytes:
    return ders(x509.load_pem_x509_certificates(bundle_pem.encode()))


def _parsed(message: Message, request: bytes) -> None:
    """Fill message from a request's bytes."""
    try:
        message.ParseFromString(request)
    except DecodeError as error:
        raise Refused(Code.INVALID_ARGUMENT, "the request is not the message that this method takes") from error
