"""A proxy that is one process: the signals, what the service manager is told, and the generation that follows."""

import logging
import os
import socket
from typing import Final

from meshd.api.notify import keep_watchdog, leave_manager, notify, reloading
from meshd.api.tasks import Tasks
from proxy.handover import INSTANCE, Inheritance, Succession, again, received
from proxy.kept import let_go
from proxy.orders import Condition, Orders
from proxy.signals import heed
from proxy.sockets import Sockets
from proxy.starting import Starting

log = logging.getLogger("proxy")

WORKERS: Final = "MESHD_WORKERS"
"""What a process is told in the environment that becomes a master at the agent's word."""


class Alone:
    """A `proxy.orders.Place`. `instance` is that of the `meshd run` which started the proxy, if one did."""

    serves_admin = True
    workers = 1

    def __init__(self, instance: str) -> None:
        self.pid = os.getpid()
        self._instance = instance
        self._inheritance = received()
        for address, several in self._inheritance.own.items():
            for listener in several[1:]:  # those of workers that there are not any more
                let_go(address, listener)
                listener.close()
        own = {address: several[0] for address, several in self._inheritance.own.items()}
        self.sockets = Sockets(self._inheritance.kept, own)
        self._tasks = Tasks("process")
        self._succession = Succession(self._tasks, instance, self._passed_on, self._succeeded)
        self._was_ready = False
        self._waiting_for: tuple[str, ...] = ("configuration",)
        self._starting = Starting(lambda: self._waiting_for)
        self._told_to_drain = False
        self._orders: Orders

    def resize(self, workers: int, *, at_once: bool) -> None:
        """This process becomes the master of so many, or says when it would."""
        if not at_once:
            log.warning("the agent's settings say %d workers: in force from the next start, or SIGUSR2", workers)
            return
        log.info("the agent's settings say %d workers", workers)
        handed_over = {address: [listener] for address, listener in self.sockets.own.items()}
        inheritance = Inheritance(self.sockets.kept, handed_over, self._inheritance.predecessor)
        environment = {WORKERS: str(workers)} | ({INSTANCE: self._instance} if self._instance else {})
        again(inheritance, environment)

    async def begin(self, orders: Orders) -> None:
        """Heed signals: SIGTERM and SIGINT drain and, the second time, end; SIGHUP reloads; SIGUSR2 hands over."""
        self._orders = orders
        heed(self._tasks, self._terminate, self._reload, self._succession.begin)
        self._tasks.start(keep_watchdog(), "watchdog")
        if self._inheritance.predecessor < 0:
            self._starting.begin()

    def _terminate(self) -> None:
        if self._told_to_drain:
            self._orders.end()
        self._told_to_drain = True
        self._orders.drain()

    async def _reload(self) -> None:
        reloading()
        await self._orders.reload()
        notify("READY=1")

    def _passed_on(self) -> tuple[list[socket.socket], dict[str, tuple[socket.socket]]]:
        return self.sockets.kept, {address: (listener,) for address, listener in self.sockets.own.items()}

    def _succeeded(self) -> None:
        self._orders.drain()

    def changed(self, condition: Condition, addresses: tuple[str, ...]) -> None:
        """When it is ready for the first time, whoever waits for that is told."""
        self._waiting_for = condition.waiting_for
        if self._was_ready or condition.waiting_for:
            return
        self._was_ready = True
        for address in self.sockets.own.keys() - set(addresses):
            self.sockets.release(address)  # the generation before had it, and this one does not need it
        if self._inheritance.predecessor >= 0:
            self._inheritance.tell_ready()  # it tells the service manager
        else:
            self._starting.ready()

    def draining(self) -> None:
        """Accept no more: of the sockets nothing is kept, not even those that no listener has yet."""
        self._succession.preclude()
        self._starting.end()
        if not self._succession.succeeded:
            notify("STOPPING=1")
            leave_manager()  # what it keeps is for the process that it starts next
        for address in self.sockets.own:
            self.sockets.release(address)

    async def end(self) -> None:
        """See `Place`."""
        await self._tasks.cancel()
