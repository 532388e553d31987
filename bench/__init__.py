"""The proxy beside other proxies, on one machine and in one run: `python -m bench`, or `make bench`.

    http1.py …      a scenario each: what is sent, and the configuration of every contender
    contenders.py   the programs that are compared, and how each is started
    origin.py       the server behind them
    load.py         the load generator
    measure.py      warm-up, alternating rounds, what a process costs
    report.py       the medians, as a table, as JSON, and in docs/performance.md

Each proxy is held to one core; origin and load generator get the others. A new scenario is one file and one line in
`SCENARIOS`.
"""

from importlib import import_module

from bench.scenario import Scenario

SCENARIOS = ("http1",)
"""The modules whose `SCENARIO` can be run, in the order in which they are."""


def scenario(name: str) -> Scenario:
    """The scenario of that name."""
    found = import_module(f"bench.{name}").SCENARIO
    assert isinstance(found, Scenario)
    return found
