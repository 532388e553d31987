"""HTTP/1.1 through two proxies with mutual TLS and HTTP/2 between them: what a mesh costs the user.

Both proxies of a pair share the one core. The protocol is left to detection where meshd does that by default.
"""

from bench.configure import envoy
from bench.configure.meshd import inbound, outbound
from bench.contenders import ENVOY, MESHD
from bench.loads.wrk import Wrk
from bench.origins import nginx
from bench.scenario import Case, Claim, Contender, Goal, Scenario, Wiring


def _first(wiring: Wiring) -> str:
    second = envoy.cluster(wiring.between, h2=True, tls=envoy.mutual_out(wiring, "h2"))
    return envoy.bootstrap(wiring.admin[0], envoy.listener(wiring.listen, envoy.http()), second)


def _second(wiring: Wiring) -> str:
    listener = envoy.listener(wiring.between, envoy.http(), tls=envoy.mutual_in(wiring, "h2"))
    return envoy.bootstrap(wiring.admin[1], listener, envoy.cluster(wiring.origin))


MESHD_PAIR = Contender(
    MESHD,
    (outbound, inbound),
    claims=(
        Claim(0, r'^request_total\{.*server_id="spiffe://.*tls="true"'),
        Claim(1, r'^request_total\{.*client_id="spiffe://.*tls="true"'),
    ),
)
ENVOY_PAIR = Contender(
    ENVOY,
    (_first, _second),
    claims=(
        Claim(0, r"^cluster\.origin\.upstream_cx_http2_total: "),
        Claim(0, r"^cluster\.origin\.ssl\.versions\.TLSv1\.3: "),
        Claim(0, r"^cluster\.origin\.ssl\.curves\.X25519: "),
        Claim(1, r"^http\.http\.downstream_cx_http2_total: "),
        Claim(1, r"^listener\.127\.0\.0\.1_\d+\.ssl\.handshake: "),
    ),
)

SCENARIO = Scenario(
    name="pair",
    title="HTTP/1.1 through two proxies, mutual TLS and HTTP/2 between them",
    about="Both proxies of a pair are on the one core. Answers of 1,024 bytes.",
    origin=nginx.origin(),
    contenders=(MESHD_PAIR, ENVOY_PAIR),
    cases=(
        Case(
            "1 connection", Wrk(connections=1), (Goal("envoy", 1.0, "p50_added_ms"), Goal("envoy", 1.0, "p99_added_ms"))
        ),
        Case(
            "32 connections",
            Wrk(connections=32),
            (Goal("envoy", 1.3), Goal("envoy", 1.0, "p50_added_ms"), Goal("envoy", 1.0, "p99_added_ms")),
        ),
    ),
)
