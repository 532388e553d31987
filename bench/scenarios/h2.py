"""HTTP/2 over TLS through one proxy, to an origin that speaks HTTP/1.1 in plain text."""

from bench.configure.meshd import one_hop
from bench.contenders import ENVOY, MESHD
from bench.loads.h2load import H2load
from bench.origins import nginx
from bench.scenario import Case, Claim, Contender, Goal, Scenario
from bench.scenarios.http1_tls import TLS_1_3, envoy_tls

CASES = (Case("8 connections × 4 streams", H2load(connections=8, streams=4, tls=True), (Goal("envoy", 1.2),)),)
CLAIMS = (TLS_1_3, Claim(0, r"^http\.http\.downstream_cx_http2_total: "))


SCENARIO = Scenario(
    name="h2",
    title="HTTP/2 over TLS to HTTP/1.1, one hop",
    about="TLS from the load to the proxy, P-256; answers of 1,024 bytes.",
    origin=nginx.origin(load="h2-tls"),
    contenders=(
        Contender(MESHD, (lambda wiring: one_hop(wiring, "auto", tls=True, origin="http1"),)),
        Contender(ENVOY, (envoy_tls,), claims=(*CLAIMS, Claim(0, r"^cluster\.origin\.upstream_cx_http1_total: "))),
    ),
    cases=CASES,
)
