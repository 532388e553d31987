"""Plain tables: a heading, columns as wide as their widest cell, two spaces between; for people, and for `awk`."""

from collections.abc import Sequence


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines. Every row has a cell for each column, none of them empty, so that fields can be counted."""
    widths = [max(len(cell) for cell in column) for column in zip(heading, *rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (heading, *rows)]
