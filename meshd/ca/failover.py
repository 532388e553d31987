"""Several CAs of one trust domain as one source: whichever answers.

The one that answered last is asked first; when it is away the others are, in order. What one of them refuses is
refused: they have one store, and another would say the same.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from meshd.api.control import Certificate
from meshd.api.names import Identity
from meshd.ca.client import CaClient
from meshd.ca.source import Unable, Unreachable
from meshd.ca.wire import Bundle, Renewal, Token

T = TypeVar("T")


class Failover:
    """The CAs that `clients` are of; one, in most meshes."""

    def __init__(self, clients: Sequence[CaClient]) -> None:
        self._clients = list(clients)

    async def sign(self, csr_pem: str, identity: Identity, token: str = "") -> Certificate:
        """`CaClient.sign`, by whichever answers."""
        return await self._any(lambda client: client.sign(csr_pem, identity, token))

    async def jwt(self, identity: Identity, audiences: tuple[str, ...]) -> Token:
        return await self._any(lambda client: client.jwt(identity, audiences))

    async def news(self, after: int, oldest: float = 0.0) -> Bundle:
        return await self._any(lambda client: client.news(after, oldest))

    def trust(self, bundle_pem: str, renewal: Renewal | None = None) -> None:
        for client in self._clients:
            client.trust(bundle_pem, renewal)

    def begun(self) -> float:
        return math.inf

    async def health(self) -> None:
        await self._any(CaClient.health)

    def present(self, certificate: Path) -> None:
        """`CaClient.present`, to all."""
        for client in self._clients:
            client.present(certificate)

    async def _any(self, ask: Callable[[CaClient], Awaitable[T]]) -> T:
        troubles: dict[CaClient, Unreachable] = {}
        for client in list(self._clients):
            try:
                answer = await ask(client)
            except Unreachable as error:
                troubles[client] = error
            else:
                self._clients.sort(key=lambda each: each in troubles)  # stable: those that are away go last
                return answer
        kind = Unable if all(isinstance(each, Unable) for each in troubles.values()) else Unreachable
        raise kind("; ".join(map(str, troubles.values())))
