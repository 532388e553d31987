"""Every verb is there, explains itself, and can be completed."""

import subprocess
import sys
from importlib import import_module

import pytest
from click.testing import CliRunner, Result

from meshd.cli import cli
from meshd.cli.verbs import VERBS


def meshd(*words: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(cli, words, prog_name="meshd")


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_verb_explains_itself(verb: str) -> None:
    result = meshd(verb, "--help")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: meshd {verb}")


def test_the_verbs_are_listed_with_the_first_sentence_of_their_help() -> None:
    found = {name: import_module(verb.module).command for name, verb in VERBS.items()}
    listed = {name: verb.summary for name, verb in VERBS.items()}
    assert listed == {name: command.get_short_help_str(len(command.help)) for name, command in found.items()}


def test_a_list_of_verbs_imports_none_and_a_verb_what_it_needs() -> None:
    script = """
import sys
from click.testing import CliRunner
from meshd.cli import cli

for words in ["--help"], ["status", "--help"], ["names", "--help"], ["inject", "--help"]:
    assert CliRunner().invoke(cli, words).exit_code == 0
    print(*sorted({name.partition(".")[0] for name in sys.modules} | set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    listed, *explained = [set(line.split()) for line in done.stdout.splitlines()]
    assert not listed & {verb.module for verb in VERBS.values()}
    assert not listed & {"asyncio", "ssl", "uvloop", "yaml"}
    for loaded in explained:
        assert not loaded & {"aiohttp", "cryptography", "kubernetes_asyncio", "yaml"}
    assert "meshd.cli.inject" in explained[-1]


def test_a_verb_that_is_none_is_a_misuse() -> None:
    result = meshd("fly")
    assert result.exit_code == 2
    assert "No such command 'fly'" in result.output


@pytest.mark.parametrize(("shell", "mark"), [("bash", "complete "), ("zsh", "#compdef meshd"), ("fish", "complete ")])
def test_a_shells_completion_script_asks_meshd(shell: str, mark: str) -> None:
    result = meshd("completion", shell)
    assert result.exit_code == 0
    assert mark in result.output
    assert f"_MESHD_COMPLETE={shell}_complete" in result.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [("meshd st", {"status"}), ("meshd completion ", {"bash", "zsh", "fish"}), ("meshd status -o w", {"wide"})],
)
def test_what_is_typed_is_completed(words: str, expected: set[str]) -> None:
    environment = {
        "_MESHD_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)
    }  # fmt: skip
    result = CliRunner(env=environment).invoke(cli, [], prog_name="meshd")
    assert {line.partition(",")[2] for line in result.output.splitlines()} == expected
