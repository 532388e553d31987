"""The command line of the soak: `python -m tests.soak --duration 30m`."""

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
from pathlib import Path

from meshd.api.durations import parse_duration
from tests.soak.report import Report
from tests.soak.soak import Soak
from tests.soak.world import SoakFailed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests.soak", description="Traffic of every kind while processes come and go."
    )
    parser.add_argument("--duration", default="5m", help="of the traffic, as 90s, 30m, 2h (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when; 0: another each time")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="leave configuration and logs there")
    return parser.parse_args()


async def _soak(directory: Path, arguments: argparse.Namespace) -> Report:
    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    seed = arguments.seed or random.SystemRandom().randrange(1, 10**6)
    tell(f"seed {seed}, logs in {directory}")
    soak = Soak(directory, parse_duration(arguments.duration), seed, tell)
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return Report.of(await soak.run())
    finally:
        soak.world.kill()


def main() -> int:
    """Exit status 0: all held; 1: something did not; 130: interrupted."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="meshd-soak-", ignore_cleanup_errors=True) as made:
        directory = arguments.keep or Path(made)
        directory.mkdir(parents=True, exist_ok=True)
        try:
            report = asyncio.run(_soak(directory, arguments))
        except asyncio.CancelledError:
            print("soak: interrupted; its processes are ended", file=sys.stderr)
            return 130
        except SoakFailed as failed:
            print(f"soak: {failed}", file=sys.stderr)
            return 1
    print(json.dumps(report.values(), indent=2) if arguments.json else report.text())
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
