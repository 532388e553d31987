"""`meshd-proxy`: the program. It reads the command line and runs what it asks for.

    meshd-proxy --config FILE       from a file, with no agent (see `proxy.static`)
    meshd-proxy --control SOCKET    from the agent that answers there

Exit status 0 after a drain, 1 where something outside was wrong, 2 for a wrong command line or file. What runs is in
`proxy.program`; it is imported late, so that no process holds what is for another to do.
"""

import argparse
import logging
import resource
import sys
from pathlib import Path

from meshd import __version__
from meshd.api.logs import Lines
from meshd.api.problems import Problem


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="meshd-proxy",
        description="The data plane of meshd.",
        epilog="Signals: TERM and INT drain, a second one ends at once; HUP reads the file again; USR2 starts a new "
        "generation of the program, which takes the listening sockets over.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", metavar="FILE", type=Path, help="run from this file, with no agent")
    source.add_argument("--control", metavar="SOCKET", help="run as the agent at this Unix socket says")
    parser.add_argument("--check", action="store_true", help="with --config: check the file and exit")
    parser.add_argument("--drain-timeout", metavar="S", type=float, default=30.0, help="seconds to finish in (30)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument("--version", action="version", version=f"meshd-proxy {__version__}")
    arguments = parser.parse_args()
    if arguments.check and arguments.config is None:
        parser.error("--check goes with --config")
    return arguments


def main() -> None:
    """The console script."""
    arguments = _arguments()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logging.basicConfig(level=arguments.log_level.upper(), handlers=[handler])
    try:
        _run(arguments)
    except Problem as problem:
        for line in str(problem).splitlines():
            print(f"meshd-proxy: {line}", file=sys.stderr)
        sys.exit(problem.exit_status)


def _run(arguments: argparse.Namespace) -> None:
    from proxy import program  # noqa: PLC0415 - see the module

    if arguments.check:
        program.check(arguments.config)
    else:
        _raise_descriptor_limit()
        program.run(arguments)


def _raise_descriptor_limit() -> None:
    """A connection is a descriptor or two; the soft limit of 1024 is for programs that call select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
