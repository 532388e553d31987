"""What a CA takes of memory: alone, and with a mesh that follows its bundle."""

from bench.configure import ca
from bench.contenders import MESHD_CA
from bench.loads.agents import Follow
from bench.scenario import Case, Contender, Promise, Scenario, Unit

AGENTS = 2_000

SCENARIO = Scenario(
    name="ca-memory",
    title="Memory of one CA",
    about="Resident memory, started anew for each round: the most there is while agents, as in the storm, follow the "
    "bundle for half a minute after they were served.",
    origin=None,
    contenders=(Contender(MESHD_CA, (ca.daemon(AGENTS),)),),
    cases=(
        Case("no agents", Follow(0), (Promise(80),)),
        Case("2,000 agents", Follow(AGENTS), (Promise(80),)),
    ),
    unit=Unit("MB resident", "agent", more_is_better=False, digits=1),
    fresh=True,
    direct=False,
)
