"""The admin port's listener: one request a connection, GET and HEAD, and nothing that changes anything.

A port that cannot be had is said, and keeps nothing from running: any user of the host could take it first, and whether
there is an agent is not for any user to decide.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Final

from aiohttp import web

from meshd.admin.page import CONTENT_TYPE, Page
from meshd.api.names import Address
from meshd.ca.limits import Limited
from meshd.ca.listening import listen_at

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 64
"""A scraper has one, seldom two."""

BACKLOG: Final = 100
CONNECTION_LIFE_S: Final = 10.0
"""For a request and its answer; a page takes milliseconds."""

MAX_HEADER_BYTES: Final = 8 << 10


class AdminServer:
    """Serves at `listen`. `waiting_for` names what keeps the process from being ready. The page is made in a thread
    where it reads what may block (`blocks`)."""

    def __init__(
        self, listen: Address, page: Page, waiting_for: Callable[[], tuple[str, ...]], *, blocks: bool = False
    ) -> None:
        self._page, self._waiting_for, self._blocks = page, waiting_for, blocks
        self._making = asyncio.Lock()
        self._servers: list[asyncio.Server] = []
        self.address = listen
        """Where it listens, once it does."""
        self.trouble = ""
        """Why it does not listen."""
        application = web.Application()
        application.add_routes(
            [web.get("/metrics", self._metrics), web.get("/ready", self._ready), web.get("/live", _live)]
        )
        application.on_response_prepare.append(_close_after)
        self._runner = web.AppRunner(
            application,
            handle_signals=False,
            access_log=None,
            shutdown_timeout=0.0,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )

    async def start(self) -> None:
        await self._runner.setup()
        assert self._runner.server is not None
        try:
            listening = await listen_at(self.address, BACKLOG)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            self.trouble = f"{self.address}: no metrics: cannot listen: {reason}: choose another `admin`, and restart"
            log.error("%s", self.trouble)
            return
        self.address = Address(*listening[0].getsockname()[:2])
        limited, loop = Limited(self._runner.server, MAX_CONNECTIONS, CONNECTION_LIFE_S), asyncio.get_running_loop()
        self._servers = [await loop.create_server(limited, sock=each, backlog=BACKLOG) for each in listening]
        log.info("metrics at http://%s/metrics", self.address)

    async def close(self) -> None:
        for each in self._servers:
            each.close()
        await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        if self._blocks:
            async with self._making:  # one thread is enough, whoever asks
                body = await asyncio.to_thread(self._page.render)
        else:
            body = self._page.render()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def _ready(self, _: web.Request) -> web.Response:
        waiting_for = self._waiting_for()
        if waiting_for:
            return web.Response(text=f"waiting for {', '.join(waiting_for)}\n", status=503)
        return web.Response(text="ready\n")


async def _live(_: web.Request) -> web.Response:
    return web.Response(text="live\n")


async def _close_after(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "meshd"  # rather than the versions of what it is built with
    response.force_close()
