"""The findings of `meshd check` for a person, laid out as `linkerd check` does, and as data.

meshd-time
----------
‼ the clocks of this host and of the CA agree
    this host is 200 s ahead of the CA
    hint: set the clock (NTP)
    see: docs/vm.md#meshd-time

Status check results are √
"""

from collections.abc import Iterable, Iterator
from typing import Any

from meshd.agent.check.kinds import Check, Result

SIGNS: dict[Result, str] = {"success": "√", "warning": "‼", "error": "×"}


def is_well(checks: Iterable[Check]) -> bool:
    """Whether nothing is an error: warnings leave it well."""
    return all(check.result != "error" for check in checks)


def as_text(checks: Iterable[Check]) -> str:
    checks = list(checks)
    return "".join(f"{line}\n" for line in _lines(checks))


def _lines(checks: list[Check]) -> Iterator[str]:
    category = ""
    for check in checks:
        if check.category != category:
            yield from ([""] if category else [])
            yield from (check.category, "-" * len(check.category))
            category = check.category
        yield f"{SIGNS[check.result]} {check.description}"
        yield from (f"    {line}" for line in check.message.splitlines())
        if check.result != "success":
            yield f"    hint: {check.hint}"
            yield f"    see: {check.see}"
    yield ""
    yield f"Status check results are {SIGNS['success' if is_well(checks) else 'error']}"


def as_data(checks: Iterable[Check]) -> dict[str, Any]:
    """The keys are those of `linkerd check -o json`, and an `id` that stays the same from version to version."""
    checks = list(checks)
    categories: dict[str, list[dict[str, str]]] = {}
    for check in checks:
        shown = {
            "id": check.id,
            "description": check.description,
            "hint": check.hint,
            "see": check.see,
            "error": check.message,
            "result": check.result,
        }
        rows = categories.setdefault(check.category, [])
        rows.append({key: value for key, value in shown.items() if value})
    return {
        "success": is_well(checks),
        "categories": [{"categoryName": name, "checks": rows} for name, rows in categories.items()],
    }
