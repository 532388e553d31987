"""How long the API server waits for the injector when a pod is made."""

from dataclasses import replace

from bench.contenders import python
from bench.loads.reviews import Reviews
from bench.origins import injector
from bench.scenario import Case, Contender, Promise, Scenario, Unit

INJECTOR = replace(python(injector.__name__), name="meshd", version=("-m", "meshd.cli", "version"))

SCENARIO = Scenario(
    name="inject",
    title="Pods through the injector",
    about="Reviews of pods with three containers, as a real API server sent them, over TLS 1.3 on connections that are "
    "kept; each is answered with a patch.",
    origin=None,
    contenders=(Contender(INJECTOR, (injector.configuration,)),),
    cases=(
        Case("one at a time", Reviews(1), (Promise(5, "p99_ms"),)),
        Case("eight at once", Reviews(8), (Promise(5, "p99_ms"),)),
    ),
    unit=Unit("reviews/s", "review"),
    direct=False,
)
