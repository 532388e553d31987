"""What a proxy takes of memory: idle, and with connections from clients that have been served and are kept alive."""

from bench.loads.hold import Hold
from bench.origins import nginx
from bench.scenario import Case, Goal, Scenario, Unit
from bench.scenarios.http1 import ENVOY_HTTP1, MESHD_HTTP1

GOALS = (Goal("envoy", 0.5),)

SCENARIO = Scenario(
    name="memory",
    title="Memory, HTTP/1.1, one hop",
    about="Resident memory, started anew for each round, with connections that have had one answer each and are idle.",
    origin=nginx.origin(),
    contenders=(MESHD_HTTP1, ENVOY_HTTP1),
    cases=(
        Case("no connections", Hold(0), GOALS),
        Case("1,000 connections", Hold(1_000), GOALS),
        Case("10,000 connections", Hold(10_000), GOALS),
    ),
    unit=Unit("MB resident", "connection", more_is_better=False, digits=1),
    fresh=True,
    direct=False,
)
