"""What the marks of rings 4 and 5 mean: a test that lacks what it needs is skipped, and the closing lines say why."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

from tests.support import peers

# No test is timed: on a busy machine a pause of a few hundred milliseconds is nobody's fault. Each has fifty examples,
# others in every run, since the ring is to take seconds; `make fuzz` is for more.
hypothesis.settings.register_profile("meshd", deadline=None, max_examples=50)
hypothesis.settings.load_profile("meshd")


def pytest_configure() -> None:
    """Whoever ignores a signal has all below ignore it, and the mesh honours that: nohup does so with SIGHUP, a shell
    that runs a command in the background with SIGINT and SIGQUIT. What is tested is what others meet."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    # Else each of the thousands of processes that tests start would compile the mesh anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("peer"):
        if reason := peers.why_missing(mark.args):
            pytest.skip(reason)
    if item.get_closest_marker("host") and (os.geteuid() != 0 or not Path("/run/systemd/system").is_dir()):
        pytest.skip("needs root on a host that systemd booted")
