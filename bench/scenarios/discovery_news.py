"""How soon an endpoint that is registered in Consul is asked."""

from bench.configure import agent
from bench.contenders import MESHD_AGENT
from bench.loads.registry import News
from bench.scenario import Case, Contender, Promise, Scenario, Unit

SCENARIO = Scenario(
    name="discovery-news",
    title="From a registration in Consul to the first request",
    about="Endpoints of a service are registered in a real Consul one after another, while callers ask the service "
    "through the host's proxy: from Consul's answer to the first answer of the new endpoint, which has a tenth of its "
    "share to begin with.",
    origin=None,
    contenders=(Contender(MESHD_AGENT, (agent.on_consul,)),),
    cases=(Case("8 callers", News(100), (Promise(1_000),)),),
    unit=Unit("ms, 99 of 100 within", "registration", more_is_better=False),
    fresh=True,
    direct=False,
)
