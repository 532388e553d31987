"""What a unit waits for before it starts: that it is captured, and that the host's proxy can carry what it sends.

    the kernel    has the rule for the slice that is there now, and not for one that was there before
    the proxy     is ready, but for certificates of others; it says so itself, so that no agent is needed
    the agent     if it answers, has the workload

`wait` ends at a deadline: what a unit does then is its operator's choice (`capture.failOpen`). The counterpart is the
drop-in of `meshd inject` (`meshd.capture.injection`), which has the unit run `meshd capture wait` first.
"""

import asyncio
import http.client
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from meshd.agent.settings import Settings
from meshd.api.control import GetStatus, Status
from meshd.api.names import Address, WorkloadName
from meshd.api.problems import Problem
from meshd.capture import nft, slices
from meshd.client.connection import ask

LOOK_AGAIN_S: Final = 0.25
ANSWER_WITHIN_S: Final = 2.0
MAX_ANSWER_BYTES: Final = 64 << 10
MAX_SAID: Final = 400

_CERTIFICATE: Final = re.compile(r"(?:worker \d+: )?certificate of (.+)")


async def wait(settings: Settings, workload: WorkloadName, within_s: float, say: Callable[[str], None]) -> str:
    """What is missing still when that time is over; empty as soon as nothing is. `say` hears what is waited for."""
    deadline, said = time.monotonic() + within_s, ""
    while missing := await lacking(settings, workload):
        if time.monotonic() >= deadline:
            return missing
        if missing != said:
            say(f"waiting for the mesh: {missing}")
        said = missing
        await asyncio.sleep(LOOK_AGAIN_S)
    return ""


async def lacking(settings: Settings, workload: WorkloadName, mount: Path = slices.MOUNT) -> str:
    """The first thing that is missing now, and where to look; empty when nothing is."""
    if not settings.capture.enabled:
        return "`capture.enabled` is false in the settings"
    return (
        await asyncio.to_thread(_uncaptured, settings.capture.slice, mount)
        or await asyncio.to_thread(_unready, settings.proxy.admin, workload)
        or await _unknown(Path(settings.socket), workload)
    )


def _uncaptured(slice_: str, mount: Path) -> str:
    group = slices.find(slice_, mount)
    if group is None:
        return f"there is no control group of {slice_}: `systemctl start {slice_}`"
    try:
        captures = nft.captures(group)
    except Problem as problem:
        return str(problem)
    return "" if captures else f"nothing captures {slice_}: see `systemctl status meshd` and `meshd check`"


def _unready(admin: str, workload: WorkloadName) -> str:
    """Why the proxy cannot carry what the workload sends; a proxy that nobody can ask is taken to be ready."""
    if not admin:
        return ""
    address = Address.parse(admin)
    connection = http.client.HTTPConnection(address.host, address.port, timeout=ANSWER_WITHIN_S)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        text = answer.read(MAX_ANSWER_BYTES).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"the proxy does not answer at {admin} ({error}): see `systemctl status meshd-proxy`"
    finally:
        connection.close()
    if answer.status == 200:
        return ""
    left = [each for each in text.strip().removeprefix("waiting for ").split(", ") if _concerns(each, workload)]
    return f"the proxy waits for {', '.join(left)[:MAX_SAID]}: see `meshd check`" if left else ""


def _concerns(blocker: str, workload: WorkloadName) -> bool:
    """Whether what a proxy waits for is more than the certificate of another workload."""
    certificate = _CERTIFICATE.fullmatch(blocker)
    return certificate is None or certificate[1] == str(workload)


async def _unknown(socket: Path, workload: WorkloadName) -> str:
    """Whether the agent has no such workload; one that is away cannot say, and the proxy goes on without it."""
    try:
        status = await ask(socket, GetStatus(1.0), Status, ANSWER_WITHIN_S)
    except Problem:
        return ""
    if any((each.namespace, each.name) == workload for each in status.workloads):
        return ""
    return f"the agent has no Workload {workload}: see `meshd diagnostics config`"
