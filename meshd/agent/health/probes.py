"""One look at a workload: at a port, by a connection to it or a GET, and at a systemd unit.

Each gives what is wrong, in words for `meshd status`, and nothing where nothing is. Connections go straight to the
port, never through a proxy. How long a look may take is the caller's to say.
"""

import asyncio
import os
import re

from meshd import __version__
from meshd.api.health import HttpCheck
from meshd.api.names import Address

MAX_HEAD_BYTES = 16 << 10
"""Of all that comes before the status which counts; there may be interim ones before it."""

MAX_OUTPUT_BYTES = 4096

SYSTEMD = "/run/systemd/system"
"""Is there where systemd is the init, as sd_booted(3) says."""

SYSTEMCTL = "systemctl"

ACTIVE = frozenset(("active", "reloading", "refreshing"))

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


async def accepts(address: Address) -> str:
    """Whether the port accepts a connection."""
    try:
        _, writer = await asyncio.open_connection(*address)
    except OSError as error:
        return reason(error)
    writer.close()
    return ""


async def answers(address: Address, check: HttpCheck) -> str:
    """Whether a GET has an answer of a status that is expected. The body is not looked at."""
    try:
        reader, writer = await asyncio.open_connection(*address, limit=MAX_HEAD_BYTES)
    except OSError as error:
        return reason(error)
    try:
        writer.write(
            f"GET {check.path} HTTP/1.1\r\nHost: {check.host or address}\r\nUser-Agent: meshd-agent/{__version__}\r\n"
            "Accept: */*\r\nConnection: close\r\n\r\n".encode()
        )
        status = await _status(reader)
    except OSError as error:
        return reason(error)
    finally:
        writer.close()
    if not status:
        return "what it answers is not HTTP/1.1"
    if any(low <= status <= high for low, high in check.statuses):
        return ""
    return f"answered {status}, expected {check.expect}"


async def _status(reader: asyncio.StreamReader) -> int:
    """The status of the answer, interim ones passed over; 0 where it is none."""
    left = MAX_HEAD_BYTES
    is_status_line = True
    try:
        while (line := await reader.readuntil(b"\n")) and (left := left - len(line)) > 0:
            if is_status_line:
                found = _STATUS.fullmatch(line)
                if found is None or int(found[1]) >= 200 or found[1] == b"101":
                    return 0 if found is None else int(found[1])
            is_status_line = line in (b"\r\n", b"\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass
    return 0


async def is_active(unit: str) -> str:
    """Whether the system's systemd says that the unit is active. One short-lived process, `systemctl show`."""
    if not os.path.isdir(SYSTEMD):  # noqa: ASYNC240 - of a file system in memory
        return "this host was not booted with systemd, so it has no units"
    loop = asyncio.get_running_loop()
    try:
        transport, output = await loop.subprocess_exec(
            lambda: _Output(loop.create_future()),
            SYSTEMCTL, "show", "--no-pager", "--property=LoadState,ActiveState,SubState", "--", unit,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env=_ENVIRONMENT,
        )  # fmt: skip
    except OSError as error:
        return f"systemctl cannot be run: {error.strerror}"
    try:
        await output.ended
    finally:
        transport.close()  # which kills it where it goes on
    if status := transport.get_returncode():
        return f"systemctl ended with status {status}"
    return unit_failure(output.data.decode(errors="replace"))


class _Output(asyncio.SubprocessProtocol):
    """What a process prints, as far as it is of interest, until it has ended."""

    def __init__(self, ended: "asyncio.Future[None]") -> None:
        self.data, self.ended = b"", ended

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - there is one
        self.data = (self.data + data)[:MAX_OUTPUT_BYTES]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - its status says it
        if not self.ended.done():
            self.ended.set_result(None)


def unit_failure(output: str) -> str:
    """What is wrong by the output of `systemctl show`."""
    found = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    load, active, sub = (found.get(name, "") for name in ("LoadState", "ActiveState", "SubState"))
    if not all(each.replace("-", "").isalnum() for each in (load, active, sub)):
        return "systemctl does not say in what state it is"
    if load != "loaded":
        return f"the unit is {load}"
    return "" if active in ACTIVE else f"it is {active} ({sub})"


def reason(error: OSError) -> str:
    """What an error of a socket is called. asyncio's own words name the address again."""
    return os.strerror(error.errno) if error.errno else str(error)
