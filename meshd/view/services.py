"""`meshd services`: what sources know of services, as a table and as data.

The data are the fields of `meshd.api.control.Services` under their own names, added to and never renamed; times are
seconds since the epoch.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from meshd.api.control import Services, ServiceStatus, Standing
from meshd.view.figures import NOTHING, span
from meshd.view.tables import cell, table

HEADING = ("NAMESPACE", "NAME", "PORT", "PROTOCOL", "MESHED", "SOURCE", "STATE", "AGE", "WATCHERS")
WIDE = ("CHANGED", "STALE_FOR")

STATES: dict[Standing, str] = {"known": "ok", "unknown": "unknown", "cannot say": "cannot-say"}


def as_text(services: Sequence[ServiceStatus], now: float, *, wide: bool = False) -> str:
    """The table; empty where there is no service. `now` in seconds since the epoch."""
    rows = [_cells(each, now, wide) for each in services]
    return "".join(f"{line}\n" for line in table(HEADING + (WIDE if wide else ()), rows)) if rows else ""


def _cells(service: ServiceStatus, now: float, wide: bool) -> tuple[str, ...]:
    known = service.standing == "known"
    cells = (
        cell(service.namespace),
        cell(service.name),
        str(service.port) if known else NOTHING,
        service.protocol if known else NOTHING,
        f"{service.meshed}/{service.endpoints}" if known else NOTHING,
        cell(service.source),
        "stale" if known and service.stale_since else STATES[service.standing],
        _ago(service.read_at, now),
        str(service.watchers),
    )
    return (*cells, _ago(service.changed_at, now), _ago(service.stale_since, now)) if wide else cells


def _ago(at: float, now: float) -> str:
    return span(now - at) if at else NOTHING


def notes(said: Services) -> Iterator[str]:
    """What is to be known beside the table, a line each: troubles, each once."""
    troubles = Counter((each.source, each.trouble) for each in said.services if each.trouble)
    for (source, trouble), count in troubles.items():
        yield f"{source}: {count} {'service' if count == 1 else 'services'}: {trouble}"
    if said.left_off:
        yield f"{said.left_off} more services are not shown"


def as_data(said: Services) -> dict[str, Any]:
    """It as JSON's and YAML's own types."""
    data: dict[str, Any] = msgspec.to_builtins(said)
    del data["type"]
    return data
