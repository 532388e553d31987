"""The proxy beside other proxies, CA and agent, on one machine and in one run: `python -m bench`, or `make bench`.

    scenarios/      a file each: what is sent, the configuration of every contender, and what is promised
    contenders.py   the programs that are compared, and how each is started
    configure/      the pieces of their configurations
    origins/        the servers behind them
    loads/          the load generators
    start.py        contenders and origin, started and held to a core
    measure.py      warm-up, alternating rounds, what a process costs
    report.py       medians, ratios and goals
    show.py         the same as a table and as Markdown
    record.py       the same as JSON, and in docs/performance.md

Each proxy is held to one core; origin and load generator get the others. A new scenario is one file and one line in
`SCENARIOS`.
"""

from importlib import import_module

from bench.scenario import Scenario

SCENARIOS = (
    *("http1", "http1-tls", "h2", "h2c", "heads", "pair", "heads-pair", "grpc", "grpc-stream", "tcp", "tcp-pair"),
    *("handshakes", "memory", "bodies", "bodies-pair", "ca", "ca-storm", "ca-memory"),
    *("discovery", "discovery-memory", "discovery-news", "controller", "inject"),
)
"""Those that there are, in the order in which they are run and shown."""


def scenario(name: str) -> Scenario:
    """The scenario of that name."""
    found = import_module(f"bench.scenarios.{name.replace('-', '_')}").SCENARIO
    assert isinstance(found, Scenario)
    return found
