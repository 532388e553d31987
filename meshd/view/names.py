"""`meshd names show`, for people and for programs."""

from collections.abc import Iterable, Sequence
from typing import Any

from meshd.agent.names.table import Given
from meshd.view.tables import table


def as_data(listen: str, domains: Sequence[str], asks: str, given: Iterable[Given]) -> dict[str, Any]:
    """Where names are answered, for which domains, by which file the resolver asks (empty: it does not); and the
    addresses. Times are seconds since the epoch."""
    return {
        "listen": listen,
        "domains": list(domains),
        "resolver": asks,
        "names": [{"name": each.host, "v4": each.v4, "v6": each.v6, "usedAt": each.used_at} for each in _sorted(given)],
    }


def as_text(listen: str, domains: Sequence[str], asks: str, given: Iterable[Given]) -> str:
    """The same as a table."""
    head = f"{listen or 'names are not answered'}: {', '.join(domains)}\n"
    head += f"the resolver asks there: {asks}\n" if asks else "the resolver does not ask there: `meshd names install`\n"
    rows = [(each.host, each.v4, each.v6 or "-") for each in _sorted(given)]
    return head + ("\n".join(["", *table(("NAME", "ADDRESS", "IPV6"), rows), ""]) if rows else "")


def _sorted(given: Iterable[Given]) -> list[Given]:
    return sorted(given, key=lambda each: each.host.split(".")[::-1])
