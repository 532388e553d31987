"""What a running proxy can be told to do, and by whom: it is alone, or the worker of a master.

    alone     signals; the service manager is told; another generation may follow      (`proxy.alone`)
    worker    a link to the master, which has the signals and the sockets              (`proxy.workers.worker`)

`proxy.program` is the same in both.
"""

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, Protocol

from proxy.sockets import Listening


class Orders(NamedTuple):
    """What it can be told: to give its metrics, and what it measured of a service (empty: of all), to read its file
    again, to drain and end, to end now."""

    page: Callable[[], bytes]
    endpoints: Callable[[str], bytes]
    reload: Callable[[], Coroutine[Any, Any, None]]
    drain: Callable[[], None]
    end: Callable[[], None]


class Condition(NamedTuple):
    """How it is: what keeps it from being ready, and where it is to answer /metrics (HOST:PORT)."""

    waiting_for: tuple[str, ...]
    admin: tuple[str, ...]


class Place(Protocol):
    """Where a proxy runs. `pid` is the process that stands for the whole proxy; `workers` how many
    processes there are of it; `serves_admin` whether this one answers at the admin address."""

    serves_admin: bool
    workers: int
    pid: int

    @property
    def sockets(self) -> Listening: ...

    def resize(self, workers: int, *, at_once: bool) -> None:
        """The agent's settings ask for so many workers. `at_once`: nothing has begun, so that nothing is lost."""

    async def begin(self, orders: Orders) -> None:
        """Take what comes from outside for orders."""

    def changed(self, condition: Condition, addresses: tuple[str, ...]) -> None:
        """It is so now, with listeners at these addresses."""

    def draining(self) -> None:
        """It accepts nothing more."""

    async def end(self) -> None:
        """It has finished; nothing comes after this."""
