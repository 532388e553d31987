"""The listener of the control API for sidecars: TLS 1.3, who connects, and how many may.

A client's certificate is optional in the handshake, and what is served depends on it (`k8s.controller.session`). A
connection ends when its certificate does, or is denied: its sidecar comes back with another. Handshakes are let in as
the CA does (`meshd.ca.door`), so that a thousand sidecars that come at once are served one after the other.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, TypeVar

from k8s.controller.core import Core
from k8s.controller.peer import Peer
from k8s.controller.session import Attached, SidecarSession
from meshd.agent.complaints import complaints
from meshd.agent.connection import Connection
from meshd.api.control import CONTROL_ALPN, Refused
from meshd.api.names import Address
from meshd.api.problems import Problem
from meshd.api.tasks import Tasks
from meshd.ca.door import Door
from meshd.ca.shown import Shown

log = logging.getLogger(__name__)

Key = TypeVar("Key")

MAX_CONNECTIONS: Final = 16_384
MAX_OF_A_WORKLOAD: Final = 8_192
"""Of one service account, so that those of one namespace cannot keep out all others."""

MAX_OF_A_WORKLOAD_AT_AN_ADDRESS: Final = 1_024
"""Of these: a connection takes some 50 kB before it has asked for anything, and one pod is not to use up the memory. A
pod has 65 of 64 workers; where nodes hide their pods' addresses, all replicas on a node are at one."""

MAX_STRANGERS: Final = 1_024
"""Those that have no certificate yet."""
MAX_STRANGERS_AT_AN_ADDRESS: Final = 128
"""A pod has an address of its own; where nodes hide their pods' addresses, those of a node are one."""
STRANGER_LIFE_S: Final = 60.0
"""For attaching and one certificate, with the CA's time limits."""

LIFE_S: Final = (1800.0, 3600.0)
"""A connection with a certificate lasts so long, by chance: its sidecar makes another at once, so that they come to
spread over all controllers after one was away. Nothing of traffic waits for it."""

MAX_CALL_BYTES: Final = 1 << 20
MAX_STRANGERS_CALL_BYTES: Final = 64 << 10

LOOK_EVERY_S: Final = 10.0
"""Between looks for connections whose certificates have expired."""


class ControllerServer:
    """Serves while it is open. Nothing is served before `show`."""

    def __init__(self, core: Core, listen: Address, clock: Callable[[], float] = time.time) -> None:
        self._core, self._listen, self._clock = core, listen, clock
        self._tasks = Tasks("control")
        self._attached = Attached()
        self._open: dict[Connection[Peer], asyncio.TimerHandle | None] = {}
        """With the timer that ends it."""
        self._strangers: Counter[str] = Counter()
        self._workloads: Counter[str] = Counter()
        self._places: Counter[tuple[str, str]] = Counter()
        """By workload and address."""
        self._denied: frozenset[str] = frozenset()
        self._shown = Shown(clients=True, alpn=CONTROL_ALPN)
        self._door = Door(self._connection, self._shown.listener)
        self.address = listen
        """Where it listens, once it does."""
        self.is_open = False
        self.turned_away: Counter[str] = Counter(dict.fromkeys(("too many", "denied", "not a sidecar"), 0))

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def strangers(self) -> int:
        """How many of them have no certificate yet."""
        return self._strangers.total()

    def show(self, pem: bytes, bundle_pem: str) -> None:
        """Handshakes begun from now on show the key and chain in pem, and believe the roots of bundle_pem."""
        self._shown.show(pem, bundle_pem)

    def deny(self, denied: frozenset[str]) -> None:
        """These are not to be believed, by serial number or by SPIFFE ID."""
        self._denied = denied
        self._look()

    async def start(self) -> None:
        """Returns when connections are accepted; `show` comes first. Problem when they cannot be."""
        assert self._shown.is_there
        try:
            self.address = await self._door.open(self._listen)
        except OSError as error:
            raise Problem(f"{self._listen}: cannot listen: {error.strerror}: choose another --listen") from error
        self.is_open = True
        self._tasks.start(self._look_again(), "looking")

    async def close(self) -> None:
        """Accept no more, and end what is open: sidecars go to another controller."""
        self.is_open = False
        await self._door.close()
        for connection in tuple(self._open):
            connection.close()
        await self._tasks.cancel()

    # --- connections ----------------------------------------------------------------------------------------------

    def _connection(self) -> Connection[Peer]:
        return Connection(Peer.at, self._accept, self._closed)

    def _accept(self, connection: Connection[Peer], peer: Peer) -> SidecarSession | Refused:
        self._open[connection] = None
        if peer.identity is None:
            self._strangers[peer.address] += 1
        else:
            self._workloads[str(peer.identity.workload)] += 1
            self._places[str(peer.identity.workload), peer.address] += 1
        if (refused := self._turned_away(peer)) is not None:
            complaints.warning("control API: %s is turned away: %s", peer, refused.reason)
            return refused
        connection.limit(MAX_STRANGERS_CALL_BYTES if peer.identity is None else MAX_CALL_BYTES)
        life_s = STRANGER_LIFE_S if peer.identity is None else random.uniform(*LIFE_S)  # noqa: S311 - to spread
        self._open[connection] = asyncio.get_running_loop().call_later(life_s, connection.close)
        return SidecarSession(self._core, self._attached, peer, connection, self._tasks)

    def _turned_away(self, peer: Peer) -> Refused | None:
        """Why the peer is not served; None where it is."""
        if trouble := self._trouble(peer):
            self.turned_away["denied" if peer.identity is not None else "not a sidecar"] += 1
            return Refused(trouble)
        if peer.identity is None:
            of_peer, most = self._strangers[peer.address], MAX_STRANGERS_AT_AN_ADDRESS
            is_full = self.strangers > MAX_STRANGERS
        else:
            workload = str(peer.identity.workload)
            of_peer, most = self._workloads[workload], MAX_OF_A_WORKLOAD
            is_full = self._places[workload, peer.address] > MAX_OF_A_WORKLOAD_AT_AN_ADDRESS
        if is_full or of_peer > most or len(self._open) > MAX_CONNECTIONS:
            self.turned_away["too many"] += 1
            return Refused("the controller has too many connections already", retry=True)
        return None

    def _trouble(self, peer: Peer) -> str:
        if peer.trouble or peer.identity is None:
            return peer.trouble
        if peer.identity.trust_domain != self._core.trust_domain:
            return f"{peer.identity} is of another trust domain than {self._core.trust_domain}"
        if peer.serial in self._denied or str(peer.identity) in self._denied:
            return f"the certificate {peer.serial} of {peer.identity} is denied"
        if peer.not_after <= self._clock():
            return f"the certificate of {peer.identity} has expired: connect with its next one"
        return ""

    def _closed(self, connection: Connection[Peer]) -> None:
        if (timer := self._open.pop(connection, None)) is not None:
            timer.cancel()
        peer = connection.peer
        if peer.identity is None:
            _one_less(self._strangers, peer.address)
        else:
            _one_less(self._workloads, str(peer.identity.workload))
            _one_less(self._places, (str(peer.identity.workload), peer.address))

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._look()

    def _look(self) -> None:
        """End what is not good any more."""
        for connection in tuple(self._open):
            if connection.peer.identity is not None and (trouble := self._trouble(connection.peer)):
                complaints.warning("control API: %s is cut off: %s", connection.peer, trouble)
                connection.answer(0, Refused(trouble))
                connection.close()


def _one_less(counted: Counter[Key], key: Key) -> None:
    counted[key] -= 1
    if not counted[key]:
        del counted[key]
