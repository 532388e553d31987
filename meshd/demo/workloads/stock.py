"""The client of store's TCP service: a few connections, each used for a while and then renewed."""

import asyncio

from meshd.api.names import Address

USES = 50
"""Lookups on one connection. Small enough that connections come and go while one watches."""

ANSWER_WITHIN_S = 5.0


class Stock:
    """How many there are of an item. `close` when it is not needed any more."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._idle: list[_Connection] = []

    async def count(self, number: int) -> int:
        """ConnectionError or TimeoutError when the service does not answer."""
        connection = self._idle.pop() if self._idle else await _Connection.open(self._address)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                found = await connection.ask(number)
        except BaseException:
            connection.close()
            raise
        if connection.uses < USES:
            self._idle.append(connection)
        else:
            connection.close()
        return found

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.uses = 0
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: Address) -> "_Connection":
        return cls(*await asyncio.open_connection(*address))

    async def ask(self, number: int) -> int:
        self.uses += 1
        self._writer.write(b"%d\n" % number)
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the service closed the connection instead of answering")
        return int(line)

    def close(self) -> None:
        self._writer.close()
