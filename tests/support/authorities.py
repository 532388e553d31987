"""A certificate authority inside the test: its HTTPS server on loopback, a client that has the token, its records."""

import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

from meshd.api.names import Address, Identity, WorkloadName
from meshd.ca.authority import Authority
from meshd.ca.client import CaClient
from meshd.ca.records import Issued
from meshd.ca.requester import AnyWorkload, Requester
from meshd.ca.server import CaServer

TRUST_DOMAIN = "prod.example"
TOKEN = "meshd-agent-of-a-test"
AGENT = Requester("shared token", AnyWorkload("the agents' token"), "192.0.2.1")
WEB = Identity.of(TRUST_DOMAIN, WorkloadName("default", "web"))


@asynccontextmanager
async def served(authority: Authority, clock: Callable[[], float] = time.time) -> AsyncIterator[CaServer]:
    """`authority` on a free port of 127.0.0.1, until the end."""
    server = CaServer(authority, Address("127.0.0.1", 0), clock=clock)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def client(server: CaServer, bundle_pem: str, token: str = TOKEN) -> CaClient:
    return CaClient(f"https://{server.address}", bundle_pem, token)


def recorded(ca: Path) -> list[Issued]:
    """What the CA in that directory has on record, as another program sees it, in the order it was issued; without what
    it issued to its own server."""
    with closing(sqlite3.connect(ca / "ca.db")) as database:
        rows = database.execute("SELECT * FROM issued WHERE requester != 'itself' ORDER BY rowid")
        return [Issued(*row) for row in rows]
