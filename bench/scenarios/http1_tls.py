"""HTTP/1.1 through one proxy that ends the clients' TLS; plain text to the origin."""

from bench.configure import envoy
from bench.configure.meshd import one_hop
from bench.contenders import ENVOY, MESHD
from bench.loads.wrk import Wrk
from bench.origins import nginx
from bench.scenario import Case, Claim, Contender, Goal, Scenario, Wiring

TLS_1_3 = Claim(0, r"^listener\.127\.0\.0\.1_\d+\.ssl\.versions\.TLSv1\.3: ")


def envoy_tls(wiring: Wiring) -> str:
    """Envoy that ends the clients' TLS, of either version of HTTP; plain text to the origin."""
    listener = envoy.listener(wiring.listen, envoy.http(), tls=envoy.terminate(wiring, "h2", "http/1.1"))
    return envoy.bootstrap(wiring.admin[0], listener, envoy.cluster(wiring.origin))


SCENARIO = Scenario(
    name="http1-tls",
    title="HTTP/1.1 over TLS, one hop",
    about="TLS from the load to the proxy, P-256; answers of 1,024 bytes.",
    origin=nginx.origin(load="http1-tls"),
    contenders=(
        Contender(MESHD, (lambda wiring: one_hop(wiring, "auto", tls=True),)),
        Contender(ENVOY, (envoy_tls,), claims=(TLS_1_3,)),
    ),
    cases=(Case("32 connections", Wrk(connections=32, tls=True), (Goal("envoy", 1.7),)),),
)
