"""Bodies of several sizes through one proxy, HTTP/1.1 in plain text on both sides."""

from bench.loads.wrk import Wrk, upload
from bench.origins import nginx
from bench.scenario import Case, Goal, Scenario, Unit
from bench.scenarios.http1 import ENVOY_HTTP1, MESHD_HTTP1

KB, MB = 1_000, 1_000_000
SIZES = (KB, 10 * KB, MB, 100 * MB)
ABOUT = "Answers of four sizes, and one size of requests. Connections: 32; 8 for 1 MB, and 2 for 100 MB."

MEGABYTES = Unit("MB/s", "MB", digits=1)
GOALS = (Goal("envoy", 1.0),)
CASES = (
    Case("1 kB", Wrk(32, nginx.path(KB), counts="megabytes"), GOALS),
    Case("10 kB", Wrk(32, nginx.path(10 * KB), counts="megabytes"), GOALS),
    Case("1 MB", Wrk(8, nginx.path(MB), counts="megabytes"), GOALS),
    Case("100 MB", Wrk(2, nginx.path(100 * MB), counts="megabytes"), GOALS),
    Case("1 MB sent", Wrk(8, nginx.SINK, script=upload(MB), sends_bytes=MB, counts="megabytes"), GOALS),
)

SCENARIO = Scenario(
    name="bodies",
    title="Bodies, HTTP/1.1, one hop",
    about=ABOUT,
    origin=nginx.origin(SIZES),
    contenders=(MESHD_HTTP1, ENVOY_HTTP1),
    cases=CASES,
    unit=MEGABYTES,
)
