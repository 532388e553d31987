"""New mutual TLS connections between two proxies: both relay opaque bytes, and every request comes on a connection of
its own. No session is resumed, by either."""

from bench.loads.wrk import Wrk
from bench.origins import nginx
from bench.scenario import Case, Goal, Scenario, Unit
from bench.scenarios.tcp_pair import ENVOY_TCP_PAIR, MESHD_TCP_PAIR

SCENARIO = Scenario(
    name="handshakes",
    title="New mutual TLS connections",
    about="Two proxies that relay TCP, both on the one core; each connection is a full handshake with P-256.",
    origin=nginx.origin(),
    contenders=(MESHD_TCP_PAIR, ENVOY_TCP_PAIR),
    cases=(Case("16 at a time", Wrk(connections=16, headers=("Connection: close",)), (Goal("envoy", 1.0),)),),
    unit=Unit("connections/s", "connection"),
)
