"""Values as annotations and the installation's settings write them: ports, quantities, levels of the log.

    4567,8000-8010          ports: numbers and ranges
    100m  0.5  64Mi  1e3    quantities, as Kubernetes has them
    info                    a level of the proxy's log

Each reader raises ValueError that says what was found and what was expected. Names of ports are not numbers: whoever
knows the containers replaces them first.
"""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

Range = tuple[int, int]
"""First and last, both included."""

MAX_TEXT: Final = 4096
"""An annotation beyond this is no list of ports that somebody wrote."""

LEVELS: Final = ("debug", "info", "warning", "error")

_NUMBER: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_QUANTITY: Final = re.compile(
    r"([0-9]{1,18}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(?:(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)|[eE]([+-]?[0-9]{1,2}))?",
    re.ASCII,
)
_SUFFIXES: Final = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3")} | {
    letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)
} | {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)}  # fmt: skip

PORTS_EXPECTED: Final = "ports and ranges of them, with commas between, as in 4567,8000-8010"
QUANTITY_EXPECTED: Final = "a quantity as Kubernetes has them, as in 100m or 64Mi"


def port_ranges(text: str) -> tuple[Range, ...]:
    """The ports of a list, in its order; empty for an empty text."""
    return tuple(_range(part.strip()) for part in split_ports(text))


def split_ports(text: str) -> list[str]:
    """The parts of a list of ports, whatever they are."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"found {len(text)} characters; expected {PORTS_EXPECTED}, {MAX_TEXT} characters at most")
    parts = [part.strip() for part in text.split(",")]
    return parts if any(parts) else []


def _range(part: str) -> Range:
    first, dash, last = part.partition("-")
    if not _NUMBER.fullmatch(first) or (dash and not _NUMBER.fullmatch(last)):
        raise ValueError(f"found {part!r}; expected {PORTS_EXPECTED}")
    low, high = int(first), int(last or first)
    if not 1 <= low <= high <= 65535:
        raise ValueError(f"found {part!r}; expected ports from 1 to 65535, and the smaller of a range first")
    return low, high


def joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Ranges in order, what touches or overlaps made one."""
    made: list[Range] = []
    for low, high in sorted(ranges):
        if made and low <= made[-1][1] + 1:
            made[-1] = made[-1][0], max(made[-1][1], high)
        else:
            made.append((low, high))
    return tuple(made)


def written(ranges: Iterable[Range]) -> str:
    """Ranges as a list, in order, what touches or overlaps joined."""
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in joined(ranges))


def quantity(text: str) -> Decimal:
    """How much a quantity is, in its unit (cores, bytes)."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(f"found {text[:64]!r}; expected {QUANTITY_EXPECTED}")
    number, suffix, exponent = found.groups()
    return Decimal(number) * (_SUFFIXES[suffix] if suffix else Decimal(10) ** int(exponent or 0))


def check_request(request: str, limit: str, what: str) -> None:
    """ValueError where more is requested than the limit allows, which the API server would refuse; empty is nothing."""
    asked = quantity(request) if request else None
    allowed = quantity(limit) if limit else None
    if asked is not None and allowed is not None and asked > allowed:
        raise ValueError(f"found a {what} request of {request} and a limit of {limit}; expected no more than the limit")
