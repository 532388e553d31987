"""`meshd-proxy`: the program. It reads the command line and runs what it asks for.

    meshd-proxy --config FILE             from a file, with no agent (see `proxy.static`)
    meshd-proxy --control SOCKET          from the agent that answers there
    meshd-proxy --controller HOST:PORT    from a cluster's controller, as a sidecar (see `proxy.controller`)

Exit status 0 after a drain, 1 where something outside was wrong, 2 for a wrong command line or file. What runs is in
`proxy.program`, alone or as a worker, or in `proxy.workers.master`; it is imported late, so that no process holds what
is for another to do.
"""

import argparse
import os
import resource
import sys
from pathlib import Path

from meshd import __version__
from meshd.api.control import MAX_WORKERS
from meshd.api.first import heed_as_first
from meshd.api.logs import log_to_stderr
from meshd.api.problems import Problem

NAME = "meshd-proxy"

WORKER = "MESHD_WORKER"
"""What a master tells its workers in the environment; see `proxy.workers.link`."""

SHUTDOWN_ENDPOINT = "MESHD_PROXY_SHUTDOWN_ENDPOINT"
"""Whether the admin port can be asked to end the proxy; see `proxy.admin`."""

CONTROLLER = "MESHD_PROXY_CONTROLLER"
"""Where the controller of the pod's cluster is; see `proxy.controller`."""

LOG = "MESHD_PROXY_LOG"

LOG_LEVELS = ("debug", "info", "warning", "error")

WORKERS = "MESHD_WORKERS"
"""How many the agent has asked for; see `proxy.alone`."""


def parser() -> argparse.ArgumentParser:
    """What the command line may be."""
    made = argparse.ArgumentParser(
        prog=NAME,
        description="The data plane of meshd.",
        epilog="Signals: TERM and INT drain, a second one ends at once; HUP reads the file again; USR2 starts a new "
        "generation of the program, which takes the listening sockets over.",
    )
    source = made.add_mutually_exclusive_group(required=CONTROLLER not in os.environ)
    source.add_argument("--config", metavar="FILE", type=Path, help="run from this file, with no agent")
    source.add_argument("--control", metavar="SOCKET", help="run as the agent at this Unix socket says")
    source.add_argument(
        "--controller",
        metavar="HOST:PORT",
        help=f"run as a cluster's controller says, in a pod ({CONTROLLER} in the environment)",
    )
    made.add_argument("--check", action="store_true", help="with --config: check the file and exit")
    made.add_argument(
        "--workers",
        metavar="N",
        type=_workers,
        help="processes that share the work, each on a core of its own (1, or with --control what the agent's settings "
        "say); auto: as many as there are cores for it",
    )
    made.add_argument(
        "--shutdown-endpoint",
        action="store_true",
        default=os.environ.get(SHUTDOWN_ENDPOINT, "") in ("1", "true"),
        help="drain and end also when a process on loopback says POST /shutdown at the admin port "
        f"({SHUTDOWN_ENDPOINT}=true in the environment)",
    )
    made.add_argument("--drain-timeout", metavar="S", type=float, default=30.0, help="seconds to finish in (30)")
    made.add_argument(
        "--log-level",
        choices=LOG_LEVELS,
        default=_log_level(),
        help=f"how much is logged (info, or {LOG} in the environment)",
    )
    made.add_argument("--version", action="version", version=f"meshd-proxy {__version__}")
    return made


def _log_level() -> str:
    """As the environment has it; what it has that is none is as nothing, since a pod is to start all the same."""
    level = os.environ.get(LOG, "").lower()
    return level if level in LOG_LEVELS else "info"


def _arguments() -> argparse.Namespace:
    reads = parser()
    arguments = reads.parse_args()
    if arguments.check and arguments.config is None:
        reads.error("--check goes with --config")
    if arguments.config is None and arguments.control is None and arguments.controller is None:
        arguments.controller = os.environ[CONTROLLER]
    return arguments


def _workers(text: str) -> int:
    """How many processes are asked for."""
    count = len(os.sched_getaffinity(0)) if text == "auto" else int(text) if text.isdecimal() else 0
    if not 0 < count <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number from 1 to {MAX_WORKERS} nor auto")
    return count


def main() -> None:
    """The console script."""
    heed_as_first()
    arguments = _arguments()
    try:
        _run(arguments)
    except Problem as problem:
        for line in str(problem).splitlines():
            print(f"meshd-proxy: {line}", file=sys.stderr)
        sys.exit(problem.exit_status)


def _run(arguments: argparse.Namespace) -> None:
    # ruff: noqa: PLC0415 - no process is to hold what is for another to do
    if WORKER in os.environ:
        _run_worker(arguments)
        return
    log_to_stderr(arguments.log_level, NAME)
    if arguments.check:
        from proxy import program

        program.check(arguments.config)
        return
    _raise_descriptor_limit()
    if (workers := arguments.workers or int(os.environ.pop(WORKERS, "1"))) > 1:
        from proxy.workers import master

        from_file, drain_s = arguments.config is not None, arguments.drain_timeout
        master.run(from_file, workers, drain_s, shutdown_endpoint=arguments.shutdown_endpoint)
    else:
        from proxy import alone, program

        instance = os.environ.pop("MESHD_INSTANCE", "")
        program.run(arguments, alone.Alone(instance), instance)


def _run_worker(arguments: argparse.Namespace) -> None:
    from proxy import program
    from proxy.workers import link, worker

    ends = link.received()
    log_to_stderr(arguments.log_level, NAME, f"worker {ends.number}")
    _raise_descriptor_limit()
    program.run(arguments, worker.Worker(ends), os.environ.pop("MESHD_INSTANCE", ""))


def _raise_descriptor_limit() -> None:
    """A connection is a descriptor or two; the soft limit of 1024 is for programs that call select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
