"""What an agent has of memory that follows many services of a Consul in which much changes."""

from bench.loads.registry import Changes
from bench.scenario import Case, Promise, Scenario, Unit
from bench.scenarios import discovery

SIZE = discovery.SERVICES, discovery.EACH

SCENARIO = Scenario(
    name="discovery-memory",
    title="Memory of an agent that follows a thousand services",
    about="As above, for ten seconds.",
    origin=None,
    contenders=discovery.SCENARIO.contenders,
    cases=(Case("10,000 endpoints", Changes(*SIZE, lasting_s=10.0, of_memory=True), (Promise(200),)),),
    unit=Unit("MB resident", "change", more_is_better=False, digits=1),
    fresh=True,
    direct=False,
)
