"""`meshd demo`: a small mesh on this machine, with traffic through it."""

import json
import shutil
import sys

import click
import uvloop

from meshd.api.control import Status
from meshd.cli.durations import Duration
from meshd.demo.play import play
from meshd.demo.report import Report, document, is_well, mtls_rate
from meshd.demo.screen import Lines, LiveTable
from meshd.view.figures import latency, success_rate

NEXT = (
    "run --name web --port 8080 -- python3 -m http.server 8080 --bind 127.0.0.1",
    "run --name me -- curl -s http://web/",
    "status",
)
"""What to try next, one after the other: a workload, a call of it, and both of them seen from outside."""


@click.command()
@click.option(
    "--duration",
    type=Duration(least_s=1, most_s=3600),
    default="30s",
    show_default=True,
    help="How long requests are sent.",
)
@click.option(
    "--rate", type=click.IntRange(1, 2000), default=200, show_default=True, help="Requests a second, from the outside."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document at the end, and progress on stderr.")
def command(duration: float, rate: int, as_json: bool) -> None:
    """Run a small mesh and show it working: a CA, an agent, and three workloads that call each other.

    All of it are real processes on this machine, in a directory of their own; nothing is left behind.

    Exit status: 0 when there were requests, all of them succeeded, and all were mutual TLS; else 1.
    """
    live = sys.stdout.isatty() and not as_json
    with LiveTable() if live else Lines() as screen:
        report, status = uvloop.run(play(rate, duration, screen))
    click.echo(json.dumps(document(report, status), indent=2) if as_json else summary(report, status))
    sys.exit(0 if is_well(report, status) else 1)


def summary(report: Report, status: Status) -> str:
    """What it came to, and what to try next."""
    taken = f"{report.requests} requests in {report.taken_s:.1f} s, each through web, api and store"
    lines = [
        "",
        f"{taken}: {success_rate(report.success_rate)} succeeded.",
        f"Over mutual TLS: {success_rate(mtls_rate(status))} of what the workloads were asked.",
        f"Seen from outside: p50 {latency(report.p50_ms)}, p95 {latency(report.p95_ms)}, p99 {latency(report.p99_ms)}.",
        *(f"  failed, {count} times: {reason}" for reason, count in report.reasons.items()),
        "",
        "What to try next, in two terminals: a workload of your own, a call of it through the mesh, and how both look:",
        *(f"  {_program()} {verb}" for verb in NEXT),
    ]
    return "\n".join(lines)


def _program() -> str:
    """How this user calls us: by name only where that is found."""
    return "meshd" if shutil.which("meshd") else sys.argv[0]
