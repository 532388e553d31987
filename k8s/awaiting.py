"""`meshd-await`: has something wait for the pod's proxy, or the proxy for something.

    meshd-await                        until the proxy is ready: the postStart hook of one that is no native sidecar
    meshd-await -- CMD …               and then be CMD
    meshd-await --shutdown -- CMD …    and run CMD to its end, then end the proxy: a Job's, which would outlive it
    meshd-await --sleep 10s            the preStop hook of a proxy that is to go on for a while

The kubelet starts containers in their order and waits for a postStart hook, so that the application starts when its
proxy is ready. Exit status 1 where that is not in time; that of CMD, 128 + N where signal N ended it, where there is
one. It imports little: it may run in every pod that starts. Its counterpart is `proxy.admin`; Linkerd's is called
linkerd-await.
"""

import argparse
import http.client
import os
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Final

from meshd import __version__
from meshd.api.durations import parse_duration
from meshd.api.first import end_in_order
from meshd.api.problems import Problem

DISABLED: Final = "MESHD_AWAIT_DISABLED"
"""Where this is in the environment there is no proxy, and CMD runs alone: an image may be used outside the mesh."""

LOOK_AGAIN_S: Final = 0.1
ANSWER_WITHIN_S: Final = 5.0
MAX_REASON: Final = 300
FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def parser() -> argparse.ArgumentParser:
    """What the command line may be."""
    made = argparse.ArgumentParser(
        prog="meshd-await",
        description="Wait until the pod's proxy is ready, and then run a command.",
        epilog=f"With {DISABLED} in the environment, whatever its value, no proxy is waited for or ended.",
    )
    made.add_argument("--port", metavar="PORT", type=int, default=4191, help="the proxy's admin port (4191)")
    made.add_argument(
        "--timeout", metavar="T", type=_duration, default=120.0, help="how long it may take, as in 90s (2m)"
    )
    what = made.add_mutually_exclusive_group()
    what.add_argument(
        "--shutdown",
        action="store_true",
        help="when the command has ended, end the proxy, which has to have been started with --shutdown-endpoint",
    )
    what.add_argument("--sleep", metavar="T", type=_duration, help="do nothing for so long, and end")
    made.add_argument("--version", action="version", version=f"meshd-await {__version__}")
    made.add_argument("command", metavar="CMD", nargs="*", help="what to run, after --")
    return made


def main() -> None:
    """The console script."""
    reads = parser()
    arguments = reads.parse_args()
    if arguments.shutdown and not arguments.command:
        reads.error("--shutdown goes with a command")
    end_in_order()  # and so end the proxy, where that is asked for
    try:
        sys.exit(_run(arguments))
    except Problem as problem:
        print(f"meshd-await: {problem}", file=sys.stderr)
        sys.exit(problem.exit_status)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.sleep is not None:
        time.sleep(arguments.sleep)
        return 0
    alone = DISABLED in os.environ
    if not arguments.shutdown or alone:
        if not alone:
            wait_until_ready(arguments.port, arguments.timeout)
        if arguments.command:
            _become(arguments.command)
        return 0
    try:
        wait_until_ready(arguments.port, arguments.timeout)
        return run(arguments.command)
    finally:
        shut_down(arguments.port)


# --- the proxy


def wait_until_ready(port: int, within_s: float) -> None:
    """Return when the proxy is ready; Problem, with what it waits for, when that is not within so many seconds."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            status, said = _ask("GET", port, "/ready")
            reason = "" if status == 200 else said
        except OSError as error:
            reason = f"nobody answers at its admin port {port}: {error.strerror or error}"
        except http.client.HTTPException as error:
            reason = f"what answers at its admin port {port} is no proxy: {type(error).__name__}"
        if not reason:
            return
        if time.monotonic() >= deadline:
            raise Problem(f"the proxy is not ready after {within_s:g} s: {reason}")
        time.sleep(LOOK_AGAIN_S)


def shut_down(port: int) -> None:
    """Have the proxy drain and end; where it does not hear of it, that is said, and changes nothing else."""
    try:
        status, said = _ask("POST", port, "/shutdown")
    except (OSError, http.client.HTTPException) as error:
        status, said = 0, str(error)
    if status != 200:
        print(f"meshd-await: the proxy at port {port} was not ended: {said}", file=sys.stderr)


def _ask(method: str, port: int, path: str) -> tuple[int, str]:
    """The status, and a line of what is said. OSError, HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_WITHIN_S)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        said = answer.read(MAX_REASON).decode("utf-8", "replace").splitlines()
        return answer.status, said[0] if said else f"status {answer.status}"
    finally:
        connection.close()


# --- the command


def _become(command: list[str]) -> None:
    try:
        os.execvp(command[0], command)  # noqa: S606 - that is what was asked for
    except OSError as error:
        raise _CannotRun(command, error) from error


def run(command: list[str]) -> int:
    """Run it to its end, as what the container would have run: it gets the signals that we get. Its exit status."""
    before = {each: signal.getsignal(each) for each in FORWARDED}
    pending: list[int] = []  # what came before there was anyone to have it
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int, _frame: FrameType | None) -> None:
        if child is None:
            pending.append(number)
        else:
            child.send_signal(number)

    for each in FORWARDED:
        signal.signal(each, forward)
    try:
        try:
            child = subprocess.Popen(command)  # noqa: S603 - that is what was asked for
        except OSError as error:
            raise _CannotRun(command, error) from error
        for number in pending:
            child.send_signal(number)
        status = child.wait()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    return 128 - status if status < 0 else status


class _CannotRun(Problem):
    """As a shell has it: 127 where there is no such program, 126 where it cannot be run."""

    def __init__(self, command: list[str], error: OSError) -> None:
        super().__init__(f"{command[0]} cannot be run: {error.strerror}")
        self.exit_status = 127 if isinstance(error, FileNotFoundError) else 126


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
