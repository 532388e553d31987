"""`api PORT STOCK`: an item with its count: asks store over HTTP, and the service STOCK over TCP."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator

from aiohttp import ClientError, web

from meshd.api.names import Address
from meshd.demo.workloads.serving import SESSION, application, serve, session
from meshd.demo.workloads.stock import Stock
from meshd.run.environment import upstream_variable

STOCK = web.AppKey("stock", Stock)


async def item(request: web.Request) -> web.Response:
    number = request.match_info["number"]
    try:
        found, count = await asyncio.gather(_described(request.app, number), request.app[STOCK].count(int(number)))
    except (ClientError, OSError) as error:
        raise web.HTTPBadGateway(text=f"store: {error!r}\n") from error
    return web.json_response({**found, "count": count})


async def _described(app: web.Application, number: str) -> dict[str, object]:
    async with app[SESSION].get(f"http://store/items/{number}") as answer:
        answer.raise_for_status()
        found: dict[str, object] = await answer.json()
        return found


async def stock(app: web.Application) -> AsyncIterator[None]:
    """The TCP client, for as long as the application runs; it calls through the mesh, by the upstream."""
    app[STOCK] = Stock(Address.parse(os.environ[upstream_variable(sys.argv[2])]))
    yield
    app[STOCK].close()


def main() -> None:
    app = application(caller="web")
    app.router.add_get(r"/items/{number:\d{1,6}}", item)
    app.cleanup_ctx.extend((session, stock))
    serve(app, int(sys.argv[1]))


if __name__ == "__main__":
    main()
