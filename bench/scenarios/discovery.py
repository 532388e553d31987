"""What an agent takes to follow many services of a Consul in which much changes."""

from bench.configure import agent
from bench.contenders import MESHD_AGENT
from bench.loads.registry import Changes
from bench.scenario import Case, Contender, Promise, Scenario, Unit

SERVICES, EACH, LASTING_S = 1_000, 10, 60.0

SCENARIO = Scenario(
    name="discovery",
    title="An agent that follows a thousand services",
    about="1,000 services with 10 endpoints each, in a real Consul, all of them watched as by a proxy; 100 changes a "
    "second for a minute. The agent holds 100 connections to Consul, as it does by default, at which services take "
    "turns. Latencies are from before a change is sent to Consul until the watcher has it; failures would be changes "
    "that never came.",
    origin=None,
    contenders=(Contender(MESHD_AGENT, (agent.on_consul,)),),
    cases=(Case("100 changes/s", Changes(SERVICES, EACH, LASTING_S), (Promise(30),)),),
    unit=Unit("% of a core", "change", more_is_better=False, digits=1),
    fresh=True,
    direct=False,
)
