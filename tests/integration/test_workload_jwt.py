"""Tokens by the Workload API, as programs meet it that know SPIFFE: its own client, and PyJWT as the one who checks."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import jwt as pyjwt
import pytest

from meshd.agent.agent import Agent
from meshd.agent.core import Core
from meshd.agent.trust import Trust
from meshd.agent.workload import workload_pb2 as messages
from meshd.agent.workload.jwts import ASKED_BURST, Jwts
from meshd.ca.registrar import Registrar
from meshd.ca.wire import Denial
from tests.integration.test_agent_process import Host
from tests.integration.test_workload_api import directory, root, serving, workload
from tests.support import aio
from tests.support.cgroups import cgroups, inside
from tests.support.waiting import eventually

__all__ = ["directory"]

CLIENT = """
import json, os, sys
from spiffe import SpiffeId, WorkloadApiClient
socket, uid, what, *rest = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
if uid != os.geteuid():
    os.setgroups([])
    os.setuid(uid)

def said(bundles):
    (bundle,) = bundles.bundles
    print(json.dumps({'domain': bundle.trust_domain.name, 'kids': sorted(bundle.jwt_authorities)}), flush=True)

with WorkloadApiClient('unix://' + socket, default_timeout=60) as client:
    try:
        if what == 'fetch':
            found = client.fetch_jwt_svid(set(rest))
            print(json.dumps({'id': str(found.spiffe_id), 'audience': sorted(found.audience), 'token': found.token}))
        elif what == 'validate':
            found = client.validate_jwt_svid(*rest)
            print(json.dumps({'id': str(found.spiffe_id)}))
        elif what == 'bundles':
            said(client.fetch_jwt_bundles())
        else:
            def failed(error):
                print(json.dumps({'error': str(error)}), flush=True)
            following = client.stream_jwt_bundles(said, failed, retry_connect=False)
            sys.stdin.read()
            following.cancel()
    except Exception as error:
        print(json.dumps({'error': str(error)}))
"""

MINE = f'[{{user: "{os.geteuid()}"}}]'
WEB = "spiffe://mesh.local/ns/default/sa/web"


def command(path: Path, *what: str, uid: int | None = None) -> list[str]:
    return [sys.executable, "-c", CLIENT, str(path), str(os.geteuid() if uid is None else uid), *what]


async def client(path: Path, *what: str, uid: int | None = None) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(await aio.output(*command(path, *what, uid=uid)))
    return said


@asynccontextmanager
async def knowing(
    directory: Path, *documents: str, jwts: Callable[[Core], Jwts] = Jwts
) -> AsyncIterator[tuple[Agent, Path]]:
    """An agent that has heard of its CA's keys."""
    async with serving(directory, *documents, jwts=jwts) as (agent, path):
        await eventually(lambda: agent.core.signer.trust.jwt_keys, "the CA's keys are known")
        yield agent, path


async def call(path: Path, method: str, request: bytes) -> bytes:
    """The one answer to a call that is made as gRPC's own library makes it; grpc.RpcError."""

    def called() -> bytes:
        with grpc.insecure_channel(f"unix://{path}") as channel:
            metadata = (("workload.spiffe.io", "true"),)
            answer: bytes = channel.unary_unary(f"/SpiffeWorkloadAPI/{method}")(request, metadata=metadata, timeout=60)
            return answer

    return await asyncio.to_thread(called)


def test_a_process_gets_a_token_and_another_finds_it_good(directory: Path) -> None:
    async def main() -> None:
        async with knowing(directory, workload("web", MINE)) as (agent, path):
            svid = await client(path, "fetch", "reports", "ledger")
            assert (svid["id"], svid["audience"]) == (WEB, ["ledger", "reports"])
            again, bundle = await asyncio.gather(client(path, "fetch", "ledger", "reports"), client(path, "bundles"))
            assert again["token"] == svid["token"]
            assert bundle["domain"] == "mesh.local"
            assert await client(path, "validate", svid["token"], "ledger") == {"id": WEB}
            refused = await client(path, "validate", svid["token"], "api")
            assert "INVALID_ARGUMENT" in refused["error"]
            assert "the token is not for 'api'" in refused["error"]
            # by the key set alone, as a program does that has it from FetchJWTBundles
            request = messages.JWTBundlesRequest().SerializeToString()
            with grpc.insecure_channel(f"unix://{path}") as channel:
                stream = channel.unary_stream("/SpiffeWorkloadAPI/FetchJWTBundles")(
                    request, metadata=(("workload.spiffe.io", "true"),), timeout=60
                )
                raw = await asyncio.to_thread(next, stream)
                stream.cancel()
            key_set = json.loads(messages.JWTBundlesResponse.FromString(raw).bundles["spiffe://mesh.local"])
            assert [each["use"] for each in key_set["keys"]] == ["jwt-svid"]
            kid = pyjwt.get_unverified_header(svid["token"])["kid"]
            key = pyjwt.PyJWKSet.from_dict(key_set)[kid]
            claims = pyjwt.decode(svid["token"], key, audience="reports", leeway=30)
            assert claims["sub"] == WEB
            assert claims["exp"] - claims["iat"] == 300
            assert agent.core.signer.signed.tokens == 1

    aio.run(main())


