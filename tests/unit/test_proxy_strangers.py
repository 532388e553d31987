"""What the inbound listener says of connections that did not prove themselves."""

import logging

import pytest

from meshd.api.tasks import Tasks
from proxy.inbound import Inbound, Strangers
from proxy.mesh.tls import HANDSHAKE_TIMEOUT_S
from proxy.stats import Stats
from proxy.sweep import Sweep


def test_a_connection_that_proved_nothing_in_its_time_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    inbound = Inbound("mesh.example", Stats(), Sweep(), Tasks("test"))
    strangers = Strangers(inbound)
    inbound.accepted, inbound.established = 5, 3
    with caplog.at_level(logging.WARNING):
        for second in range(int(HANDSHAKE_TIMEOUT_S)):
            strangers.sweep(float(second))
        assert caplog.messages == [], "their handshakes may still be under way"
        for second in range(int(HANDSHAKE_TIMEOUT_S), 60):
            strangers.sweep(float(second))
    assert caplog.messages == ["2 connections to the inbound listener were no peers of the mesh"]
