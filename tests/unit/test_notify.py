"""How often a service manager wants to hear that a daemon lives, and when it is not spoken to any more."""

import os

import pytest

from meshd.api.notify import leave_manager, watchdog_every_s


@pytest.mark.parametrize(
    ("variables", "every_s"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "60000000"}, 20),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 20),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({"WATCHDOG_USEC": "0"}, 0),
    ],
)
def test_the_watchdog(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], every_s: float) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert watchdog_every_s() == every_s
    assert "WATCHDOG_PID" not in os.environ, "a later generation has another number"
    monkeypatch.undo()


def test_whom_another_process_speaks_for_says_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.setenv(name, "1")
    leave_manager()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & os.environ.keys()
