"""What the agent remembers over a restart."""

import logging
from pathlib import Path

import pytest

from meshd.agent.memory import Memory
from meshd.api.names import WorkloadName

WEB, API = WorkloadName("default", "web"), WorkloadName("shop", "api")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "announced.json"


def test_what_was_kept_is_recalled_in_the_same_boot_alone(file: Path) -> None:
    assert Memory(file, "boot 1").recall() == frozenset()
    memory = Memory(file, "boot 1")
    memory.keep({WEB})
    memory.keep({WEB, API})
    assert Memory(file, "boot 1").recall() == {WEB, API}
    assert Memory(file, "boot 2").recall() == frozenset()


def test_the_kernel_names_the_boot(file: Path) -> None:
    Memory(file).keep({WEB})
    assert Memory(file).recall() == {WEB}


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"boot":"b","workloads":["X"]}', '{"boot":"b","workloads":[1]}', "\xff"]
)
def test_a_file_that_makes_no_sense_is_said_and_forgotten(
    file: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(text, encoding="latin-1")
    assert Memory(file, "b").recall() == frozenset()
    assert "what was announced before is not known" in caplog.text


def test_a_directory_that_is_gone_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Memory(tmp_path / "gone" / "announced.json", "b").keep({WEB})
    assert "cannot be written: No such file or directory" in caplog.text


def test_the_file_is_written_only_when_something_changed(file: Path) -> None:
    memory = Memory(file, "b")
    memory.keep({WEB})
    file.unlink()
    memory.keep({WEB})
    assert not file.exists()
    memory.keep(frozenset())
    assert file.exists()
