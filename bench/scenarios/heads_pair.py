"""HTTP/1.1 through two proxies with mutual TLS and HTTP/2 between them, where no head of a request comes twice."""

from bench.origins import nginx
from bench.scenario import Scenario
from bench.scenarios.heads import ABOUT, CASES
from bench.scenarios.pair import ENVOY_PAIR, MESHD_PAIR

SCENARIO = Scenario(
    name="heads-pair",
    title="Heads that differ in every request, through two proxies",
    about=f"Both proxies of a pair are on the one core. {ABOUT}",
    origin=nginx.origin(),
    contenders=(MESHD_PAIR, ENVOY_PAIR),
    cases=CASES,
)
