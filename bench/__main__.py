"""The command line of the benchmarks: `python -m bench [SCENARIO…]`."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from bench import SCENARIOS, lookups, machine, record, report, scenario, show
from bench.measure import USUAL, Options, measure
from meshd.api.problems import Problem

LOOKUPS = "lookups"
"""No comparison: what capture costs."""
NAMES = (*SCENARIOS, LOOKUPS)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Compare meshd's proxy with others on this machine.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(NAMES)}; all when none")
    parser.add_argument("--rounds", type=int, default=USUAL.rounds, help="rounds for each; 0: only check (%(default)s)")
    parser.add_argument("--seconds", type=float, default=USUAL.seconds, help="length of a round (%(default)s)")
    parser.add_argument(
        "--warm-up", type=float, default=USUAL.warm_up_s, help="seconds before them, 0 for none (%(default)s)"
    )
    parser.add_argument("--only", action="append", default=[], metavar="PROXY", help="only this one; can be repeated")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIRECTORY",
        help="write the JSON there, instead of to bench/results and into docs/performance.md",
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - set(NAMES):
        parser.error(f"no scenario {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}")
    return arguments


def main() -> int:
    """Run what was asked for; the exit status: 1 when something kept it from being measured."""
    arguments = _arguments()
    options = Options(
        rounds=max(0, arguments.rounds),
        seconds=arguments.seconds,
        warm_up_s=arguments.warm_up,
        only=frozenset(arguments.only),
    )
    here = machine.Machine.here()
    screen = Console(highlight=False, width=None if sys.stdout.isatty() else 132)
    notes = Console(stderr=True, highlight=False)
    try:
        for name in arguments.scenarios or NAMES:
            if name == LOOKUPS:
                for line in lookups.figures():
                    screen.print(f"capture, {line}", markup=False)
                continue
            chosen = scenario(name)
            entrants = measure(chosen, options, lambda line: notes.print(line, markup=False))
            if not options.rounds:
                screen.print(f"{name}: {', '.join(each.name for each in entrants)} do as they should")
                continue
            found = report.result(chosen, options, here, entrants)
            screen.print(f"{show.headline(found)}\n{here}", soft_wrap=True)
            screen.print(show.table(found))
            for sentence in show.sentences(found):
                screen.print(f"  {sentence}", soft_wrap=True)
            screen.print(f"  written to {record.write(found, arguments.results)}", soft_wrap=True)
    except Problem as problem:
        notes.print(f"bench: {name}: {problem}", markup=False)
        return problem.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
