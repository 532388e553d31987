"""All checks of a host, in the order in which they are shown."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

from meshd.agent import injecting, node
from meshd.agent.check import capture, host, kinds, mesh, proxy
from meshd.agent.check.kinds import Check
from meshd.agent.documents import Documents
from meshd.agent.health.probes import SYSTEMD
from meshd.agent.injecting import Places, Systemctl
from meshd.agent.names import checking
from meshd.agent.settings import Settings
from meshd.agent.settings_file import load_settings
from meshd.api.control import GetStatus, Status
from meshd.api.loading import ConfigurationError
from meshd.api.problems import Problem
from meshd.client import sockets
from meshd.client.connection import ask

CA_STATE = Path("/var/lib/meshd-ca")
"""Of a CA on this host, as it usually is."""


async def whole(file: Path) -> list[Check]:
    """Of a host with these settings. What cannot be known because of what is wrong before it is left out."""
    found = [*mesh.configuration(file)]
    try:
        settings = load_settings(file)
    except ConfigurationError:  # the first check has said so
        return found
    status = await _status(Path(settings.socket))
    found += _agent(status)
    found += await asyncio.to_thread(_system, file, settings, status)
    try:
        trust = mesh.trust_in_force(settings, file)
    except ConfigurationError:  # likewise
        return _ordered(found)
    except Problem as problem:
        hint = "move the file away, and restart the agent: it asks the CA again"
        return _ordered([*found, kinds.TRUST_READ.error(str(problem), hint)])
    workloads = () if isinstance(status, Problem) else status.workloads
    found += mesh.identity(settings, trust.bundle_pem, time.time())
    found += mesh.denials(settings, trust.denied, (each.identity for each in workloads))
    found += await mesh.authority(settings, trust.bundle_pem)
    found += await mesh.alone(settings, trust.bundle_pem, time.time())
    if not isinstance(status, Problem):
        found += await proxy.meshed(status, trust.bundle_pem, _node_file(settings))
    return _ordered(found)


async def embedded() -> list[Check]:
    """Of what `meshd run` started for its user."""
    return _agent(await _status(None))


def _agent(status: Status | Problem) -> list[Check]:
    """What the agent says of itself and of discovery."""
    now = time.time()
    found = [*mesh.agent(status, now)]
    return found if isinstance(status, Problem) else [*found, *mesh.discovery(status, now)]


def _system(file: Path, settings: Settings, status: Status | Problem) -> list[Check]:
    """What is below, and beside, the agent."""
    has_proxy = not isinstance(status, Problem) and status.proxy is not None and status.proxy.attached > 0
    documents = injecting.documents_of(file, settings)
    found = [host.room(Path(settings.state_dir))]
    found += [host.room(CA_STATE)] if CA_STATE.is_dir() else []
    found += host.listening(settings, has_proxy=has_proxy)
    found += checking.checks(settings)
    found += _units(file, settings, documents)
    if not isinstance(status, Problem):
        found += proxy.proxy(status)
        found += proxy.ready(status, documents.workloads())
    return found


def _units(file: Path, settings: Settings, documents: Documents) -> Iterator[Check]:
    captured, selectors = documents.captured(), documents.selectors()
    try:
        units = capture.Units.of(Places.of(file, settings), selectors)
    except Problem:  # there is no directory of documents, and so nothing that `meshd inject` wrote
        units = capture.Units((), selectors)
    manager = Systemctl() if Path(SYSTEMD).is_dir() else None
    if units:
        yield from host.under_units()
    if manager is not None:
        yield from capture.selected(units, manager)
    yield from capture.capture(settings, captured, units, manager)


def _node_file(settings: Settings) -> Path | None:
    file = Path(settings.state_dir, node.FILE_NAME)
    return None if settings.ca.token_file or not os.access(file, os.R_OK) else file


def _ordered(found: list[Check]) -> list[Check]:
    """Section by section."""
    return sorted(found, key=lambda each: kinds.SECTIONS.index(each.category))


async def _status(socket: Path | None) -> Status | Problem:
    try:
        return await ask(sockets.find(socket, os.environ), GetStatus(), Status)
    except Problem as problem:
        return problem
