"""gRPC through one proxy, in plain text on both sides: calls that are answered with many messages."""

from bench.origins import grpc
from bench.scenario import Case, Scenario, Unit
from bench.scenarios.grpc import CONTENDERS, GOALS, load

MESSAGES = 100

SCENARIO = Scenario(
    name="grpc-stream",
    title="gRPC, one hop, server streaming",
    about=f"{MESSAGES} messages of {len(grpc.MESSAGE)} bytes in each answer, each in a DATA frame of its own.",
    origin=grpc.origin(MESSAGES),
    contenders=CONTENDERS,
    cases=(Case("32 calls at a time", load(MESSAGES), GOALS),),
    unit=Unit("messages/s", "message"),
)
