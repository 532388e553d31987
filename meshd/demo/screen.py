"""What one sees while the demo runs: a live table on a terminal, a line now and then elsewhere."""

import sys
import time
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from meshd.api.control import EdgeStatus, Golden, Status, WorkloadStatus
from meshd.demo.report import serving
from meshd.view.figures import NOTHING, latency, rps, success_rate
from meshd.view.status import GOLDEN

LINE_EVERY_S = 2.0


class Screen(Protocol):
    """Where the demo is shown. A context: it is left when there is nothing more to show."""

    def __enter__(self) -> "Screen": ...

    def __exit__(self, *_: object) -> None: ...

    def say(self, text: str) -> None:
        """What is being done now."""

    def show(self, status: Status, elapsed_s: float) -> None:
        """What the mesh does."""


class Lines:
    """Plain lines on standard error."""

    def __init__(self) -> None:
        self._last_s = 0.0

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        print(f"meshd demo: {text}", file=sys.stderr, flush=True)

    def show(self, status: Status, elapsed_s: float) -> None:
        if time.monotonic() - self._last_s >= LINE_EVERY_S:
            self._last_s = time.monotonic()
            self.say(f"{elapsed_s:3.0f}s  " + " | ".join(_line(each) for each in serving(status)))


class LiveTable:
    """Tables on a terminal, drawn over as they change."""

    def __init__(self) -> None:
        self._live = Live(console=Console(), auto_refresh=False, transient=False)

    def __enter__(self) -> "LiveTable":
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def say(self, text: str) -> None:
        self._live.console.print(text, style="dim", highlight=False)

    def show(self, status: Status, elapsed_s: float) -> None:
        self._live.update(tables(status, elapsed_s), refresh=True)


def tables(status: Status, elapsed_s: float) -> Group:
    """Workloads as they serve, and edges as their callers see them."""
    workloads = _table(f"workloads, after {elapsed_s:.0f} s", "WORKLOAD", *GOLDEN, "TLS", "IDENTITY")
    for workload in serving(status):
        workloads.add_row(workload.name, *_golden(workload.golden), _tls(workload), workload.identity)
    edges = _table("edges", "SRC", "DST", "PROTOCOL", *GOLDEN, "TLS", "SERVER_ID")
    for edge in status.edges:
        edges.add_row(
            edge.source, edge.service, edge.protocol, *_golden(edge.golden), _secured(edge), edge.server_identity
        )
    return Group(workloads, "", edges)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in GOLDEN else "left", no_wrap=True)
    return table


def _golden(seen: Golden) -> tuple[Text, ...]:
    style = "" if seen.success_rate is None else "green" if seen.success_rate == 1.0 else "red"
    figures = (rps(seen.rps), latency(seen.p50_ms), latency(seen.p95_ms), latency(seen.p99_ms))
    return (Text(success_rate(seen.success_rate), style), *(Text(each) for each in figures))


def _tls(workload: WorkloadStatus) -> Text:
    seen = workload.golden
    if not seen.requests:
        return Text(NOTHING)
    well = seen.mtls_requests == seen.requests
    share = success_rate(seen.mtls_requests / seen.requests)
    return Text("mutual" if well else f"mutual {share}", "green" if well else "red")


def _secured(edge: EdgeStatus) -> Text:
    return Text("mutual", "green") if edge.tls else Text("none", "red")


def _line(workload: WorkloadStatus) -> str:
    seen = workload.golden
    return f"{workload.name} {success_rate(seen.success_rate)} {rps(seen.rps)} p50 {latency(seen.p50_ms)}"
