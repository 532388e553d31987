"""Connections between proxies that wait for the next relay."""

import asyncio

from meshd.api.endpoints import Endpoint
from proxy.endpoint import LiveEndpoint
from proxy.parked import Parked
from proxy.stats import HttpTraffic, Labels, TcpTraffic
from proxy.sweep import Sweep
from tests.support.wire import Wire

LABELS = Labels("outbound")


def test_a_connection_whose_loss_is_just_being_told_is_not_taken() -> None:
    """Its loss is told to who had it before: a relay that took it would wait for ever."""
    traffic = TcpTraffic(LABELS, "dst", True)
    live = LiveEndpoint(Endpoint("192.0.2.1", 80), 0.0, HttpTraffic(LABELS), traffic, traffic)
    wires = [Wire(Parked(live, Sweep())) for _ in range(2)]
    first, second = live.parked
    wires[0].abort()
    assert not first.take(asyncio.Protocol())
    assert second.take(asyncio.Protocol())
    assert live.parked == []
