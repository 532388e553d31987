"""What the agent does so that capture is in force, and stays it: the table is compared with the plan, and put right.

    the plan differs      documents have changed, a slice has come or gone (its control group is looked at each second)
    the table differs     somebody flushed or changed it: the kernel tells of every change of rules, and each minute
                          the table is looked at whether it told or not
    the proxy is away     for `AWAY_S`, where capture fails open: then the table lets pass what it led to the proxy

At most one change a second, each a transaction: an agent that is killed leaves the table of before or the one of after.
How the table looks that was put in force is read from the kernel, and believed where nobody else had a transaction
meanwhile (`meshd.capture.generation`): what they did would be taken for what was wanted. An agent that cannot change it
says why (`troubles`) and tries again. What is captured is `meshd.agent.capturing`'s to say.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from meshd.api.problems import Problem
from meshd.api.tasks import Tasks
from meshd.capture import nft, slices, table
from meshd.capture.nft import InForce
from meshd.capture.plan import Plan

log = logging.getLogger(__name__)

TICK_S: Final = 1.0
LOOK_EVERY_S: Final = 60.0
AWAY_S: Final = 5.0
"""A proxy that is restarted is back within it; its listening sockets outlive it, and callers wait in them."""

NETLINK_NETFILTER: Final = 12
NETLINK_ADD_MEMBERSHIP: Final = 1
SOL_NETLINK: Final = 270
NFNLGRP_NFTABLES: Final = 7
"""linux/netlink.h and linux/netfilter/nfnetlink.h"""

ATTEMPTS: Final = 5
"""How often a table is put in force at once where others change the rules in the same moment."""

MAX_READS: Final = 256
"""Messages taken at once; what they say is of no interest, but that there are any."""


Planning = Callable[[], tuple[Plan, tuple[str, ...]]]


class Rules(Protocol):
    """What holds the table: the kernel, by `meshd.capture.nft`. Each may raise Problem."""

    def apply(self, text: str, *, check: bool = False) -> None: ...

    def remove(self) -> bool: ...

    def in_force(self) -> InForce | None: ...

    def generation(self) -> int: ...


class Unsettled(Problem):
    """Others change the rules all the time."""


@dataclass(slots=True)
class Standing:
    """How it is: since when the table is in force (seconds since the epoch; 0: it is not), how often it was put back
    that others had changed, and what is wrong. `is_used`: there is somebody whom it captures at present, and not only
    a slice for those who come."""

    since: float = 0.0
    restored: int = 0
    troubles: tuple[str, ...] = ()
    is_used: bool = False


def uses(plan: Plan) -> bool:
    """Whether the plan has somebody to capture at present."""
    return bool(plan.uids or plan.ports) or (plan.group is not None and slices.is_populated(plan.group))


class Keeper:
    """`plan(is_open)` gives what is called in a thread, for users are looked up, and says what is to be captured and
    what is wrong all the same, or raises Problem: then what is in force stays. `is_proxy_there` says whether the host's
    proxy is; None where capture does not fail open. `is_used` says whether a plan has somebody to capture at present,
    and is called in a thread too; `changed` is called when that became so, or is no longer."""

    def __init__(
        self,
        plan: Callable[[bool], Planning],
        *,
        is_proxy_there: Callable[[], bool] | None = None,
        remove_on_stop: bool = False,
        rules: Rules = nft,
        is_used: Callable[[Plan], bool] = uses,
        changed: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan, self._is_proxy_there, self._remove_on_stop = plan, is_proxy_there, remove_on_stop
        self._rules, self._monotonic = rules, monotonic
        self._is_used, self._changed = is_used, changed
        self._last_seen = monotonic() + AWAY_S  # proxies of before a restart need as long for coming back
        self._applied: Plan | None = None
        self._expected: InForce | None = None
        self._looked_at = -LOOK_EVERY_S
        self._told = True
        self._news: socket.socket | None = None
        self._tasks = Tasks("capture")
        self.standing = Standing()

    async def start(self) -> None:
        """Put it in force, if it can be, and keep it there."""
        self._listen()
        await self.look()
        self._tasks.start(self._keep(), "keep")

    async def close(self) -> None:
        """What is in force stays so, unless it is to be removed."""
        await self._tasks.cancel()
        if self._news is not None:
            asyncio.get_running_loop().remove_reader(self._news)
            self._news.close()
        if self._remove_on_stop:
            try:
                await asyncio.to_thread(self._rules.remove)
            except Problem as problem:
                log.error("capture is not removed: %s", problem)

    async def look(self) -> None:
        """Compare, and put right what differs."""
        try:
            plan, troubles = await asyncio.to_thread(self._plan(self._is_open()))
            if plan != self._applied or self._is_due():
                await asyncio.to_thread(self._settle, plan)
            self._use(await asyncio.to_thread(self._is_used, plan))
        except Problem as problem:
            troubles, self._told = (str(problem),), True  # and it is tried again
        new = tuple(f"capture: {trouble}" for trouble in troubles)
        for trouble in new:
            if trouble not in self.standing.troubles:
                log.error("%s", trouble)
        self.standing.troubles = new

    def _use(self, is_used: bool) -> None:
        """After the table was changed: who is told that nobody is captured any more has what came before."""
        if is_used != self.standing.is_used:
            self.standing.is_used = is_used
            self._changed()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self.look()

    def _is_open(self) -> bool:
        if self._is_proxy_there is None:
            return False
        now = self._monotonic()
        if self._is_proxy_there():
            self._last_seen = max(self._last_seen, now)
        return now - self._last_seen > AWAY_S

    def _is_due(self) -> bool:
        return self._told or self._monotonic() - self._looked_at >= LOOK_EVERY_S

    def _settle(self, plan: Plan) -> None:
        """Have the table be the plan's. Where nobody is to be captured there is none."""
        self._told, self._looked_at = False, self._monotonic()
        if plan.is_empty:
            self._settle_empty(plan)
            return
        found = self._rules.in_force()
        if plan == self._applied:
            if found == self._expected:
                return
            self.standing.restored += 1
            log.warning(
                "capture: the table %s was %s by somebody else: it is put back",
                table.TABLE, "removed" if found is None else "changed",
            )  # fmt: skip
        self._expected, self._applied = self._put(plan), plan
        self.standing.since = time.time()
        log.info("capture is in force%s", ", and open: the proxy is away" if plan.is_open else "")

    def _put(self, plan: Plan) -> InForce | None:
        """Put it in force: how that looks, without what others did meanwhile."""
        for _ in range(ATTEMPTS):
            before = self._rules.generation()
            self._rules.apply(table.render(plan))
            found = self._rules.in_force()
            if self._rules.generation() == before + 1:
                return found
        raise Unsettled(
            f"others change rules of nftables all the time: whether {table.TABLE} is as it is to be cannot be told "
            "(`nft monitor` shows who)"
        )

    def _settle_empty(self, plan: Plan) -> None:
        """Whoever never captured anything needs no nft for it."""
        try:
            removed = self._rules.remove()
        except Problem:
            if self._applied is not None and not self._applied.is_empty:
                raise
            removed = False
        if removed:
            log.info("capture: there is nobody to capture: the table %s is removed", table.TABLE)
        self._applied, self._expected, self.standing.since = plan, None, 0.0

    # --- news of the kernel -------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Hear of every change of rules; without it they are looked at each minute."""
        try:
            news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_NETFILTER)
        except OSError as error:  # a kernel without netfilter, which nft says too
            log.debug("no news of rules: %s", error)
            return
        try:
            news.bind((0, 0))
            news.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        except OSError as error:
            news.close()
            log.debug("no news of rules: %s", error)
            return
        self._news = news
        asyncio.get_running_loop().add_reader(news, self._hear, news)

    def _hear(self, news: socket.socket) -> None:
        self._told = True
        for _ in range(MAX_READS):
            try:
                news.recv(1)  # the rest of the message is dropped
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: more has changed than there was room for
                continue
