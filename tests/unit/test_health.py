"""The health of workloads: what documents say of it, what is believed of it, and how systemd and gRPC say it."""

from typing import Any

import msgspec
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived, StreamEnded

from meshd.agent.health.grpc import MAX_MESSAGE_BYTES, Call
from meshd.agent.health.judge import Judge
from meshd.agent.health.monitor import checks_of
from meshd.agent.health.probes import unit_failure
from meshd.api.documents import Workload
from meshd.api.health import parse_statuses

# --- documents ----------------------------------------------------------------------------------------------------


def document(ports: list[dict[str, Any]], health: dict[str, Any] | None = None) -> Workload:
    spec = {"ports": ports} | ({} if health is None else {"health": health})
    given = {"apiVersion": "meshd.io/v1", "kind": "Workload", "metadata": {"name": "web"}, "spec": spec}
    return msgspec.convert(given, Workload)


def test_what_is_looked_at() -> None:
    checks = checks_of(
        document(
            [
                {
                    "port": 8080,
                    "health": {"http": {"path": "/healthz?key=secret"}, "interval": "5s", "timeout": "500ms"},
                },
                {"port": 8081, "health": {"tcp": {}, "unhealthyAfter": 1}, "address": "0.0.0.0"},
                {"port": 8082, "health": {"grpc": {"service": "shop.Web"}}, "address": "::1"},
                {"port": 8083, "health": {"grpc": {}}},
                {"port": 8084},
            ],
            {"unit": "web@1.service", "healthyAfter": 2},
        )
    )
    found = [
        (
            each.what,
            each.health.interval_s,
            each.health.timeout_s,
            each.health.healthy_after,
            each.health.unhealthy_after,
        )
        for each in checks
    ]
    assert found == [
        ("GET http://127.0.0.1:8080/healthz", 5.0, 0.5, 1, 3),
        ("connection to 127.0.0.1:8081", 10.0, 1.0, 1, 1),
        ("gRPC health of [::1]:8082 shop.Web", 10.0, 1.0, 1, 3),
        ("gRPC health of 127.0.0.1:8083", 10.0, 1.0, 1, 3),
        ("unit web@1.service", 10.0, 1.0, 2, 3),
    ]


@pytest.mark.parametrize(
    ("health", "said"),
    [
        ({}, "a check is exactly one of http, tcp and grpc; found none - at `$.spec.ports[0].health`"),
        ({"http": {}, "tcp": {}}, "exactly one of http, tcp and grpc; found http and tcp"),
        ({"http": {"path": "healthz"}}, "path: 'healthz' is not a path"),
        ({"http": {"path": "/a b"}}, "path: '/a b' is not a path"),
        ({"http": {"path": "/\r\nX: y"}}, "is not a path"),
        ({"http": {"path": "/" + "a" * 2048}}, "is not a path"),
        ({"http": {"host": "a\r\nX: y"}}, "is not HOST or HOST:PORT"),
        ({"http": {"expect": "2xx"}}, "expect: '2xx' is no list of HTTP statuses, as in 200-399 or 200,204"),
        ({"http": {"expect": "399-200"}}, "'399-200' is no list of HTTP statuses"),
        ({"http": {"body": "ok"}}, "unknown field `body`"),
        ({"tcp": {}, "interval": "10"}, "interval: '10' is not a duration"),
        ({"tcp": {}, "interval": "50ms"}, "interval: 50ms is not within 100ms and 1h"),
        ({"tcp": {}, "interval": "2h"}, "interval: 2h is not within 100ms and 1h"),
        ({"tcp": {}, "interval": "1s", "timeout": "2s"}, "timeout: 2s is not within 10ms and the interval, 1s"),
        ({"tcp": {}, "timeout": "0s"}, "timeout: 0s is not within 10ms and the interval, 10s"),
        ({"tcp": {}, "healthyAfter": 0}, "Expected `int` >= 1"),
        ({"tcp": {}, "unhealthyAfter": 101}, "Expected `int` <= 100"),
        ({"grpc": {"service": "a" * 256}}, "Expected `str` of length <= 255"),
    ],
)
def test_what_is_refused_of_a_port(health: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        document([{"port": 8080, "health": health}])
    assert said in str(refused.value)


@pytest.mark.parametrize("unit", ["web", "web*.service", "--all.service ", "a/b.service", ".timer"])
def test_a_unit_is_one_that_has_processes(unit: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="is not the name of a unit that has processes"):
        document([], {"unit": unit})


def test_statuses() -> None:
    assert parse_statuses("200") == ((200, 200),)
    assert parse_statuses("200-299, 304,401") == ((200, 299), (304, 304), (401, 401))


# --- what is believed ---------------------------------------------------------------------------------------------

GOOD, BAD = "", "refused"


@pytest.mark.parametrize(
    ("healthy", "looks", "verdicts"),
    [
        (None, [GOOD], [None]),
        (None, [GOOD, GOOD], [None, True]),
        (None, [BAD], [False]),
        (None, [GOOD, BAD, GOOD, GOOD], [None, False, False, True]),
        (None, [BAD, GOOD, BAD, GOOD, GOOD], [False, False, False, False, True]),
        (True, [BAD, BAD, BAD], [True, True, False]),
        (True, [BAD, BAD, GOOD, BAD, BAD, GOOD], [True] * 6),
        (True, [BAD, BAD, BAD, GOOD, BAD, GOOD, GOOD], [True, True, False, False, False, False, True]),
    ],
)
def test_a_verdict_changes_after_so_many_looks_in_a_row(
    healthy: bool | None, looks: list[str], verdicts: list[bool | None]
) -> None:
    judge = Judge(healthy_after=2, unhealthy_after=3, healthy=healthy)
    found = []
    for look in looks:
        judge.heard(look)
        found.append(judge.healthy)
    assert found == verdicts
    assert (judge.looks, judge.failures) == (len(looks), looks.count(BAD))


def test_what_is_to_be_told() -> None:
    judge = Judge(healthy_after=1, unhealthy_after=2)
    looks = [GOOD, GOOD, BAD, BAD, BAD, "timeout", GOOD, GOOD]
    assert [judge.heard(look) for look in looks] == [True, False, False, True, False, True, True, False]
    assert judge.failure == "timeout"


# --- systemd ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "active", "sub", "failure"),
    [
        ("loaded", "active", "running", ""),
        ("loaded", "active", "exited", ""),
        ("loaded", "reloading", "reload", ""),
        ("loaded", "activating", "auto-restart", "it is activating (auto-restart)"),
        ("loaded", "failed", "failed", "it is failed (failed)"),
        ("loaded", "inactive", "dead", "it is inactive (dead)"),
        ("not-found", "inactive", "dead", "the unit is not-found"),
        ("masked", "active", "running", "the unit is masked"),
        ("", "active", "running", "systemctl does not say in what state it is"),
        ("loaded", "\x1b[31m", "x", "systemctl does not say in what state it is"),
    ],
)
def test_a_unit_is_well_while_it_is_active(load: str, active: str, sub: str, failure: str) -> None:
    assert unit_failure(f"LoadState={load}\nActiveState={active}\nSubState={sub}\n") == failure


