"""The page `/endpoints`: what this proxy measured of the endpoints that its workloads call. Pure.

Its types, and what they mean, are `meshd.api.measured`. A worker's page goes to its master, who makes one of them all.
"""

from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import parse_qs

import msgspec
from msgspec.structs import replace

from meshd.api.measured import MAX_MEASURED, Measured, MeasuredDestination, MeasuredEndpoint
from proxy.accrual import State
from proxy.destination import Destination
from proxy.endpoint import LiveEndpoint

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Measured).decode


def asked_for(query: str) -> str:
    """The service that a page's query names; empty for all of them."""
    return parse_qs(query, max_num_fields=16).get("service", [""])[-1]


def page(followed: Iterable[tuple[str, str, Destination]], service: str, now: float) -> bytes:
    """The page of what is followed (the workload, what it asked for, and the destination), of one service alone unless
    `service` is empty; `now` on the destinations' clock, s."""
    room, left_off = MAX_MEASURED, 0
    destinations = []
    for workload, authority, destination in followed:
        if service not in ("", destination.name):
            continue
        endpoints = destination.endpoints
        shown = tuple(_endpoints(endpoints[:room], now))
        room -= len(shown)
        left_off += len(endpoints) - len(shown)
        if shown:
            destinations.append(MeasuredDestination(workload, authority, destination.name, shown))
    return _encode(Measured(tuple(destinations), left_off))


def _endpoints(endpoints: Iterable[LiveEndpoint], now: float) -> Iterator[MeasuredEndpoint]:
    for live in endpoints:
        accrual = live.accrual
        out_s = max(0.0, accrual.out_until - now) if accrual.state is State.OUT else 0.0
        yield MeasuredEndpoint(
            live.endpoint.address,
            live.endpoint.port,
            live.endpoint.identity,
            accrual.state.value,
            "" if accrual.reason is None else accrual.reason.value,
            round(out_s, 3),
            accrual.failures,
            round(live.ewma.estimate(now) * 1000.0, 3),
            round(live.load(now) * 1000.0, 3),
            live.ewma.pending,
            live.open,
        )


def merged(pages: Iterable[tuple[int, bytes]]) -> bytes:
    """The pages of workers by their numbers as one; an empty page is of one that did not answer."""
    room, left_off = MAX_MEASURED, 0
    destinations: list[MeasuredDestination] = []
    silent: list[int] = []
    for number, content in pages:
        if not content:
            silent.append(number)
            continue
        measured = _decode(content)
        left_off += measured.left_off
        for each in measured.destinations:
            shown = each.endpoints[:room]
            room -= len(shown)
            left_off += len(each.endpoints) - len(shown)
            if shown:
                destinations.append(replace(each, endpoints=shown, worker=number))
    return _encode(Measured(tuple(destinations), left_off, tuple(silent)))
