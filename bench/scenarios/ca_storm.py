"""All hosts of a mesh start at the same moment, and each wants a certificate."""

from bench.configure import ca
from bench.contenders import MESHD_CA
from bench.loads.agents import Storm
from bench.scenario import Case, Contender, Promise, Scenario, Unit

AGENTS = 2_000

SCENARIO = Scenario(
    name="ca-storm",
    title="A mesh that restarts, at one CA",
    about="As when a CA comes back, or all hosts do: agents come within the second that their jitter makes of one "
    "moment. Each looks at the CA, asks for its bundle and has a certificate signed for a workload, on three "
    "connections, and comes again after the pauses of agents where it is not served in time. Seconds until the last "
    "has all three.",
    origin=None,
    contenders=(Contender(MESHD_CA, (ca.daemon(AGENTS),)),),
    cases=(Case("2,000 agents", Storm(AGENTS), (Promise(60),)),),
    unit=Unit("s until all are served", "agent", more_is_better=False, digits=1),
    fresh=True,
    direct=False,
)
