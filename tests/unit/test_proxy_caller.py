"""What a caller's end of a relay records: the server name of the application's own TLS, and where it is counted."""

import asyncio

import pytest

from proxy.caller import MAX_NAMES, OTHER, CallerEnd, CallerTraffic, ServerNames
from proxy.detect import Detected
from proxy.mesh.records import END, as_record
from proxy.metrics import Metrics, State
from proxy.report import rows
from proxy.stats import Labels, Stats, TcpTraffic
from proxy.tcp import RelayEnd
from tests.support.hellos import client_hello, hello, names
from tests.support.wire import Wire

HELLO = client_hello("api.example")
OUT = Labels("outbound", "default/web", "db.default:3306")
IN = Labels("inbound", "default/db", "3306", "127.0.0.1:3306", "spiffe://mesh.example/ns/default/sa/web", True)


class Caller:
    """A caller's end with its wire, and an endpoint's beside it."""

    def __init__(self, labels: Labels = OUT, records: bool = False) -> None:
        self.stats = Stats()
        self.traffic = CallerTraffic(self.stats, labels, ServerNames())
        self.records = records
        self.begin()

    def begin(self) -> None:
        """Another connection of the same listener."""
        end = CallerEnd(self.traffic, again=(lambda *_: False) if self.records else None)
        self.wire = Wire(end, tls=self.records)
        endpoint = RelayEnd(self.stats.tcp(OUT._replace(target="192.0.2.1:3306"), "dst", True), records=False)
        self.endpoint = Wire(endpoint)
        end.join(endpoint)

    def says(self, data: bytes) -> None:
        self.wire.says(b"".join(as_record(data)) if self.records else data)

    def counted(self) -> dict[str | None, tuple[int, int, int, int]]:
        """Server name → (opened, open, read, written)."""
        return {
            each.labels.sni: (each.opened, each.open, each.read_bytes, each.written_bytes)
            for each in self.stats.tcp_series
            if each.peer == "src"
        }


@pytest.mark.parametrize("labels", [OUT, IN])
def test_the_server_name_is_recorded_and_the_bytes_go_on_as_they_come(labels: Labels) -> None:
    caller = Caller(labels, records=labels is IN)
    for piece in (HELLO[:3], HELLO[3:200]):
        caller.says(piece)
        assert caller.endpoint.heard() == piece
    assert caller.counted() == {None: (0, 1, 0, 0)}
    caller.says(HELLO[200:])
    caller.endpoint.says(b"hello")
    over = 4 if labels is IN else 0  # of a record, not counted where it is written
    assert caller.counted() == {None: (0, 0, 0, 0), "api.example": (1, 1, len(HELLO) + 3 * over, 5)}
    caller.endpoint.ends()
    caller.wire.says(END if labels is IN else b"")
    caller.wire.ends()
    caller.wire.settle()
    assert caller.counted()["api.example"][:2] == (1, 0)


@pytest.mark.parametrize(("first", "sni"), [(client_hello(None), ""), (b"SELECT 1", None)])
def test_tls_without_a_name_is_told_from_no_tls(first: bytes, sni: str | None) -> None:
    caller = Caller()
    caller.says(first)
    assert caller.counted()[sni] == (1, 1, len(first), 0)


def test_a_server_that_speaks_first_decides_that_it_is_no_tls() -> None:
    caller = Caller()
    assert caller.counted() == {None: (0, 1, 0, 0)}
    caller.endpoint.says(b"220 ready\r\n")
    assert caller.counted() == {None: (1, 1, 0, 11)}
    caller.says(HELLO)
    assert caller.counted() == {None: (1, 1, len(HELLO), 11)}


def test_a_connection_that_says_nothing_counts_at_its_end() -> None:
    caller = Caller()
    caller.wire.breaks(ConnectionResetError())
    assert caller.counted() == {None: (1, 0, 0, 0)}


