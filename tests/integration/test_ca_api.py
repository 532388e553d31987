"""The CA's HTTPS API and its client, each against what it must withstand."""

import asyncio
import json
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from meshd.api.complaints import BURST
from meshd.api.names import Address
from meshd.api.problems import Misuse, Problem
from meshd.ca import certificates
from meshd.ca.api import MAX_REQUESTS
from meshd.ca.authority import Authority
from meshd.ca.certificates import LEAF_LIFE_S
from meshd.ca.client import CaClient
from meshd.ca.server import SHUTDOWN_S, CaServer
from meshd.ca.settings import CaDaemonSettings, LimitSettings
from meshd.ca.source import Refusal, Unreachable
from meshd.ca.wire import MAX_ANSWER_BYTES, MAX_BODY_BYTES
from tests.support import aio
from tests.support.authorities import TOKEN, TRUST_DOMAIN, WEB, client, recorded, served
from tests.support.csr import csr
from tests.support.waiting import eventually

AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
GOOD = {"csr_pem": csr(), "identity": str(WEB)}
TOKEN_FOR = {"identity": str(WEB), "audiences": ["reports"]}


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    """One that was made two days ago."""
    with closing(Authority.create(tmp_path / "ca", TRUST_DOMAIN, time.time() - 2 * 86400, TOKEN)) as made:
        yield made


def trusting(bundle_pem: str) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=bundle_pem)


