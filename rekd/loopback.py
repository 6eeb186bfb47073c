"""A small server for this machine's own browser: on loopback only, whatever page is open beside it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HOST = "127.0.0.1"

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""What every answer says: no page of another site may show it, and no cache keeps it."""


@dataclass(frozen=True)
class Route:
    """One address of a server."""

    method: str
    path: str
    answer: Handler


def loopback_app(routes: Sequence[Route], *, largest: int = 1024) -> web.Application:
    """An application that answers only its own pages; requests may have a body of `largest` bytes."""
    app = web.Application(middlewares=[_own_pages_only], client_max_size=largest)
    for route in routes:
        app.router.add_route(route.method, route.path, route.answer)
    return app


@web.middleware
async def _own_pages_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    # A site may let its own name stand for 127.0.0.1, or post a form here: both name another host than this one.
    own = f"{HOST}:{request.url.port}", f"localhost:{request.url.port}"
    origin = request.headers.get("Origin", "http://" + request.host)
    if request.host not in own or origin.removeprefix("http://") not in own:
        return web.Response(status=403, text="This server answers pages of its own only.\n", headers=HEADERS)
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.headers.update(HEADERS)
        raise
    response.headers.update(HEADERS)
    return response


def serve(app: web.Application, *, port: int, ready: Callable[[str], None]) -> None:
    """Serves until it is interrupted; `ready` is told the address. A port of 0 is any free one.

    Raises ValueError where the port is taken.
    """
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(app, port, ready))


async def _serve(app: web.Application, port: int, ready: Callable[[str], None]) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port)
        try:
            await site.start()
        except OSError as error:
            raise ValueError(f"Port {port} of this machine is taken: {error.strerror}. Give another --port.") from error
        address = runner.addresses[0]
        ready(f"http://{HOST}:{address[1]}/")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