class Taken:
    """What a caller's connection was turned to."""

    def __init__(self, caller: Caller) -> None:
        self.found: list[tuple[str, bytes]] = []
        self.end = CallerEnd(caller.traffic, turned=self._turned)
        self.wire = Wire(self.end)

    def _turned(self, transport: asyncio.Transport, found: Detected, data: bytes) -> None:
        assert transport is self.wire
        self.found.append((found, data))


def endpoint(records: bool) -> tuple[RelayEnd, Wire]:
    end = RelayEnd(TcpTraffic(OUT, "dst", True), records=records)
    return end, Wire(end, tls=records)


@pytest.mark.parametrize("records", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_a_connection_that_turns_out_to_be_http_is_no_relay_any_more(records: bool, late: bool) -> None:
    caller = Caller()
    taken = Taken(caller)
    end, wire = endpoint(records)
    if not late:
        taken.end.join(end)
    taken.wire.says(b"GET / HTTP/1.1\r\n")
    if late:
        taken.end.join(end)
    wire.settle()
    assert taken.found == [("http1", b"GET / HTTP/1.1\r\n")]
    assert wire.heard() == (END if records else b"")
    assert (wire.lost, wire.aborted, taken.wire.is_closing()) == (True, False, False)
    assert end.broken_off, "by us: no fault of the endpoint"
    assert caller.counted() == {None: (0, 1, 0, 0)}  # the one that `Caller` itself has open
    taken.end.abort(ConnectionError("no endpoint"))
    assert not taken.wire.is_closing()


@pytest.mark.parametrize("first", [b"SELECT 1\r\n", b"", b"GE"])
def test_only_what_is_said_first_can_be_http(first: bytes) -> None:
    taken = Taken(Caller())
    end, wire = endpoint(False)
    taken.end.join(end)
    if first:
        taken.wire.says(first)
    else:
        wire.says(b"220 ready\r\n")
    taken.wire.says(b"GET / HTTP/1.1\r\n")
    assert taken.found == []
    assert wire.heard() == first + b"GET / HTTP/1.1\r\n"


def test_callers_cannot_fill_the_metrics_with_names() -> None:
    caller = Caller()
    for number in range(MAX_NAMES + 20):
        caller.says(hello(names((0, b"%d.example" % number))))
        caller.begin()
    caller.says(hello(names((0, b"0.example"))))
    counted = caller.counted()
    assert len(counted) == MAX_NAMES + 2
    assert (counted["0.example"][0], counted[OTHER][0]) == (2, 20)


def page(stats: Stats) -> list[str]:
    metrics = Metrics(stats, lambda: State((), (), connected=True, accepted=0, established=0))
    return metrics.page().decode().splitlines()


@pytest.mark.parametrize(("labels", "tls"), [(OUT, "opaque"), (IN, "true")])
def test_the_label_is_linkerds(labels: Labels, tls: str) -> None:
    caller = Caller(labels)
    caller.begin()
    caller.says(HELLO)
    found = [line for line in page(caller.stats) if line.startswith("tcp_open_connections{") and 'peer="src"' in line]
    plain, named = sorted(found, key=lambda line: "api.example" in line)
    assert 'sni=""' in plain
    assert 'sni="api.example"' in named
    assert f'tls="{tls}"' in named
    assert 'no_tls_reason=""' in named
    assert [line.endswith(" 1.0") for line in (plain, named)] == [True, True]


def test_the_agent_is_told_of_one_edge_whatever_the_names() -> None:
    caller = Caller(IN)
    caller.says(HELLO)
    caller.begin()
    caller.says(b"no TLS")
    caller.begin()
    inbound = [row for row in rows(caller.stats) if row.direction == "inbound"]
    assert [(row.requests, row.open_connections, row.read_bytes) for row in inbound] == [(3, 3, len(HELLO) + 6)]


def test_a_series_that_is_not_decided_about_is_open() -> None:
    series = TcpTraffic(OUT, "src", True)
    series.undecided = 2
    assert (series.open, series.opened) == (2, 0)
