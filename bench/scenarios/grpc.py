"""gRPC through one proxy, in plain text on both sides: calls that have one message each way."""

from bench.configure import envoy
from bench.configure.meshd import one_hop
from bench.contenders import ENVOY, MESHD
from bench.loads.h2load import H2load
from bench.origins import grpc
from bench.scenario import Case, Claim, Contender, Goal, Scenario, Unit, Wiring

REQUEST = b"\0" + len(grpc.MESSAGE).to_bytes(4, "big") + grpc.MESSAGE
FIELDS = ("content-type: application/grpc", "te: trailers")
GOALS = (Goal("envoy", 1.2),)


def _envoy(wiring: Wiring) -> str:
    return envoy.bootstrap(
        wiring.admin[0], envoy.listener(wiring.listen, envoy.http("HTTP2")), envoy.cluster(wiring.origin, h2=True)
    )


CONTENDERS = (
    Contender(MESHD, (lambda wiring: one_hop(wiring, "grpc"),)),
    Contender(ENVOY, (_envoy,), claims=(Claim(0, r"^cluster\.origin\.upstream_cx_http2_total: "),)),
)


def load(messages: int) -> H2load:
    """Calls on 4 connections, 8 at a time on each."""
    return H2load(4, 8, "/bench.Origin/Call", FIELDS, REQUEST, per_request=messages)


SCENARIO = Scenario(
    name="grpc",
    title="gRPC, one hop, unary calls",
    about=f"Messages of {len(grpc.MESSAGE)} bytes, one each way; 4 connections with 8 calls at a time on each.",
    origin=grpc.origin(messages=1),
    contenders=CONTENDERS,
    cases=(Case("32 calls at a time", load(messages=1), GOALS),),
    unit=Unit("calls/s", "call"),
)
