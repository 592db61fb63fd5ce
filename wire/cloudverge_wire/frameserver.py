"""A TCP port that speaks frames: accepts connections, makes a ``Peer`` of each.

``serve_frames`` is all that a server needs: who may come in (``authenticate``), what to say then
(``hello_reply``), and what to do with a request (``handle``, called in arrival order; see ``peer``).
"""

import asyncio
import socket
import ssl as tls
from collections.abc import Awaitable, Callable

from cloudverge_protocol.frames import MAX_FRAME_BYTES
from cloudverge_protocol.messages import FrameType, Message
from cloudverge_wire.admission import HELLO_WITHIN_S, Authenticate, Introduce
from cloudverge_wire.flow import Callers, Shares
from cloudverge_wire.listen import open_listener, tune_stream
from cloudverge_wire.peer import Answer, Peer

__all__ = ["Answer", "FrameServer", "Peer", "serve_frames"]

MAX_CONNECTIONS = 4096


class FrameServer:
    """A listening frame port; ``port`` is the real one, ``peers`` those connected now."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.peers: set[Peer] = set()
        self._server: asyncio.Server | None = None

    async def close(self, grace_s: float = 5.0) -> None:
        """Accept nobody more, answer what is under way (at most ``grace_s``), close every connection."""
        if self._server is not None:
            self._server.close()
        await asyncio.gather(*(peer.finish(grace_s) for peer in list(self.peers)))


class _Accepted(Peer):
    """A peer that tunes its socket, and is turned away when the server is full."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sock = transport.get_extra_info("socket")
        if sock is not None:
            tune_stream(sock)
        super().connection_made(transport)
        if len(self._peers) > MAX_CONNECTIONS:
            self.close()


async def serve_frames(
    host: str,
    port: int,
    *,
    authenticate: Authenticate,
    hello_reply: Introduce,
    handle: Callable[[Peer, FrameType, Message, memoryview], Answer | Awaitable[Answer] | None],
    ssl: tls.SSLContext | None = None,
    insecure: bool = False,
    shares: Shares | None = None,
    callers: Callers | None = None,
    frame_bytes: int = MAX_FRAME_BYTES,
) -> FrameServer:
    """Listen on ``host``:``port`` (0: any) and serve until ``close``.

    ``shares``: what a caller may have under way; ``callers``: how many connections; ``frame_bytes``: the longest
    request, header and body.

    ``authenticate`` returns the caller's identity or raises; an attribute ``exp`` (Unix seconds) of it ends its
    authority. ``handle(peer, kind, message, body)`` is a plain function, called in arrival order. It returns
    the answer ``(message, body buffers)``, an awaitable of it (run as a task, answers may overtake each other),
    or None when it has answered, or will, through ``peer.reply``. A CloudVergeError becomes an error reply;
    anything else is logged and becomes INTERNAL. PING and HELLO never reach it.
    """
    listener: socket.socket = open_listener(host, port, tls=ssl is not None, insecure=insecure)
    server = FrameServer(host, listener.getsockname()[1])
    loop = asyncio.get_running_loop()
    server._server = await loop.create_server(
        lambda: _Accepted(authenticate, hello_reply, handle, server.peers, shares, callers, frame_bytes),
        sock=listener,
        ssl=ssl,
        ssl_handshake_timeout=HELLO_WITHIN_S if ssl is not None else None,
    )
    return server
