"""A page of the documentation that says what to type: the commands of its sections, for a test to type them."""

import re
from collections.abc import Mapping
from pathlib import Path

from tests.support.packages import ROOT

_HEREDOC = re.compile(r"<<'(\w+)'")


class Guide:
    """`docs/NAME`. What nobody typed can be asked for (`untyped`), so that no command of it goes untried."""

    def __init__(self, name: str) -> None:
        self._blocks = sections(Path(ROOT, "docs", name).read_text(encoding="utf-8"))
        self._typed: set[str] = set()

    def commands(self, section: str, words: Mapping[str, str] | None = None) -> list[str]:
        """Those of a section, in order, with `words` of the page in place of which others are to be written."""
        assert section in self._blocks, f"there is no section {section!r} with commands, but {sorted(self._blocks)}"
        self._typed.add(section)
        found = [command for block in self._blocks[section] for command in split(block)]
        for word, other in (words or {}).items():
            assert any(word in command for command in found), f"{section}: there is no {word}"
            found = [command.replace(word, other) for command in found]
        return found

    def untyped(self) -> set[str]:
        """The sections whose commands nobody asked for."""
        return set(self._blocks) - self._typed


def sections(text: str) -> dict[str, list[str]]:
    """Heading → its blocks of code, of those that have any."""
    found: dict[str, list[str]] = {}
    heading = ""
    block: list[str] | None = None
    for line in text.splitlines():
        if line.startswith("```"):
            if block is None:
                block = []
            else:
                found.setdefault(heading, []).append("\n".join(block))
                block = None
        elif block is not None:
            block.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    return found


def split(block: str) -> list[str]:
    """The commands of a block: a line each, but with the line that follows one which ends in a backslash, and with the
    document that follows where one does."""
    found: list[str] = []
    end = None
    for line in block.splitlines():
        if end is not None:
            found[-1] += f"\n{line}"
            end = None if line == end else end
        elif found and found[-1].endswith("\\"):
            found[-1] += f"\n{line}"
        elif line.strip():
            found.append(line)
            heredoc = _HEREDOC.search(line)
            end = heredoc[1] if heredoc else None
    return found
