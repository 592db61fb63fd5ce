"""uvicorn inside a loop that somebody else runs: one application on one listening socket, no signal handlers.

The owner stops it with ``close``: no new connections, requests under way are answered, idle ones are cut.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn

from cloudverge_protocol.errors import Code, Unavailable
from cloudverge_wire.boundedhttp import BoundedHttpProtocol
from cloudverge_wire.listen import TlsFiles, bracketed, open_listener, server_tls

if TYPE_CHECKING:
    from starlette.types import ASGIApp

START_WITHIN_S = 30.0
KEEP_ALIVE_S = 60
GRACE_S = 5
MAX_CONNECTIONS = 2000


class _Uvicorn(uvicorn.Server):
    """Says when it has started, and leaves signals to the process's owner."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """A running HTTP listener; ``url`` is where."""

    def __init__(self, server: uvicorn.Server, task: "asyncio.Task[None]", url: str, port: int) -> None:
        self._server, self._task = server, task
        self.url, self.port = url, port

    async def close(self) -> None:
        """Stop within GRACE_S and a little."""
        self._server.should_exit = True
        await self._task


def _configure(app: "ASGIApp", tls: TlsFiles | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="none",
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        limit_concurrency=MAX_CONNECTIONS,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )


async def serve_http(
    app: "ASGIApp", host: str, port: int, *, tls: TlsFiles | None = None, insecure: bool = False
) -> HttpServer:
    """Listen on ``host``:``port`` (0: any) and serve ``app`` until ``close``."""
    listener = open_listener(host, port, tls=tls is not None, insecure=insecure)
    return await serve_on(app, listener, host, tls=tls)


async def serve_on(
    app: "ASGIApp", listener: socket.socket, host: str, *, tls: TlsFiles | None = None
) -> HttpServer:
    """Serve ``app`` on a socket that listens already."""
    port = listener.getsockname()[1]
    config = _configure(app, tls)
    if tls is not None:
        context = server_tls(tls)
        config.load()
        config.ssl = context  # ours, which the frame port uses too
    server = _Uvicorn(config)
    task = asyncio.ensure_future(server.serve(sockets=[listener]))
    listening = asyncio.ensure_future(server.listening.wait())
    await asyncio.wait((task, listening), timeout=START_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
    if not listening.done():
        listening.cancel()
        task.cancel()
        raise Unavailable(Code.UNAVAILABLE, f"the HTTP listener on {host}:{port} did not start")
    return HttpServer(server, task, f"{'https' if tls else 'http'}://{bracketed(host)}:{port}", port)
