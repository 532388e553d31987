"""New connections through two proxies with mutual TLS between them: both relay opaque bytes, and every request comes on
a connection of its own. Envoy makes a full handshake for each; meshd uses a connection whose relay ended in order for
the next, so that most of them need none."""

from bench.loads.wrk import Wrk
from bench.origins import nginx
from bench.scenario import Case, Goal, Scenario, Unit
from bench.scenarios.tcp_pair import ENVOY_TCP_PAIR, MESHD_TCP_PAIR

SCENARIO = Scenario(
    name="handshakes",
    title="New connections through mutual TLS",
    about="Two proxies that relay TCP, both on the one core. Envoy makes a full handshake (P-256) for each connection; "
    "meshd uses one whose relay has ended in order for the next.",
    origin=nginx.origin(),
    contenders=(MESHD_TCP_PAIR, ENVOY_TCP_PAIR),
    cases=(Case("16 at a time", Wrk(connections=16, headers=("Connection: close",)), (Goal("envoy", 1.0),)),),
    unit=Unit("connections/s", "connection"),
)
