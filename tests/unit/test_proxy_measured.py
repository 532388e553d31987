"""The page of what was measured of endpoints: one proxy's, and those of its workers as one."""

import msgspec
import pytest

from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName
from meshd.api.measured import MAX_MEASURED, Measured, MeasuredDestination, MeasuredEndpoint
from proxy.destination import Destination
from proxy.measured import asked_for, merged, page
from tests.unit.test_proxy_destination import Time, made

ONE, TWO = Endpoint("192.0.2.1", 80, "spiffe://a/ns/default/sa/web"), Endpoint("192.0.2.2", 80, weight=2)


def read(content: bytes) -> Measured:
    return msgspec.json.decode(content, type=Measured)


def web(time: Time, *endpoints: Endpoint) -> tuple[str, str, Destination]:
    destination = made(time)
    destination.update(EndpointSet(ServiceName("web", "default", 80), endpoints))
    destination.name = "web.default:80"
    return "default/me", "web", destination


def test_an_endpoint_as_it_is_balanced_over() -> None:
    time = Time()
    followed = web(time, ONE, TWO)
    one, two = followed[2].endpoints
    one.ewma.observe(0.1, time.now)
    one.ewma.pending = 1
    two.open = 3
    followed[2].failed(two)
    (found,) = read(page([followed], "", time.now)).destinations
    assert (found.workload, found.authority, found.service, found.worker) == ("default/me", "web", "web.default:80", 0)
    first, second = found.endpoints
    assert (first.address, first.port, first.identity) == (ONE.address, 80, ONE.identity)
    assert (first.state, first.reason, first.out_s) == ("in", "", 0.0)
    assert (first.latency_ms, first.load, first.pending, first.connections) == (100.0, 200.0, 1, 0)
    assert (second.state, second.reason, second.connections) == ("out", "connection", 3)
    assert second.out_s == pytest.approx(0.1, abs=0.011)
    assert second.load == second.latency_ms / 2
    time.advance(1.0)
    assert [each.state for each in read(page([followed], "", time.now)).destinations[0].endpoints] == ["in", "probing"]


def test_one_service_is_shown_alone_where_it_is_asked_for() -> None:
    time = Time()
    api = web(time, TWO)
    api[2].name = "api.default:80"
    followed = [web(time, ONE), api]
    assert [each.service for each in read(page(followed, "api.default:80", 0.0)).destinations] == ["api.default:80"]
    assert len(read(page(followed, "", 0.0)).destinations) == 2
    assert read(page(followed, "db.default:80", 0.0)) == Measured()


def test_what_is_asked_for() -> None:
    assert asked_for("") == asked_for("x=y") == asked_for("service=") == ""
    assert asked_for("service=web.default:80") == asked_for("x=y&service=web.default%3A80") == "web.default:80"
    with pytest.raises(ValueError, match="fields"):
        asked_for("service=web&" * 17)


def test_a_page_has_so_many_endpoints_and_says_how_many_more_there_are() -> None:
    time = Time()
    many = [Endpoint("192.0.2.1", port) for port in range(1, MAX_MEASURED + 11)]
    found = read(page([web(time, *many), web(time, ONE)], "", 0.0))
    assert [len(each.endpoints) for each in found.destinations] == [MAX_MEASURED]
    assert found.left_off == 11


def measured(*ports: int, left_off: int = 0) -> bytes:
    endpoints = tuple(MeasuredEndpoint("192.0.2.1", port, "", "in", "", 0.0, 0, 1.0, 1.0, 0, 0) for port in ports)
    return msgspec.json.encode(
        Measured((MeasuredDestination("default/me", "web", "web.default:80", endpoints),), left_off)
    )


def test_the_pages_of_workers_are_one_that_says_whose_is_what() -> None:
    found = read(merged([(1, measured(80)), (2, b""), (3, measured(80, 81, left_off=4))]))
    assert [(each.worker, len(each.endpoints)) for each in found.destinations] == [(1, 1), (3, 2)]
    assert (found.left_off, found.silent) == (4, (2,))
    many = read(merged((number, measured(*range(1, 6001))) for number in (1, 2, 3)))
    assert [len(each.endpoints) for each in many.destinations] == [6000, 4000]
    assert many.left_off == 8000
