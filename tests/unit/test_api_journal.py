"""Log records in systemd's journal: the fields, the bytes that journald reads, and a journal that takes none."""

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.api.journal import MAX_VALUE_BYTES, Journal, entry, is_journal
from meshd.api.logs import about
from meshd.api.names import WorkloadName

WEB = WorkloadName("default", "web")


class Journald:
    """journald's socket: what was sent there."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "socket")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)

    def hears(self) -> dict[str, str]:
        """The next entry, read as journald reads it; empty when there is none."""
        try:
            data = self._socket.recv(1 << 20)
        except BlockingIOError:
            return {}
        found = {}
        while data:
            line, _, data = data.partition(b"\n")
            name, is_short, value = line.partition(b"=")
            if not is_short:
                length = int.from_bytes(data[:8], "little")
                value, end, data = data[8 : 8 + length], data[8 + length : 9 + length], data[9 + length :]
                assert end == b"\n"
            found[name.decode()] = value.decode()
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    made = Journald(tmp_path)
    yield made
    made.close()


@pytest.fixture
def log(journald: Journald) -> Iterator[logging.Logger]:
    """A logger that sends there, and waits no time."""
    handler = Journal("meshd-proxy", journald.path, patience_s=0.0)
    made = logging.Logger("proxy.connect")
    made.addHandler(handler)
    yield made
    handler.close()


def test_a_record_becomes_fields(journald: Journald, log: logging.Logger) -> None:
    known = about(workload=WEB, service="api.default:80", endpoint="192.0.2.5:8080")
    log.warning("%s is taken out", "it", extra=known)
    heard = journald.hears()
    assert heard.pop("CODE_FILE") == __file__
    assert int(heard.pop("CODE_LINE")) > 0
    assert heard == {
        "MESSAGE": "it is taken out",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "meshd-proxy",
        "LOGGER": "proxy.connect",
        "CODE_FUNC": "test_a_record_becomes_fields",
        "MESHD_WORKLOAD": "default/web",
        "MESHD_SERVICE": "api.default:80",
        "MESHD_ENDPOINT": "192.0.2.5:8080",
    }


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)]
)
def test_priorities(journald: Journald, log: logging.Logger, level: str, priority: int) -> None:
    getattr(log, level)("said")
    assert journald.hears()["PRIORITY"] == str(priority)


@pytest.mark.parametrize("text", ["two\nlines", "\n", "a=b\nPRIORITY=0\n", "…\nſ"])
def test_nobody_writes_a_field_that_is_not_his(journald: Journald, log: logging.Logger, text: str) -> None:
    log.info("%s", text, extra=about(peer=text))
    heard = journald.hears()
    assert (heard["MESSAGE"], heard["MESHD_PEER"], heard["PRIORITY"]) == (text, text, "6")


def test_a_traceback_is_of_the_message(journald: Journald, log: logging.Logger) -> None:
    try:
        int("within")
    except ValueError:
        log.exception("it failed")
    said = journald.hears()["MESSAGE"].splitlines()
    assert (said[0], said[-1]) == ("it failed", "ValueError: invalid literal for int() with base 10: 'within'")


def test_what_is_no_text_and_what_is_too_long() -> None:
    assert entry({"MESSAGE": "\udcff"}) == b"MESSAGE=\\udcff\n"
    assert entry({"MESSAGE": "x" * 10_000_000}) == b"MESSAGE=" + b"x" * MAX_VALUE_BYTES + b"\n"


def test_a_journal_that_hangs_hangs_nobody_and_what_was_lost_is_said(journald: Journald, log: logging.Logger) -> None:
    tries = 10_000
    for number in range(tries):
        log.info("%d", number)
    taken = 0
    while journald.hears():
        taken += 1
    assert 0 < taken < tries
    log.info("again")
    assert journald.hears()["MESSAGE"] == f"again ({tries - taken} entries before this one were lost)"
    log.info("and again")
    assert journald.hears()["MESSAGE"] == "and again"


def test_a_call_that_logs_wrongly_goes_on(
    journald: Journald, log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    log.info("%d", "one")
    assert journald.hears() == {}
    assert "TypeError" in capsys.readouterr().err


def test_a_journal_that_is_gone(journald: Journald, log: logging.Logger) -> None:
    Path(journald.path).unlink()
    log.info("to nobody")


def test_only_standard_error_that_is_the_journal_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as file:
        found = os.fstat(file.fileno())
        for stream, expected in (
            (f"{found.st_dev}:{found.st_ino}", True),
            (f"{found.st_dev}:{found.st_ino}1", False),
            (f"{found.st_dev}", False),
            ("", False),
        ):
            monkeypatch.setenv("JOURNAL_STREAM", stream)
            assert is_journal(file.fileno(), file.name) is expected
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert not is_journal(file.fileno(), str(tmp_path / "nowhere")), "lines still get there, entries do not"
