"""Times written with their unit: `500ms`, `10s`, `1m30s`, `2h`; on the command line and in documents.

    duration = 1*( number unit ), each unit at most once and the larger before the smaller
    unit     = "h" / "m" / "s" / "ms"

`10`, `1s1m`, `-1s` and `1 s` are refused: a bare number has no unit, and the others are slips.
"""

import re

_DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9})ms)?", re.ASCII)

_UNITS_S = (3600.0, 60.0, 1.0, 0.001)


def parse_duration(text: str) -> float:
    """The duration in seconds; ValueError when text is not one."""
    found = _DURATION.fullmatch(text)
    if found is None or not text:
        raise ValueError(f"{text!r} is not a duration, as in 500ms, 10s, 1m30s or 2h")
    return sum(float(part) * unit_s for part, unit_s in zip(found.groups(), _UNITS_S, strict=True) if part)