def test_what_is_validated_says_its_claims(directory: Path) -> None:
    async def main() -> None:
        async with knowing(directory, workload("web", MINE)) as (_, path):
            asked = messages.JWTSVIDRequest(audience=["reports"], spiffe_id=WEB)
            raw = await call(path, "FetchJWTSVID", asked.SerializeToString())
            (svid,) = messages.JWTSVIDResponse.FromString(raw).svids
            validate = messages.ValidateJWTSVIDRequest(audience="reports", svid=svid.svid)
            answer = messages.ValidateJWTSVIDResponse.FromString(
                await call(path, "ValidateJWTSVID", validate.SerializeToString())
            )
        assert svid.spiffe_id == answer.spiffe_id == WEB
        assert list(answer.claims["aud"]) == ["reports"]
        assert abs(answer.claims["exp"] - time.time() - 300) < 120

    aio.run(main())


@pytest.mark.parametrize(
    ("method", "request_", "code", "message"),
    [
        ("FetchJWTSVID", messages.JWTSVIDRequest(), "INVALID_ARGUMENT", "1 to 16 audiences, not 0"),
        (
            "FetchJWTSVID",
            messages.JWTSVIDRequest(audience=[str(number) for number in range(17)]),
            "INVALID_ARGUMENT",
            "1 to 16 audiences, not 17",
        ),
        ("FetchJWTSVID", messages.JWTSVIDRequest(audience=["a\nb"]), "INVALID_ARGUMENT", "is no audience"),
        ("FetchJWTSVID", messages.JWTSVIDRequest(audience=["x" * 513]), "INVALID_ARGUMENT", "512 bytes at most"),
        (
            "FetchJWTSVID",
            messages.JWTSVIDRequest(audience=["a"], spiffe_id="spiffe://mesh.local/ns/default/sa/db"),
            "PERMISSION_DENIED",
            f"one identity, {WEB}, and no other",
        ),
        ("FetchJWTSVID", b"\xff", "INVALID_ARGUMENT", "not the message"),
        ("ValidateJWTSVID", messages.ValidateJWTSVIDRequest(audience="a"), "INVALID_ARGUMENT", "that is no token"),
        (
            "ValidateJWTSVID",
            messages.ValidateJWTSVIDRequest(audience="a", svid="eyJhbGciOiJub25lIn0.e30."),
            "INVALID_ARGUMENT",
            "alg is not ES256",
        ),
        (
            "ValidateJWTSVID",
            messages.ValidateJWTSVIDRequest(audience="a", svid="x" * 60000),
            "INVALID_ARGUMENT",
            "longer than",
        ),
        ("ValidateJWTSVID", b"\xff", "INVALID_ARGUMENT", "not the message"),
        ("ValidateJWTSVID", bytes(70000), "RESOURCE_EXHAUSTED", "at most"),
        ("FetchJWTBundles", b"\xff", "INVALID_ARGUMENT", "not the message"),
    ],
)
def test_calls_that_are_refused(directory: Path, method: str, request_: Any, code: str, message: str) -> None:
    data = request_ if isinstance(request_, bytes) else request_.SerializeToString()

    async def main() -> None:
        async with knowing(directory, workload("web", MINE)) as (_, path):
            with pytest.raises(grpc.RpcError) as refused:
                await call(path, method, data)
        assert refused.value.code().name == code
        assert message in refused.value.details()

    aio.run(main())


def test_one_that_asks_too_often_is_told_so_and_its_connection_goes_on(directory: Path) -> None:
    def ask(path: Path) -> tuple[str, str]:
        with grpc.insecure_channel(f"unix://{path}") as channel:
            method = channel.unary_unary("/SpiffeWorkloadAPI/FetchJWTSVID")
            for number in range(ASKED_BURST + 1):
                asked = messages.JWTSVIDRequest(audience=[str(number)]).SerializeToString()
                try:
                    method(asked, metadata=(("workload.spiffe.io", "true"),), timeout=60)
                except grpc.RpcError as error:
                    asked = messages.JWTSVIDRequest(audience=["0"]).SerializeToString()
                    method(asked, metadata=(("workload.spiffe.io", "true"),), timeout=60)
                    return error.code().name, error.details()
        return "OK", ""

    def timeless(core: Core) -> Jwts:
        """However slow this machine is, no time goes by that would allow more."""
        core.monotonic = lambda: 0.0
        return Jwts(core)

    async def main() -> None:
        async with knowing(directory, workload("web", MINE), jwts=timeless) as (_, path):
            code, message = await asyncio.to_thread(ask, path)
        assert code == "RESOURCE_EXHAUSTED"
        assert "too many requests of default/web" in message

    aio.run(main())


