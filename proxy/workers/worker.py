"""A worker's side of the link to its master: listening sockets, orders, and what the master is told.

When the master is gone nothing that it held can be had again: the worker drains and ends.
"""

import asyncio
import logging
import os
import signal
import socket
import time
from typing import Final

from meshd.api.problems import Problem
from meshd.api.tasks import Tasks
from proxy.orders import Condition, Orders
from proxy.workers.link import (
    LISTEN,
    MAX_DATAGRAM_BYTES,
    MAX_PAGE_BYTES,
    RELEASE,
    Ask,
    AskEndpoints,
    Drain,
    End,
    Endpoints,
    Ends,
    FromMaster,
    FromWorker,
    Link,
    Page,
    Reload,
    Told,
)

log = logging.getLogger(__name__)

ANSWER_WITHIN_S: Final = 5.0
"""How long the master may take to give a socket: it binds, and does little else."""

PAGE_EVERY_S: Final = 5.0
PAGE_SHARE: Final = 0.01
"""A page is sent unasked so often, so that little is lost of what a worker counted that is killed; and less often where
it would take more than this part of the worker's time."""


class MastersSockets:
    """Listening sockets as `proxy.sockets.Sockets` has them, of the master."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._requests.settimeout(ANSWER_WITHIN_S)

    def listen(self, text: str) -> socket.socket:
        """A socket that listens at HOST:PORT, for the caller to close. Problem where it cannot be had."""
        about, listener, reason = "", None, ""
        try:
            self._requests.send(LISTEN + text.encode())
            while about != text:  # what was not answered in time before may be answered now
                if listener is not None:
                    listener.close()
                about, listener, reason = self._answer()
        except OSError as error:
            raise Problem(f"cannot listen at {text}: the master does not answer: {error}") from error
        if listener is None:
            raise Problem(reason)
        listener.setblocking(False)
        return listener

    def _answer(self) -> tuple[str, socket.socket | None, str]:
        """The next answer: about which address, and the socket or why there is none."""
        answer, descriptors, _, _ = socket.recv_fds(self._requests, MAX_DATAGRAM_BYTES, 1)
        if not answer:
            raise ConnectionResetError("it is gone")
        about, _, reason = answer.decode(errors="replace").partition("\n")
        return about, socket.socket(fileno=descriptors[0]) if descriptors else None, reason

    def close(self) -> None:
        """Ask for nothing more."""
        self._requests.close()

    def release(self, text: str) -> None:
        """Nobody here is to accept connections at HOST:PORT any more."""
        try:
            self._requests.send(RELEASE + text.encode())
        except OSError:
            pass  # the master is gone, and its sockets with it


class Worker:
    """This process as a worker, a `proxy.orders.Place`."""

    serves_admin = False

    def __init__(self, ends: Ends) -> None:
        self.pid = os.getppid()
        self.workers = ends.workers
        self._number = ends.number
        self.sockets = MastersSockets(socket.socket(fileno=ends.sockets))
        self._socket = socket.socket(fileno=ends.link)
        self._socket.setblocking(False)
        self._tasks = Tasks("worker")
        self._gone = asyncio.Event()
        self._told: Told | None = None
        self._said_too_large = False
        self._link = Link(FromMaster, self._obey, self._abandoned)
        self._orders: Orders

    def resize(self, workers: int, *, at_once: bool) -> None:  # noqa: ARG002 - the seam's signature
        """Say when it would be."""
        if self._number == 1:
            log.warning("the agent's settings say %d workers: in force from the next start, or SIGUSR2", workers)

    async def begin(self, orders: Orders) -> None:
        """Follow the master's orders from now on. Signals are for the master: a service manager sends them to all
        processes, and what they mean is not for each to decide."""
        self._orders = orders
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            loop.add_signal_handler(number, self._not_for_me, number)
        await loop.create_unix_connection(lambda: self._link, sock=self._socket)
        self._tasks.start(self._tell_pages(), "pages")

    def _not_for_me(self, number: int) -> None:
        log.debug("%s is for the master, process %d", signal.Signals(number).name, self.pid)

    def changed(self, condition: Condition, addresses: tuple[str, ...]) -> None:  # noqa: ARG002 - the seam's signature
        """Tell the master."""
        told = Told(condition.waiting_for, condition.admin)
        if told != self._told:
            self._told = told
            self._link.send(FromWorker(told))

    def draining(self) -> None:
        """See `Place`; the listeners have let go of their sockets."""

    async def end(self) -> None:
        """Tell the master what was counted to the last, and leave it."""
        await self._tasks.cancel()
        self._tell_page()
        self._link.close()
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self._gone.wait()
        except TimeoutError:
            log.warning("the master did not take the last page of metrics")
        self.sockets.close()

    def _tell_page(self) -> None:
        page = self._orders.page()
        if len(page) > MAX_PAGE_BYTES:
            if not self._said_too_large:
                log.error("the metrics are %d bytes, too many to be one page with those of other workers", len(page))
            self._said_too_large = True
            page = b""
        self._link.send(FromWorker(Page(page.decode())))

    async def _tell_pages(self) -> None:
        pause_s = PAGE_EVERY_S
        while True:
            await asyncio.sleep(pause_s)
            began = time.monotonic()
            self._tell_page()
            pause_s = max(PAGE_EVERY_S, (time.monotonic() - began) / PAGE_SHARE)

    def _obey(self, message: FromMaster) -> None:
        match message.body:
            case Ask():
                self._tell_page()
            case AskEndpoints():
                measured = self._orders.endpoints(message.body.service)
                self._link.send(FromWorker(Endpoints(message.body.number, measured.decode())))
            case Reload():
                self._tasks.start(self._orders.reload(), "reload")
            case Drain():
                self._orders.drain()
            case End():
                self._orders.end()

    def _abandoned(self) -> None:
        if not self._gone.is_set():
            self._gone.set()
            self._orders.drain()
