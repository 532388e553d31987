"""HTTP/2 over TLS through one proxy, to an origin that speaks HTTP/2 in plain text."""

from bench.configure import envoy
from bench.configure.meshd import one_hop
from bench.contenders import ENVOY, MESHD
from bench.origins import nginx
from bench.scenario import Claim, Contender, Scenario, Wiring
from bench.scenarios.h2 import CASES, CLAIMS


def _envoy(wiring: Wiring) -> str:
    listener = envoy.listener(wiring.listen, envoy.http(), tls=envoy.terminate(wiring, "h2", "http/1.1"))
    return envoy.bootstrap(wiring.admin[0], listener, envoy.cluster(wiring.origin, h2=True))


SCENARIO = Scenario(
    name="h2c",
    title="HTTP/2 over TLS to HTTP/2 in plain text, one hop",
    about="TLS from the load to the proxy, P-256; answers of 1,024 bytes.",
    origin=nginx.origin(load="h2-tls", h2c=True),
    contenders=(
        Contender(MESHD, (lambda wiring: one_hop(wiring, "auto", tls=True, origin="http2"),)),
        Contender(ENVOY, (_envoy,), claims=(*CLAIMS, Claim(0, r"^cluster\.origin\.upstream_cx_http2_total: "))),
    ),
    cases=CASES,
)
