"""Bodies of four sizes through one proxy, HTTP/1.1 in plain text on both sides."""

from bench.loads.wrk import Wrk
from bench.origins import nginx
from bench.scenario import Case, Goal, Scenario, Unit
from bench.scenarios.http1 import ENVOY_HTTP1, MESHD_HTTP1

KB, MB = 1_000, 1_000_000
SIZES = {"1 kB": (KB, 32), "10 kB": (10 * KB, 32), "1 MB": (MB, 8), "100 MB": (100 * MB, 2)}
"""Their names; how many bytes they have, and how many connections ask for them."""

MEGABYTES = Unit("MB/s", "MB", digits=1)
CASES = tuple(
    Case(name, Wrk(connections, nginx.path(size), counts="megabytes"), (Goal("envoy", 1.0),))
    for name, (size, connections) in SIZES.items()
)

SCENARIO = Scenario(
    name="bodies",
    title="Bodies, HTTP/1.1, one hop",
    about="Answers of four sizes, on 32 connections (1 MB: 8, 100 MB: 2).",
    origin=nginx.origin([size for size, _ in SIZES.values()]),
    contenders=(MESHD_HTTP1, ENVOY_HTTP1),
    cases=CASES,
    unit=MEGABYTES,
)
