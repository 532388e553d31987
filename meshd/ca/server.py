"""The CA's daemon: the API on a listening socket, under TLS with a certificate that the CA gives itself.

That certificate is renewed in place at two thirds of its life: handshakes begun from then on show the new one. It
carries no SPIFFE ID, so it is worth nothing in the mesh, and the certificates of workloads have no DNS name, so none
of them can pose as the CA.
"""

import asyncio
import errno
import logging
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Final, Protocol

from aiohttp import web

from meshd.api.names import Address, is_trust_domain
from meshd.api.notify import keep_watchdog, notify
from meshd.api.problems import Misuse, Problem
from meshd.api.tasks import Tasks
from meshd.ca.api import Api
from meshd.ca.authority import Authority
from meshd.ca.counts import Counts
from meshd.ca.door import Door
from meshd.ca.kubernetes import ByServiceAccount
from meshd.ca.limits import MAX_CONNECTIONS, Limited
from meshd.ca.material import Material
from meshd.ca.settings import CaDaemonSettings
from meshd.ca.shown import Shown
from meshd.ca.source import Unreachable

log = logging.getLogger(__name__)

MAINTAIN_EVERY_S: Final = 30.0
ROTATE_EVERY_S: Final = 1.0
"""Between looks at what an operator may have asked for, or nodes have done."""

SHUTDOWN_S: Final = 2.0
"""For answers on their way. A request whose body has not arrived by then is cut off, and nothing was signed for it."""

MAX_HEADER_BYTES: Final = 8 << 10


class CaServer:
    """`authority` served at `listen`, reached by `names`. `address` is where it listens, once started."""

    def __init__(
        self,
        authority: Authority,
        listen: Address,
        names: Iterable[str] = (),
        clock: Callable[[], float] = time.time,
        settings: CaDaemonSettings = CaDaemonSettings(),  # noqa: B008 - it is frozen
    ) -> None:
        self._authority, self._listen, self._clock = authority, listen, clock
        self.names = _all_names(listen, names)
        self._shown = Shown(clients=True)
        self._shows: Material | None = None
        clusters = (ByServiceAccount(settings.kubernetes),) if settings.kubernetes.url else ()
        self._api = Api(authority, clock, attestors=clusters, limits=settings.limits)
        self._runner = web.AppRunner(
            self._api.application,
            handle_signals=False,
            access_log=None,
            shutdown_timeout=SHUTDOWN_S,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        self._limited: Limited | None = None
        self._tasks = Tasks("ca")
        self._door: Door | None = None
        self.address = listen

    @property
    def counts(self) -> Counts:
        """What the API counted."""
        return self._api.counts

    @property
    def connections(self) -> int:
        """How many are open."""
        return 0 if self._limited is None else self._limited.connections

    @property
    def waiting(self) -> int:
        """How many agents wait for news."""
        return self._api.following.waiting

    def waiting_for(self) -> tuple[str, ...]:
        """What keeps the CA from being ready."""
        if self._door is None:
            return ("its listener",)
        try:
            self._authority.check(self._clock())
        except Unreachable as error:
            return (f"a good certificate: {error}",)
        trouble = self._authority.store.trouble
        return (f"its store: {trouble}",) if trouble else ()

    async def start(self) -> None:
        """Returns when connections are accepted. Problem when they cannot be."""
        try:
            self._renew(self._clock())
        except Unreachable as error:
            raise Problem(str(error)) from error
        await self._runner.setup()
        assert self._runner.server is not None
        self._limited = Limited(self._runner.server)
        door = Door(self._limited, self._shown.listener)
        try:
            self.address = await door.open(self._listen)
        except OSError as error:
            await self._runner.cleanup()
            raise Problem(f"{self._listen}: cannot listen: {_advice(error)}") from error
        self._door = door
        self._tasks.start(self._maintain(), "maintenance")
        self._tasks.start(self._rotate(), "rotation")
        self._tasks.start(self._api.following.run(), "following")

    async def stop(self) -> None:
        """Accept no more, and answer what has been asked, for SHUTDOWN_S at most."""
        if self._door is not None:
            await self._door.close()
        await self._tasks.cancel()
        self._api.following.end()
        await self._runner.cleanup()
        await self._api.close()

    async def _maintain(self) -> None:
        while True:
            await asyncio.sleep(MAINTAIN_EVERY_S)
            self.maintain(self._clock())

    def maintain(self, now: float) -> None:
        """Renew what is due, the issuer and the server's own certificate."""
        try:
            self._authority.maintain(now)
            if self._life.is_due(now):
                self._renew(now)
        except Unreachable as error:
            log.error("the server's certificate is not renewed: %s", error)

    async def _rotate(self) -> None:
        trouble = ""
        while True:
            await asyncio.sleep(ROTATE_EVERY_S)
            try:
                await asyncio.to_thread(self._authority.rotate, self._clock())
                if self._authority.own is not self._shows:
                    self._renew(self._clock())
            except (Problem, Unreachable) as error:
                if str(error) != trouble:
                    log.error("the rotation does not go on: %s", error)
                trouble = str(error)
            else:
                trouble = ""

    def _renew(self, now: float) -> None:
        """Handshakes begun from now on show a new certificate, and nodes are checked by the roots that there are."""
        shows = self._authority.own
        pem, self._life = self._authority.issue_server(self.names, now)
        self._shown.show(pem, shows.bundle_pem)
        self._shows = shows


def allow_connections() -> None:
    """Let this process have as many open files as it takes connections, and some for the rest of it, as far as the
    system lets it: usual is 1,024, to be raised by who needs more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class Beside(Protocol):
    """What is served beside the API, at a port of its own."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


async def serve(server: CaServer, trust_domain: str, beside: Sequence[Beside] = ()) -> None:
    """Run until SIGTERM or SIGINT, and end in order."""
    allow_connections()
    ended = asyncio.Event()

    def terminate(number: signal.Signals) -> None:
        log.info("%s: ending", number.name)
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, terminate, number)
    await server.start()
    told = Tasks("service manager")
    told.start(keep_watchdog(), "watchdog")
    try:
        for each in beside:
            await each.start()
        notify("READY=1")
        log.info("the CA of %s answers at https://%s as %s", trust_domain, server.address, ", ".join(server.names))
        await ended.wait()
    finally:
        notify("STOPPING=1")
        await server.stop()
        for each in beside:
            await each.close()
        await told.cancel()


def _all_names(listen: Address, names: Iterable[str]) -> tuple[str, ...]:
    """names, and those by which this host is reached anyway. Misuse when one is neither a DNS name nor an address."""
    usual = ["localhost", "127.0.0.1", "::1", socket.gethostname(), listen.host]
    for name in names:
        if not _is_name(name):
            raise Misuse(f"--name {name!r} is neither a DNS name nor an IP address")
    found = [name.lower() for name in (*names, *usual) if _is_name(name) and name not in {"0.0.0.0", "::"}]  # noqa: S104
    return tuple(dict.fromkeys(found))


def _is_name(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return is_trust_domain(name.lower())
    return True


def _advice(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "the port is in use: end what listens there (`ss -ltnp`), or choose another with --listen"
        case errno.EACCES:
            return "not permitted: ports below 1024 are root's"
        case errno.EADDRNOTAVAIL:
            return "this host has no such address: see `ip address`"
        case _:
            return str(error.strerror or error)
