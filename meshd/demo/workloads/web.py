"""`web PORT`: a page for an item: asks api over HTTP."""

import sys
from html import escape

from aiohttp import ClientError, web

from meshd.demo.workloads.serving import SESSION, application, serve, session


async def page(request: web.Request) -> web.Response:
    number = request.match_info["number"]
    try:
        async with request.app[SESSION].get(f"http://api/items/{number}") as answer:
            answer.raise_for_status()
            item = await answer.json()
    except (ClientError, OSError) as error:
        raise web.HTTPBadGateway(text=f"api: {error!r}\n") from error
    text = f"<!doctype html>\n<title>{escape(item['name'])}</title>\n<p>{item['count']} left\n"
    return web.Response(text=text, content_type="text/html")


def main() -> None:
    app = application(caller="load")
    app.router.add_get(r"/items/{number:\d{1,6}}", page)
    app.cleanup_ctx.append(session)
    serve(app, int(sys.argv[1]))


if __name__ == "__main__":
    main()