@asynccontextmanager
async def session(server: CaServer, authority: Authority) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=trusting(authority.bundle_pem), limit=0)
    async with aiohttp.ClientSession(f"https://{server.address}", connector=connector) as made:
        yield made


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "error"),
    [
        ("POST", "/v1/sign", {}, GOOD, 401, "there is no token"),
        ("POST", "/v1/sign", {"Authorization": TOKEN}, GOOD, 401, "there is no token"),
        ("POST", "/v1/sign", {"Authorization": "Basic eDp5"}, GOOD, 401, "there is no token"),
        ("POST", "/v1/sign", {"Authorization": "Bearer "}, GOOD, 401, "there is no token"),
        ("POST", "/v1/sign", {"Authorization": f"Bearer {TOKEN}x"}, GOOD, 401, "not known"),
        ("POST", "/v1/sign", {"Authorization": f"Bearer {TOKEN}"[:-1]}, GOOD, 401, "not known"),
        ("POST", "/v1/sign", {}, "x" * (MAX_BODY_BYTES + 1), 401, "there is no token"),
        ("POST", "/v1/sign", AUTHORIZED, "x" * (MAX_BODY_BYTES + 1), 413, "larger than 32 KiB"),
        ("POST", "/v1/sign", AUTHORIZED, "", 400, "not a request to sign"),
        ("POST", "/v1/sign", AUTHORIZED, "[]", 400, "not a request to sign"),
        ("POST", "/v1/sign", AUTHORIZED, b"\xff", 400, "not a request to sign"),
        ("POST", "/v1/sign", AUTHORIZED, {**GOOD, "ttl": "1y"}, 400, "unknown field `ttl`"),
        ("POST", "/v1/sign", AUTHORIZED, {"identity": str(WEB)}, 400, "missing required field `csr_pem`"),
        ("POST", "/v1/sign", AUTHORIZED, {**GOOD, "identity": "web"}, 400, "is not spiffe://TRUST-DOMAIN"),
        ("POST", "/v1/sign", AUTHORIZED, {**GOOD, "identity": f"{WEB}\nx"}, 400, "is not a DNS label"),
        ("POST", "/v1/sign", AUTHORIZED, {**GOOD, "csr_pem": "x"}, 400, "not a certificate request"),
        ("POST", "/v1/sign", AUTHORIZED, {**GOOD, "identity": "spiffe://b/ns/a/sa/b"}, 403, "not of this CA's trust"),
        ("POST", "/v1/sign", AUTHORIZED, {**GOOD, "identity": f"spiffe://{TRUST_DOMAIN}/node/a"}, 403, "a host's"),
        ("POST", "/v1/jwt", {}, TOKEN_FOR, 401, "there is no token"),
        ("POST", "/v1/jwt", {"Authorization": f"Bearer {TOKEN}x"}, TOKEN_FOR, 401, "not known"),
        ("POST", "/v1/jwt", AUTHORIZED, "x" * (MAX_BODY_BYTES + 1), 413, "larger than 32 KiB"),
        ("POST", "/v1/jwt", AUTHORIZED, "[]", 400, "not a request for a token"),
        ("POST", "/v1/jwt", AUTHORIZED, {"identity": str(WEB)}, 400, "missing required field `audiences`"),
        ("POST", "/v1/jwt", AUTHORIZED, {**TOKEN_FOR, "audiences": "reports"}, 400, "not a request for a token"),
        ("POST", "/v1/jwt", AUTHORIZED, {**TOKEN_FOR, "claims": {"admin": True}}, 400, "unknown field `claims`"),
        ("POST", "/v1/jwt", AUTHORIZED, {**TOKEN_FOR, "identity": "web"}, 400, "is not spiffe://TRUST-DOMAIN"),
        ("POST", "/v1/jwt", AUTHORIZED, {**TOKEN_FOR, "audiences": []}, 400, "1 to 16 audiences, not 0"),
        ("POST", "/v1/jwt", AUTHORIZED, {**TOKEN_FOR, "audiences": ["a\nb"]}, 400, "is no audience"),
        ("POST", "/v1/jwt", AUTHORIZED, {**TOKEN_FOR, "life_s": 86400}, 400, "10 to 3600 seconds, not 86400"),
        ("POST", "/v1/jwt", AUTHORIZED, {**TOKEN_FOR, "identity": "spiffe://b/ns/a/sa/b"}, 403, "not of this CA's"),
        ("POST", "/v1/jwt", AUTHORIZED, {**TOKEN_FOR, "identity": f"spiffe://{TRUST_DOMAIN}/node/a"}, 403, "a host's"),
        ("GET", "/v1/jwt", AUTHORIZED, "", 405, "method not allowed"),
        ("GET", "/v1/sign", AUTHORIZED, "", 405, "method not allowed"),
        ("GET", "/", AUTHORIZED, "", 404, "not found"),
        ("GET", "/v1/sign/../../root.key", {}, "", 404, "not found"),
    ],
)
def test_what_is_wrong_is_answered_with_its_status_and_a_reason(
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    headers: dict[str, str],
    body: Any,
    status: int,
    error: str,
) -> None:
    async def main() -> None:
        data = json.dumps(body) if isinstance(body, dict) else body
        async with (
            served(authority) as server,
            session(server, authority) as http,
            http.request(method, path, headers=headers, data=data) as response,
        ):
            assert (response.status, response.content_type) == (status, "application/json")
            assert error in (await response.json())["error"]
            assert response.headers["Server"] == "meshd-ca"
            assert ("WWW-Authenticate" in response.headers) == (status == 401)

    aio.run(main())
    assert recorded(tmp_path / "ca") == []
    assert TOKEN not in caplog.text
    audit = (tmp_path / "ca" / "audit.log").read_text()
    assert TOKEN not in audit
    assert ('"decision":"refused"' in audit) == (status in {400, 401, 403, 413})
    assert ("refused" in caplog.text and "127.0.0.1: " in caplog.text) == (status in {400, 401, 403, 413})
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_bundle_and_health_are_for_everybody(authority: Authority) -> None:
    async def main() -> None:
        async with served(authority) as server, session(server, authority) as http:
            async with http.get("/v1/bundle") as response:
                bundle = await response.json()
                (key,) = bundle.pop("jwt_keys")
                assert bundle == {
                    "trust_domain": TRUST_DOMAIN,
                    "bundle_pem": authority.bundle_pem,
                    "sequence": authority.store.sequence(),
                    "again_s": 0.0,
                    "denied": [],
                    "renewal": None,
                }
                (known,) = authority.store.jwt_keys()
                assert key == {"kid": known.kid, "x": known.x, "y": known.y, "not_after": known.not_after}
            async with http.get("/v1/health") as response:
                health = await response.json()
                assert health.pop("now") == pytest.approx(time.time(), abs=60)
                assert health == {"trust_domain": TRUST_DOMAIN}

    aio.run(main())


