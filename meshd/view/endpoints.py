"""`meshd endpoints`: where services are, as discovery and as the proxies of this host know it, as a table and as data.

The first columns are those of `linkerd diagnostics endpoints`. What only proxies know is `-` where none here calls the
endpoint. The data is added to, never renamed; times are seconds since the epoch, latencies and loads milliseconds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from meshd.api.control import Endpoints, SourceSays
from meshd.api.endpoints import Endpoint
from meshd.api.measured import Measured, MeasuredDestination, MeasuredEndpoint
from meshd.api.names import Address
from meshd.api.problems import Problem
from meshd.view.figures import NOTHING, latency, span
from meshd.view.tables import cell, table

HEADING = (
    "NAMESPACE", "IP", "PORT", "SERVICE", "ZONE", "WEIGHT", "HEALTH", "SOURCE", "AGE", "LOAD", "IDENTITY",
)  # fmt: skip
WIDE = ("PROTOCOL", "INBOUND", "PENDING", "LATENCY", "EJECTED", "CALLERS", "LABELS")


class Asked(NamedTuple):
    """What was asked for in a namespace, what the agent said, and the proxies, by where their admin ports are."""

    authority: str
    namespace: str
    said: Endpoints
    proxies: Mapping[Address, Measured | Problem]


class Caller(NamedTuple):
    """What one caller, or one worker of its proxy, measured of an endpoint."""

    admin: Address
    destination: MeasuredDestination
    measured: MeasuredEndpoint


class Row(NamedTuple):
    """An endpoint of a service, the source that it is from, and those who call it here."""

    asked: Asked
    endpoint: Endpoint
    source: SourceSays | None
    callers: tuple[Caller, ...]

    @property
    def health(self) -> str:
        """The worst that is known: a proxy has taken it out, or tries it again, or nobody says it is there any more."""
        states = {caller.measured.state for caller in self.callers}
        if "out" in states:
            return "ejected"
        if "probing" in states:
            return "probing"
        found = self.asked.said.found
        stale = self.source.stale_since > 0.0 if self.source is not None else found is not None and found.stale
        return "stale" if stale else "ready"


def rows(asked: Asked) -> list[Row]:
    """An endpoint each, by address."""
    found = asked.said.found
    if found is None:
        return []
    sources = _sources(asked.said)
    callers = _callers(asked.proxies)
    every = [
        Row(
            asked,
            each,
            sources.get((each.address, each.port)),
            tuple(callers.get((each.address, each.port, each.identity), ())),
        )
        for each in found.endpoints
    ]
    return sorted(every, key=lambda row: (row.endpoint.address, row.endpoint.port))


def _sources(said: Endpoints) -> dict[tuple[str, int], SourceSays]:
    """Which source each endpoint is from: the first that has it."""
    found: dict[tuple[str, int], SourceSays] = {}
    for source in said.sources:
        for each in source.found.endpoints if source.found is not None else ():
            found.setdefault((each.address, each.port), source)
    return found


def _callers(proxies: Mapping[Address, Measured | Problem]) -> dict[tuple[str, int, str], list[Caller]]:
    found: dict[tuple[str, int, str], list[Caller]] = {}
    for admin, page in proxies.items():
        for destination in () if isinstance(page, Problem) else page.destinations:
            for each in destination.endpoints:
                caller = Caller(admin, destination, each)
                found.setdefault((each.address, each.port, each.identity), []).append(caller)
    return found


# --- for people ---------------------------------------------------------------------------------------------------


def as_text(every: Sequence[Asked], now: float, *, wide: bool = False) -> str:
    """The table of all of them; empty where there is no endpoint. `now` in seconds since the epoch."""
    lines = [_cells(row, now, wide) for asked in every for row in rows(asked)]
    return "".join(f"{line}\n" for line in table(HEADING + (WIDE if wide else ()), lines)) if lines else ""


def _cells(row: Row, now: float, wide: bool) -> tuple[str, ...]:
    endpoint, found, source = row.endpoint, row.asked.said.found, row.source
    assert found is not None, "there is a row"
    read_at = 0.0 if source is None else source.read_at
    load = max((caller.measured.load for caller in row.callers), default=None)
    cells = (
        cell(found.service.namespace),
        cell(endpoint.address),
        str(endpoint.port),
        cell(str(found.service)),
        cell(endpoint.zone),
        str(endpoint.weight),
        row.health,
        cell(found.source if source is None else source.source),
        span(now - read_at) if read_at else NOTHING,
        latency(load),
        cell(endpoint.identity),
    )
    return cells + _wide(row) if wide else cells


def _wide(row: Row) -> tuple[str, ...]:
    endpoint, seen = row.endpoint, [caller.measured for caller in row.callers]
    reasons = sorted({each.reason for each in seen if each.reason})
    callers = sorted({caller.destination.workload for caller in row.callers})
    labels = ",".join(f"{name}={value}" for name, value in sorted(endpoint.labels.items()))
    return (
        endpoint.protocol,
        str(endpoint.inbound_port) if endpoint.identity else NOTHING,
        str(sum(each.pending for each in seen)) if seen else NOTHING,
        latency(max((each.latency_ms for each in seen), default=None)),
        ",".join(reasons) or ("no" if seen else NOTHING),
        cell(",".join(callers)),
        cell(labels),
    )


def notes(asked: Asked, now: float) -> Iterator[str]:
    """What is to be known beside the table, a line each."""
    said, name = asked.said, asked.authority
    if said.standing == "unknown":
        yield f"{name}: no source knows such a service: {', '.join(each.source for each in said.sources) or 'none'}"
    elif said.standing == "cannot say":
        yield f"{name}: it cannot be said now whether there is such a service"
    elif said.found is not None and not said.found.endpoints:
        yield f"{name}: {said.found.service} has no endpoints at present"
    for source in said.sources:
        if source.standing == "cannot say":
            yield f"{name}: {source.source} cannot say: {source.trouble or 'it has not spoken yet'}"
        elif source.stale_since and source.standing == "known":
            yield f"{name}: {source.source} is stale for {span(now - source.stale_since)}: {source.trouble}"
        elif source.trouble:
            yield f"{name}: {source.source}: {source.trouble}"
    if said.left_off:
        yield f"{name}: {said.left_off} more endpoints are not shown"
    yield from _proxies(asked.proxies)


def _proxies(proxies: Mapping[Address, Measured | Problem]) -> Iterator[str]:
    for admin, page in proxies.items():
        if isinstance(page, Problem):
            yield str(page)
        elif page.silent:
            yield f"the proxy at {admin}: workers that did not answer: {', '.join(map(str, page.silent))}"


# --- for programs -------------------------------------------------------------------------------------------------


def as_data(every: Iterable[Asked], now: float) -> list[dict[str, Any]]:
    """One object for each service that was asked for."""
    return [_asked(asked, now) for asked in every]


def _asked(asked: Asked, now: float) -> dict[str, Any]:
    said, found = asked.said, asked.said.found
    return {
        "asked": asked.authority,
        "namespace": asked.namespace,
        "standing": said.standing,
        "service": None if found is None else str(found.service),
        "protocol": None if found is None else found.protocol,
        "stale": found is not None and found.stale,
        "endpoints": [_row(row) for row in rows(asked)],
        "left_off": said.left_off,
        "sources": [_says(source) for source in said.sources],
        "notes": list(notes(asked, now)),
    }


def _row(row: Row) -> dict[str, Any]:
    endpoint, found, source = row.endpoint, row.asked.said.found, row.source
    assert found is not None, "there is a row"
    return {
        "namespace": found.service.namespace,
        "ip": endpoint.address,
        "port": endpoint.port,
        "service": str(found.service),
        "identity": endpoint.identity,
        "inbound_port": endpoint.inbound_port,
        "protocol": endpoint.protocol,
        "weight": endpoint.weight,
        "zone": endpoint.zone,
        "labels": endpoint.labels,
        "health": row.health,
        "source": found.source if source is None else source.source,
        "read_at": 0.0 if source is None else source.read_at,
        "stale_since": 0.0 if source is None else source.stale_since,
        "callers": [_caller(caller) for caller in row.callers],
    }


def _caller(caller: Caller) -> dict[str, Any]:
    measured: dict[str, Any] = msgspec.to_builtins(caller.measured)
    for known in ("address", "port", "identity"):
        del measured[known]
    destination = caller.destination
    who = {"admin": str(caller.admin), "workload": destination.workload, "authority": destination.authority}
    return {**who, "worker": destination.worker, **measured}


def _says(source: SourceSays) -> dict[str, Any]:
    endpoints = () if source.found is None else source.found.endpoints
    return {
        "source": source.source,
        "standing": source.standing,
        "endpoints": [str(Address(each.address, each.port)) for each in endpoints],
        "left_off": source.left_off,
        "read_at": source.read_at,
        "changed_at": source.changed_at,
        "stale_since": source.stale_since,
        "trouble": source.trouble,
    }
