"""`meshd endpoints` from what the agent and the proxies say."""

from typing import Literal

from meshd.api.control import Endpoints, SourceSays
from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName
from meshd.api.measured import Measured, MeasuredDestination, MeasuredEndpoint
from meshd.api.names import Address
from meshd.api.problems import Problem
from meshd.view.endpoints import Asked, as_data, as_text, notes

NOW = 1_800_000_000.0
WEB = ServiceName("web", "default", 80)
IDENTITY = "spiffe://prod.example/ns/default/sa/web"
MESHED = Endpoint("192.0.2.5", 8080, IDENTITY, 4143, "http", 1, "a", {"version": "2", "pod": "web-1"})
PLAIN = Endpoint("192.0.2.40", 8080, weight=3)
ADMIN = Address("127.0.0.1", 4191)

CONSUL = SourceSays("consul", "known", EndpointSet(WEB, (MESHED,), source="consul"), NOW - 12)
KUBERNETES = SourceSays(
    "kubernetes", "known", EndpointSet(WEB, (MESHED, PLAIN), stale=True), NOW - 200, NOW - 900, NOW - 190, "refused"
)
FILE = SourceSays("file", "unknown")
BOTH = Endpoints(
    "known", EndpointSet(WEB, (PLAIN, MESHED), stale=True, source="consul, kubernetes"), (FILE, CONSUL, KUBERNETES)
)


def seen(
    endpoint: Endpoint,
    state: Literal["in", "out", "probing"] = "in",
    reason: Literal["", "connection", "answers"] = "",
    load: float = 2.5,
    worker: int = 0,
) -> MeasuredDestination:
    measured = MeasuredEndpoint(
        endpoint.address, endpoint.port, endpoint.identity, state, reason, 0.0, 0, load / 2, load, 1, 0
    )
    return MeasuredDestination("default/me", "web", "web.default:80", (measured,), worker)


def asked(*destinations: MeasuredDestination, said: Endpoints = BOTH, page: Measured | Problem | None = None) -> Asked:
    return Asked("web", "default", said, {ADMIN: page or Measured(destinations)})


def cells(each: Asked, row: int = 0, *, wide: bool = True) -> dict[str, str]:
    heading, *lines = as_text([each], NOW, wide=wide).splitlines()
    return dict(zip(heading.split(), lines[row].split(), strict=True))


def test_the_table() -> None:
    assert as_text([asked(seen(MESHED))], NOW) == (
        "NAMESPACE  IP          PORT  SERVICE         ZONE  WEIGHT  HEALTH  SOURCE      AGE    LOAD   IDENTITY\n"
        "default    192.0.2.40  8080  web.default:80  -     3       stale   kubernetes  3m20s  -      -\n"
        f"default    192.0.2.5   8080  web.default:80  a     1       ready   consul      12s    2.5ms  {IDENTITY}\n"
    )


def test_wide_has_what_proxies_measured() -> None:
    row = cells(asked(seen(MESHED), seen(MESHED, load=40.0, worker=2)), 1)
    assert (row["LOAD"], row["LATENCY"], row["PENDING"], row["EJECTED"]) == ("40ms", "20ms", "2", "no")
    assert (row["CALLERS"], row["PROTOCOL"], row["INBOUND"]) == ("default/me", "http", "4143")
    assert row["LABELS"] == "pod=web-1,version=2"
    unused = cells(asked(seen(MESHED)))
    assert {unused[name] for name in ("LOAD", "LATENCY", "PENDING", "EJECTED", "CALLERS", "INBOUND")} == {"-"}


def test_what_any_proxy_took_out_is_not_hidden() -> None:
    row = cells(asked(seen(MESHED), seen(MESHED, "out", "answers", worker=1)), 1)
    assert (row["HEALTH"], row["EJECTED"]) == ("ejected", "answers")
    row = cells(asked(seen(MESHED, "probing", "connection")), 1)
    assert (row["HEALTH"], row["EJECTED"]) == ("probing", "connection")


def test_an_endpoint_of_another_identity_at_the_address_is_another() -> None:
    other = Endpoint(MESHED.address, MESHED.port, "spiffe://prod.example/ns/default/sa/other")
    assert cells(asked(seen(other)), 1)["LOAD"] == "-"


def test_what_a_registry_says_moves_no_cursor_and_ends_no_column() -> None:
    evil = Endpoint("192.0.2.1", 80, zone="a b\x1b[2J", labels={"x": "1\n2"})
    row = cells(asked(said=Endpoints("known", EndpointSet(WEB, (evil,)), ())))
    assert (row["ZONE"], row["LABELS"]) == ("a?b?[2J", "x=1?2")


def test_notes_say_what_is_wrong() -> None:
    assert list(notes(asked(), NOW)) == ["web: kubernetes is stale for 3m10s: refused"]
    away = SourceSays("consul", "cannot say", trouble="it did not answer within 3 s")
    assert list(notes(asked(said=Endpoints("cannot say", None, (FILE, away))), NOW)) == [
        "web: it cannot be said now whether there is such a service",
        "web: consul cannot say: it did not answer within 3 s",
    ]
    assert list(notes(asked(said=Endpoints("unknown", None, (FILE, SourceSays("local", "unknown")))), NOW)) == [
        "web: no source knows such a service: file, local"
    ]
    empty = Endpoints("known", EndpointSet(WEB), (FILE,), left_off=7)
    assert list(notes(asked(said=empty), NOW)) == [
        "web: web.default:80 has no endpoints at present",
        "web: 7 more endpoints are not shown",
    ]
    assert list(notes(asked(page=Problem("the proxy is away")), NOW))[1:] == ["the proxy is away"]
    assert list(notes(asked(page=Measured(silent=(2, 3))), NOW))[1:] == [
        "the proxy at 127.0.0.1:4191: workers that did not answer: 2, 3"
    ]


def test_data_for_programs() -> None:
    (data,) = as_data([asked(seen(MESHED, "out", "answers"))], NOW)
    assert (data["asked"], data["standing"], data["service"]) == ("web", "known", "web.default:80")
    plain, meshed = data["endpoints"]
    assert (meshed["namespace"], meshed["ip"], meshed["port"]) == ("default", "192.0.2.5", 8080)
    assert (meshed["source"], meshed["read_at"], meshed["health"]) == ("consul", NOW - 12, "ejected")
    (caller,) = meshed["callers"]
    assert (caller["admin"], caller["workload"], caller["reason"]) == ("127.0.0.1:4191", "default/me", "answers")
    assert (plain["health"], plain["stale_since"], plain["callers"]) == ("stale", NOW - 190, [])
    file, consul, kubernetes = data["sources"]
    assert (file["standing"], file["endpoints"]) == ("unknown", [])
    assert consul["endpoints"] == ["192.0.2.5:8080"]
    assert kubernetes["trouble"] == "refused"


def test_no_endpoint_no_table() -> None:
    assert as_text([asked(said=Endpoints("unknown", None, ()))], NOW) == ""
