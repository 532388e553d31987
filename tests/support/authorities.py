"""A certificate authority inside the test: its HTTPS server on loopback, and a client that has the token."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from meshd.api.names import Address, Identity, WorkloadName
from meshd.ca.authority import Authority
from meshd.ca.client import CaClient
from meshd.ca.server import CaServer

TRUST_DOMAIN = "prod.example"
TOKEN = "meshd-agent-of-a-test"
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
