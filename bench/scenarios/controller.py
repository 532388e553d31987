"""What a controller takes for a thousand sidecars, and how soon they know of a change."""

from bench.configure import controller
from bench.contenders import MESHD_CA
from bench.loads.sidecars import Watch
from bench.scenario import Case, Contender, Promise, Scenario, Unit

SIDECARS, SERVICES = 1_000, 100

SCENARIO = Scenario(
    name="controller",
    title="A controller of a thousand sidecars",
    about="1,000 sidecars, each a connection with mutual TLS that watches 100 services of a cluster with 10 endpoints "
    "each; the API server is the double of the tests. 50 endpoints are replaced one after the other. Latencies are "
    "from before the API server is told until a sidecar has read it, over all sidecars; failures would be changes that "
    "never came.",
    origin=None,
    contenders=(Contender(MESHD_CA, (controller.command,)),),
    cases=(Case("100 services each", Watch(SIDECARS, SERVICES), (Promise(300), Promise(1_000, of="p99_ms"))),),
    unit=Unit("MB resident", "sidecar", more_is_better=False, digits=1),
    fresh=True,
    direct=False,
)
