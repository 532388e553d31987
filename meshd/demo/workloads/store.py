"""`store PORT TCP-PORT`: knows the items (HTTP), and how many of each there are (plain TCP).

The TCP protocol is a line with an item's number, answered with a line with its count.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

from aiohttp import web

from meshd.demo.workloads.serving import application, serve

MAX_LINE_BYTES = 64


async def item(request: web.Request) -> web.Response:
    number = int(request.match_info["number"])
    return web.json_response({"number": number, "name": f"item {number}"})


class Counts:
    """The TCP service, for as long as the application runs."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._callers: set[asyncio.StreamWriter] = set()

    async def __call__(self, _: web.Application) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._converse, "127.0.0.1", self._port, limit=MAX_LINE_BYTES)
        async with server:
            yield
            server.close()
            for caller in tuple(self._callers):
                caller.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._callers.add(writer)
        try:
            while line := await reader.readline():
                writer.write(b"%d\n" % (int(line) * 7 % 100))
        except (ConnectionError, ValueError):
            pass  # the caller is gone, or sent no number: there is nothing more to say to it
        finally:
            self._callers.discard(writer)
            writer.close()


def main() -> None:
    app = application(caller="api")
    app.router.add_get(r"/items/{number:\d{1,6}}", item)
    app.cleanup_ctx.append(Counts(int(sys.argv[2])))
    serve(app, int(sys.argv[1]))


if __name__ == "__main__":
    main()