def test_what_systemctl_says_otherwise() -> None:
    assert unit_failure("") == "systemctl does not say in what state it is"


# --- gRPC ---------------------------------------------------------------------------------------------------------

OK = [(":status", "200"), ("content-type", "application/grpc")]
SERVING = b"\x00\x00\x00\x00\x02\x08\x01"


def outcome(headers: list[tuple[str, str]], data: bytes, trailers: list[tuple[str, str]] | None) -> str:
    """What is said of a server that answers so; trailers None: the answer ends without any."""
    call, server = Call("127.0.0.1:1", "shop.Web"), H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    events = server.receive_data(call.data_to_send())
    (request,) = (each for each in events if isinstance(each, RequestReceived))
    assert any(isinstance(each, StreamEnded) for each in events)
    assert request.stream_id is not None
    server.send_headers(request.stream_id, headers, end_stream=not data and trailers is None)
    if data:
        server.send_data(request.stream_id, data, end_stream=trailers is None)
    if trailers is not None:
        server.send_headers(request.stream_id, trailers, end_stream=True)
    answer = server.data_to_send()
    for start in range(0, len(answer), 7):
        call.receive(answer[start : start + 7])
    return call.failure()


@pytest.mark.parametrize(
    ("headers", "data", "trailers", "failure"),
    [
        (OK, SERVING, [("grpc-status", "0")], ""),
        (OK, SERVING[:6] + b"\x02", [("grpc-status", "0")], "answered NOT_SERVING"),
        (OK, b"\x00\x00\x00\x00\x00", [("grpc-status", "0")], "answered UNKNOWN"),
        (OK, SERVING[:6] + b"\x07", [("grpc-status", "0")], "its answer is no HealthCheckResponse"),
        (OK, SERVING[:-1], [("grpc-status", "0")], "its answer is no HealthCheckResponse"),
        (OK, b"\x01" + SERVING[1:], [("grpc-status", "0")], "its answer is no HealthCheckResponse"),
        (OK, b"", [("grpc-status", "0")], "its answer is no HealthCheckResponse"),
        (OK, b"x" * (MAX_MESSAGE_BYTES + 6), [("grpc-status", "0")], "its answer is too long"),
        (OK, SERVING, None, "answered no status of gRPC"),
        (OK, SERVING, [("grpc-status", "99")], "answered no status of gRPC"),
        (OK, b"", [("grpc-status", "14"), ("grpc-message", "not%20yet")], "answered UNAVAILABLE: 'not yet'"),
        ([*OK, ("grpc-status", "12")], b"", None, "answered UNIMPLEMENTED"),
        ([(":status", "503")], b"", None, "answered HTTP status 503"),
    ],
)
def test_only_serving_is_well(
    headers: list[tuple[str, str]], data: bytes, trailers: list[tuple[str, str]] | None, failure: str
) -> None:
    assert outcome(headers, data, trailers) == failure


def test_what_is_no_answer() -> None:
    call = Call("127.0.0.1:1", "")
    assert call.failure() == "the connection ended in place of an answer"
    call.receive(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert (call.ended, call.failure()) == (True, "what it answers is not HTTP/2")
