"""Opaque bytes through one proxy, in plain text."""

from bench.configure import envoy
from bench.configure.meshd import one_hop
from bench.contenders import ENVOY, MESHD
from bench.loads.drain import Drain
from bench.origins import pour
from bench.scenario import Case, Contender, Goal, Scenario, Unit, Wiring

GIGABITS = Unit("Gbit/s", "MB", digits=2)
CASES = (Case("4 connections", Drain(connections=4), (Goal("envoy", 1.2),)),)


def _envoy(wiring: Wiring) -> str:
    return envoy.bootstrap(wiring.admin[0], envoy.listener(wiring.listen, envoy.tcp()), envoy.cluster(wiring.origin))


SCENARIO = Scenario(
    name="tcp",
    title="TCP, one hop",
    about="Bytes from the origin, as fast as they are read.",
    origin=pour.origin(),
    contenders=(Contender(MESHD, (lambda wiring: one_hop(wiring, "tcp"),)), Contender(ENVOY, (_envoy,))),
    cases=CASES,
    unit=GIGABITS,
)
