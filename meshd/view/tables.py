"""Plain tables: a heading, columns as wide as their widest cell, two spaces between; for people, and for `awk`."""

from collections.abc import Sequence
from typing import Final

_NOT_SHOWN: Final = "?"


def cell(text: str) -> str:
    """What somebody else wrote, as a cell: nothing in it moves the cursor or ends the column; `-` for nothing."""
    return "".join(each if each.isprintable() and not each.isspace() else _NOT_SHOWN for each in text) or "-"


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines. Every row has a cell for each column, none of them empty, so that fields can be counted."""
    widths = [max(len(cell) for cell in column) for column in zip(heading, *rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (heading, *rows)]