def test_issuances_are_logged_with_who_asked_and_the_serial(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with served(authority) as server:
            signed = await client(server, authority.bundle_pem).sign(csr(), WEB)
        serial = certificates.serial(x509.load_pem_x509_certificate(signed.chain_pem.encode()))
        assert re.search(f"issued {WEB} to shared token at 127.0.0.1: serial {serial}, until 20", caplog.text)

    with caplog.at_level("INFO"):
        aio.run(main())


def test_requests_that_trickle_in_hold_up_no_more_than_their_own_number(authority: Authority) -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def trickle() -> AsyncIterator[bytes]:
            yield b"{"
            await release.wait()
            yield b"}"

        async def slow(http: aiohttp.ClientSession) -> int:
            async with http.post("/v1/sign", headers=AUTHORIZED, data=trickle()) as response:
                return response.status

        async with served(authority) as server, session(server, authority) as http, asyncio.TaskGroup() as group:
            tasks = [group.create_task(slow(http)) for _ in range(MAX_REQUESTS)]
            source = client(server, authority.bundle_pem)

            async def overloaded() -> bool:
                try:
                    await source.health()
                except Unreachable as error:
                    return "too many requests at once" in str(error)
                return False

            async with asyncio.timeout(60):
                while not await overloaded():
                    pass
            release.set()
            assert {await task for task in tasks} == {400}
            await source.health()

    aio.run(main())


def test_a_client_that_goes_away_is_no_fault_of_the_cas(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with served(authority) as server:
            context = trusting(authority.bundle_pem)
            _, writer = await asyncio.open_connection("127.0.0.1", server.address.port, ssl=context)
            head = f"POST /v1/sign HTTP/1.1\r\nHost: ca\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9\r\n\r\n"
            writer.write(head.encode() + b"{")
            await writer.drain()
            await client(server, authority.bundle_pem).health()
            writer.transport.abort()
            await client(server, authority.bundle_pem).sign(csr(), WEB)

    aio.run(main())
    assert caplog.records == []


def test_what_is_no_http_is_no_fault_of_the_cas(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with served(authority) as server:
            context = trusting(authority.bundle_pem)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.address.port, ssl=context)
            writer.write(b"\x00\xff" * 100 + b"\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.0 400")
            writer.transport.abort()
            await client(server, authority.bundle_pem).sign(csr(), WEB)

    aio.run(main())
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


def test_a_head_beyond_its_bound_is_refused(authority: Authority) -> None:
    async def main() -> None:
        async with (
            served(authority) as server,
            session(server, authority) as http,
            http.get("/v1/health", headers={"X-Large": "x" * 20000}) as response,
        ):
            assert response.status == 400

    aio.run(main())


def test_tls_1_2_is_not_spoken(authority: Authority) -> None:
    async def main() -> None:
        older = trusting(authority.bundle_pem)
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        async with served(authority) as server:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("127.0.0.1", server.address.port, ssl=older)

    aio.run(main())


def test_the_servers_certificate_is_renewed_in_place(authority: Authority) -> None:
    async def shown(server: CaServer) -> bytes:
        context = trusting(authority.bundle_pem)
        _, writer = await asyncio.open_connection("127.0.0.1", server.address.port, ssl=context)
        found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return found

    async def main() -> None:
        begun = time.time() - LEAF_LIFE_S * 0.7
        async with served(authority, lambda: begun) as server, session(server, authority) as http:
            first = await shown(server)
            async with http.get("/v1/health") as response:
                assert response.status == 200
            server.maintain(begun + LEAF_LIFE_S / 2)
            assert await shown(server) == first
            server.maintain(time.time())
            assert await shown(server) != first
            async with http.get("/v1/health") as response:  # on the connection that began with the first
                assert response.status == 200

    aio.run(main())


def test_the_names_that_the_server_has_are_those_it_is_reached_by(authority: Authority) -> None:
    server = CaServer(authority, Address("127.0.0.2", 0), ["CA.example", "192.0.2.7", "127.0.0.1"])
    assert server.names[:3] == ("ca.example", "192.0.2.7", "127.0.0.1")
    assert {"localhost", "::1", "127.0.0.2"} <= set(server.names)
    assert len(set(server.names)) == len(server.names)
    for bad in ("*.example", "ca example", "", "https://ca.example", "ca.example:4180"):
        with pytest.raises(Misuse, match=r"is neither a DNS name nor an IP address"):
            CaServer(authority, Address("127.0.0.1", 0), [bad])


def test_an_address_that_cannot_be_had_is_named(authority: Authority) -> None:
    async def main() -> None:
        with pytest.raises(Problem, match=r"192\.0\.2\.1:0: cannot listen: this host has no such address"):
            await CaServer(authority, Address("192.0.2.1", 0)).start()

    aio.run(main())


# --- the client -------------------------------------------------------------------------------------------------------


def test_a_bundle_that_is_none_is_misuse() -> None:
    for text in ("", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(Misuse, match=r"copy bundle\.pem of the CA"):
            CaClient("https://127.0.0.1:1", text, TOKEN)


def test_a_ca_that_is_away_is_named_with_the_reason(authority: Authority) -> None:
    async def main() -> None:
        with pytest.raises(Unreachable, match=r"https://127\.0\.0\.1:1: Connection refused"):
            await CaClient("https://127.0.0.1:1/", authority.bundle_pem, TOKEN).health()

    aio.run(main())


def test_a_wrong_token_is_no_reason_to_try_again(authority: Authority) -> None:
    async def main() -> None:
        async with served(authority) as server:
            with pytest.raises(Refusal, match=r"copy agent\.token of the CA"):
                await client(server, authority.bundle_pem, "x").sign(csr(), WEB)

    aio.run(main())


def test_a_clock_that_is_off_is_suspected(authority: Authority) -> None:
    async def main() -> None:
        async with served(authority, lambda: time.time() - 1.5 * 86400) as server:
            with pytest.raises(Unreachable, match="certificate has expired: compare this host's clock"):
                await client(server, authority.bundle_pem).health()

    aio.run(main())


def test_the_client_believes_no_one_but_its_ca(authority: Authority, tmp_path: Path) -> None:
    """Neither another CA, nor a server of this one by another name."""

    async def main() -> None:
        with closing(Authority.create(tmp_path / "other", TRUST_DOMAIN, time.time(), TOKEN)) as other:
            async with served(authority) as server:
                with pytest.raises(Unreachable, match="not the CA that the trust bundle is of: copy"):
                    await client(server, other.bundle_pem).sign(csr(), WEB)
        server = CaServer(authority, Address("127.0.0.3", 0))
        server.names = ("ca.example",)
        await server.start()
        try:
            with pytest.raises(Unreachable, match=r"not valid for '127\.0\.0\.3': give that name to .* --name"):
                await client(server, authority.bundle_pem).sign(csr(), WEB)
        finally:
            await server.stop()
        assert recorded(tmp_path / "ca") == []

    aio.run(main())


@asynccontextmanager
async def saying(answer: bytes, authority: Authority, tmp_path: Path) -> AsyncIterator[CaClient]:
    """A server with a good certificate that says `answer` to whatever it is asked."""
    pem, _ = authority.issue_server(("127.0.0.1",), time.time())
    (tmp_path / "server.pem").write_bytes(pem)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem")

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0, ssl=tls)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield CaClient(f"https://127.0.0.1:{port}", authority.bundle_pem, TOKEN)


def http(status: str, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(head).encode() + body


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (b"", Unreachable, "Server disconnected"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Unreachable, "https://127.0.0.1:"),
        (http("200 OK", b"hello"), Unreachable, "its answer is not a CA's"),
        (http("200 OK", b'{"type":"done"}'), Unreachable, "its answer is not a CA's"),
        (http("200 OK", b" " * (MAX_ANSWER_BYTES + 1)), Unreachable, "larger than 512 KiB"),
        (http("200 OK", b"{}").replace(b"h: 2", b"h: 9"), Unreachable, "https://127.0.0.1:"),
        (http("302 Found", b"", "Location: https://127.0.0.1:1/"), Unreachable, "status 302"),
        (http("400 Bad Request", b'{"error":"no"}'), Refusal, r"no \(status 400\)"),
        (http("413 Too Large", b'{"error":"no"}'), Refusal, r"no \(status 413\)"),
        (http("429 Too Many Requests", b'{"error":"wait"}'), Unreachable, r"wait \(status 429\)"),
        (http("500 Internal", b'{"error":"oh"}'), Unreachable, r"oh \(status 500\)"),
        (http("503 Unavailable", b"<html>"), Unreachable, r"not the answer of a CA \(status 503\)"),
    ],
)
def test_answers_that_are_no_ca_s_are_told_apart(
    authority: Authority, tmp_path: Path, answer: bytes, error: type[Exception], reason: str
) -> None:
    async def main() -> None:
        async with saying(answer, authority, tmp_path) as source:
            with pytest.raises(error, match=reason):
                await source.sign(csr(), WEB)

    aio.run(main())


def test_the_environments_proxy_is_not_asked(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with served(authority) as server:
            await client(server, authority.bundle_pem).health()

    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    aio.run(main())


def test_stopping_waits_for_no_one_who_trickles(authority: Authority) -> None:
    async def main() -> None:
        begun: list[bool] = []

        async def trickle() -> AsyncIterator[bytes]:
            yield b"{"
            begun.append(True)
            await asyncio.Event().wait()

        async with served(authority) as server, session(server, authority) as http_session:

            async def ask() -> None:
                async with http_session.post("/v1/sign", headers=AUTHORIZED, data=trickle()):
                    raise AssertionError("the request was not whole")

            asked = asyncio.gather(ask(), return_exceptions=True)
            await eventually(lambda: begun, "the request is under way")
            async with asyncio.timeout(SHUTDOWN_S + 60):
                await server.stop()
            assert not_accepting(server.address)
            (outcome,) = await asked
            assert isinstance(outcome, aiohttp.ClientError)

    aio.run(main())


def not_accepting(address: Address) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address.host, address.port)) != 0


