"""Bodies of several sizes through two proxies with mutual TLS and HTTP/2 between them."""

from bench.origins import nginx
from bench.scenario import Scenario
from bench.scenarios.bodies import ABOUT, CASES, MEGABYTES, SIZES
from bench.scenarios.pair import ENVOY_PAIR, MESHD_PAIR

SCENARIO = Scenario(
    name="bodies-pair",
    title="Bodies through two proxies, mutual TLS and HTTP/2 between them",
    about=f"Both proxies of a pair are on the one core. {ABOUT}",
    origin=nginx.origin(SIZES),
    contenders=(MESHD_PAIR, ENVOY_PAIR),
    cases=CASES,
    unit=MEGABYTES,
)