@root
def test_who_is_no_workload_gets_no_token_and_no_answer(directory: Path) -> None:
    async def main() -> None:
        async with knowing(directory, workload("web", "[{user: nobody}]")) as (_, path):
            svid = await client(path, "fetch", "reports", uid=65534)
            refused = await asyncio.gather(
                client(path, "fetch", "reports"),
                client(path, "bundles"),
                client(path, "validate", svid["token"], "reports"),
            )
        for each in refused:
            assert "PERMISSION_DENIED" in each["error"]
            assert "no Workload document selects this process" in each["error"]

    aio.run(main())


def test_what_the_ca_denies_is_not_found_good_and_gets_no_token(directory: Path) -> None:
    async def main() -> None:
        async with knowing(directory, workload("web", MINE)) as (agent, path):
            svid = await client(path, "fetch", "reports")
            with Registrar.at(directory / "ca") as registrar:
                registrar.deny_identity(agent.core.identity(next(iter(agent.core.selectors))), "leaked")
            keys = agent.core.signer.trust.jwt_keys
            agent.core.signer.trust = Trust(1, denied=(Denial("identity", WEB),), jwt_keys=keys)
            bad, none = await asyncio.gather(
                client(path, "validate", svid["token"], "reports"), client(path, "fetch", "reports")
            )
        assert f"the CA denies {WEB}" in bad["error"]
        assert "UNAVAILABLE" in none["error"]
        assert "is denied: leaked" in none["error"]

    aio.run(main())


def following(path: Path) -> AbstractAsyncContextManager[Callable[[], Awaitable[dict[str, Any]]]]:
    """A client that follows the keys; what is given waits for the next thing that it says."""
    return aio.speaking(*command(path, "follow"))


@root
def test_a_rotation_is_followed_on_a_host_and_no_token_is_ever_found_bad(tmp_path: Path) -> None:
    """The CA's daemon, the host's agent, and programs of two units: they hear of the next key before it signs, and have
    the last for as long as its tokens are good."""
    host = Host(tmp_path)
    (host.documents / "units.yaml").write_text(
        "".join(workload(name, f"[{{unit: {name}.service}}]") for name in ("web", "api"))
    )
    path = tmp_path / "workload.sock"

    async def ask(group: Path, *what: str) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(await aio.output(*inside(group, *command(path, *what))))
        return said

    async def main(web: Path, api: Path) -> None:
        async def checked(audience: str) -> str:
            """The key of a token that one program got and the other found good."""
            svid = await ask(web, "fetch", audience)
            good = await ask(api, "validate", svid["token"], audience)
            assert good == {"id": "spiffe://prod.example/ns/default/sa/web"}, (svid, good)
            return str(pyjwt.get_unverified_header(svid["token"])["kid"])

        async def kids() -> list[str]:
            return list((await ask(api, "bundles")).get("kids", []))

        async def reached(wanted: Callable[[list[str]], bool]) -> list[str]:
            async with asyncio.timeout(60):
                while not wanted(known := await kids()):
                    pass
                return known

        def rotate(settle_s: float) -> None:
            with Registrar.at(host.ca) as registrar:
                registrar.rotate_jwt(settle_s)

        known = await reached(lambda known: len(known) == 1)
        first, early = await checked("0"), await ask(web, "fetch", "early")
        assert known == [first]
        rotate(3600.0)
        await reached(lambda known: len(known) == 2)
        assert await checked("1") == first
        rotate(0.1)  # every agent of this mesh has heard of it: it need not be published for an hour
        seen = [first]
        async with asyncio.timeout(60):
            while seen[-1] == first:
                seen.append(await checked(f"then {len(seen)}"))
        assert sorted(await kids()) == sorted({first, seen[-1]})
        late = await ask(api, "validate", early["token"], "early")
        assert late == {"id": "spiffe://prod.example/ns/default/sa/web"}

    with cgroups("web.service", "api.service") as (web, api), host.ca_serves(), host.agent():
        aio.run(main(web, api), 150.0)
    assert '"action":"jwt","decision":"issued","actor":"shared token"' in (host.ca / "audit.log").read_text()


def test_who_follows_the_keys_is_told_of_the_next(directory: Path) -> None:
    async def main() -> None:
        async with knowing(directory, workload("web", MINE)) as (agent, path), following(path) as said:
            first = await said()
            trust = agent.core.signer.trust
            (key,) = trust.jwt_keys
            more = Trust(trust.sequence, jwt_keys=(key, type(key)("next", key.x, key.y, key.not_after)))
            agent.core.signer.trust = more
            agent.core.changed()
            second = await said()
            agent.core.signer.trust = Trust(trust.sequence, jwt_keys=more.jwt_keys[1:])
            agent.core.changed()
            third = await said()
        assert (first["kids"], third["kids"]) == ([key.kid], ["next"])
        assert second["kids"] == sorted([key.kid, "next"])

    aio.run(main())