def test_strangers_cannot_fill_the_log(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with served(authority) as server, session(server, authority) as http:
            for _ in range(2 * BURST):
                async with http.post("/v1/sign", json=GOOD) as response:
                    assert response.status in {401, 429}

    aio.run(main())
    assert len(caplog.records) < 2 * BURST


def test_one_who_guesses_is_told_to_wait_and_who_is_known_is_not(authority: Authority, tmp_path: Path) -> None:
    """Also from the same address: a node has its own certificate."""

    async def main() -> list[int]:
        statuses = []
        limits = LimitSettings(failure_burst=3, failure_per_second=0.001, address_burst=2, address_per_second=0.001)
        server = CaServer(authority, Address("127.0.0.1", 0), settings=CaDaemonSettings(limits))
        await server.start()
        try:
            async with session(server, authority) as http:
                for headers in [AUTHORIZED] * 3 + [{"Authorization": "Bearer x"}] * 4 + [AUTHORIZED]:
                    async with http.post("/v1/sign", json=GOOD, headers=headers) as response:
                        statuses.append(response.status)
                        assert ("Retry-After" in response.headers) == (response.status == 429)
        finally:
            await server.stop()
        return statuses

    assert aio.run(main()) == [200, 200, 429, 401, 401, 401, 429, 429]
    refusals = [json.loads(line) for line in (tmp_path / "ca" / "audit.log").read_text().splitlines()]
    said = [line["reason"] for line in refusals if "too many" in line.get("reason", "")]
    assert said[0] == "too many requests of shared token at 127.0.0.1: again in 1000 s"
    assert said[1] == "too many requests of 127.0.0.1: again in 1000 s"
