"""The workload's proxy: started, watched, started again when it dies, drained at the end.

The counterpart is `meshd-proxy --control SOCKET`. It inherits its listening sockets and gets the workload's instance, a
secret, in the environment: arguments can be read by every user of the host. In a session of its own it does not hear
Ctrl-C, so that it is there while the command ends.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path

from meshd.api.backoff import Backoff
from meshd.api.names import Address
from meshd.api.problems import Problem
from meshd.api.tasks import Tasks
from meshd.run import programs
from meshd.run.child import Child, describe
from meshd.run.listeners import Listeners, address_of

log = logging.getLogger(__name__)

READY_WITHIN_S = 30.0
LOOK_AGAIN_S = 0.02

END_WITHIN_S = 2.0
"""How long a proxy may take to end after its drain is over."""

RESTART_FIRST_S = 0.05
RESTART_MOST_S = 5.0
SETTLED_AFTER_S = 10.0
"""A proxy that ran this long has not died of what it was started with: the next restart is a first one again."""


class Proxy:
    """Lives from `start` to `stop`."""

    def __init__(
        self,
        listeners: Listeners,
        control: Path,
        instance: str,
        environment: Mapping[str, str],
        drain_s: float,
        workers: str,
    ) -> None:
        """`workers` is what `meshd-proxy --workers` takes."""
        self._listeners = listeners
        self._drain_s = drain_s
        options = ("--control", str(control), "--workers", workers, "--drain-timeout", f"{drain_s:g}")
        self._argv = (programs.proxy(), *options, "--log-level", "warning")
        self._environment = {**environment, "MESHD_INSTANCE": instance}
        self._child: Child | None = None
        self._tasks = Tasks("proxy")

    async def start(self) -> None:
        """Returns when it is ready. Problem, with what it waits for, when it is not in time or ends before."""
        child = self._spawn()
        waits_for = "it does not answer"
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while waits_for:
                    waits_for = await self._blocked(child)
        except TimeoutError as error:
            raise Problem(f"the proxy was not ready within {READY_WITHIN_S:g} s: {waits_for}") from error
        self._tasks.start(self._keep(), "keep")

    async def stop(self) -> None:
        """Let it drain; end it when it does not end by itself."""
        await self._tasks.cancel()
        if self._child is not None and not await self._child.stop(self._drain_s + END_WITHIN_S):
            log.warning("the proxy did not end when it had drained, and was killed")

    def kill(self) -> None:
        """End a drain that is under way: nobody waits for it any more."""
        if self._child is not None:
            self._child.kill()

    def _spawn(self) -> Child:
        try:
            self._child = Child.spawn(
                self._argv, self._environment, listening=self._listeners.sockets, new_session=True
            )
        except OSError as error:
            raise Problem(f"{self._argv[0]} cannot be executed: {error.strerror}") from error
        return self._child

    async def _blocked(self, child: Child) -> str:
        """What the proxy waits for; empty when it is ready."""
        asking = self._tasks.start(ask(address_of(self._listeners.admin), "/ready"), "ask")
        await asyncio.wait((asking, child.ended), return_when=asyncio.FIRST_COMPLETED)
        if child.ended.done():
            asking.cancel()
            raise Problem(f"the proxy ended before it was ready: {describe(child.ended.result())}")
        status, text = asking.result()
        if status == 200:
            return ""
        await asyncio.sleep(LOOK_AGAIN_S)
        return text or f"its /ready answers {status}"

    async def _keep(self) -> None:
        backoff = Backoff(RESTART_FIRST_S, RESTART_MOST_S)
        while True:
            started_s = time.monotonic()
            assert self._child is not None, "started before it is kept"
            status = await asyncio.shield(self._child.ended)
            log.warning("the proxy died (%s) and is started again; new connections wait for it", describe(status))
            if time.monotonic() - started_s > SETTLED_AFTER_S:
                backoff.reset()
            await self._respawn(backoff)

    async def _respawn(self, backoff: Backoff) -> None:
        """The program may be away for a moment, while a package is upgraded."""
        while True:
            await asyncio.sleep(backoff.next_s())
            try:
                self._spawn()
            except Problem as problem:
                log.warning("%s; trying again", problem)
            else:
                return


async def ask(address: Address, path: str) -> tuple[int, str]:
    """GET path: the status code and the text; (0, why) when there is no answer."""
    writer = None
    try:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), body.decode(errors="replace").strip()
    except (OSError, ValueError, IndexError) as error:
        return 0, f"{address}{path}: {error}"
    finally:
        if writer is not None:
            writer.close()
