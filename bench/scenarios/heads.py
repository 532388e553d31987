"""HTTP/1.1 through one proxy, where no head of a request comes twice: each has a path and a trace id of its own.

A proxy that remembers what it parsed gains nothing from that here.
"""

from bench.loads.wrk import UNIQUE, Wrk
from bench.origins import nginx
from bench.scenario import Case, Goal, Scenario
from bench.scenarios.http1 import ENVOY_HTTP1, MESHD_HTTP1

ABOUT = "A path and a `traceparent` that none had before; answers of 1,024 bytes."
CASES = (Case("32 connections", Wrk(connections=32, script=UNIQUE), (Goal("envoy", 1.3),)),)

SCENARIO = Scenario(
    name="heads",
    title="HTTP/1.1, one hop, heads that differ in every request",
    about=ABOUT,
    origin=nginx.origin(),
    contenders=(MESHD_HTTP1, ENVOY_HTTP1),
    cases=CASES,
)
