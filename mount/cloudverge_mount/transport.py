"""The one narrow seam to the network: bytes received into a buffer, buffers sent, nothing else.

``PlainTransport`` talks to a non-blocking socket directly and suspends only when the kernel says so: a trio
socket call costs a scheduler turn even when it could answer at once, and the chunk path makes thousands a
second. Each method still yields to the loop now and then, so that a fast peer cannot starve the rest.
"""

import socket
import ssl
from collections.abc import Sequence
from typing import Protocol

import trio

from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import Code, Unavailable

TURNS_BEFORE_YIELD = 32
SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
IOV_MAX = 512  # buffers in one sendmsg (the kernel takes 1024)


class Transport(Protocol):
    """A connected byte stream. One task receives, one at a time sends."""

    async def receive_into(self, view: memoryview) -> int:
        """Bytes received into the front of ``view``; 0 at the end of the stream. Raises OSError."""

    async def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all; cancelled or failed half way, the stream is unusable. Raises OSError."""

    def close(self) -> None:
        """Close at once; tasks waiting in the other methods get an error."""


class PlainTransport:
    """Transport over a connected TCP socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        self._sock = sock
        self._turns = 0

    async def _yield_sometimes(self) -> None:
        self._turns += 1
        if self._turns >= TURNS_BEFORE_YIELD:
            self._turns = 0
            await trio.lowlevel.checkpoint()

    async def receive_into(self, view: memoryview) -> int:
        await self._yield_sometimes()
        while True:
            try:
                return self._sock.recv_into(view)
            except BlockingIOError:
                self._turns = 0
                await trio.lowlevel.wait_readable(self._sock)

    async def send(self, buffers: Sequence[Buffer]) -> None:
        await self._yield_sometimes()
        rest = [memoryview(buffer) for buffer in buffers if len(buffer)]
        while rest:
            try:
                sent = self._sock.sendmsg(rest[:IOV_MAX])
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._sock)
                continue
            rest = _unsent(rest, sent)

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


def _unsent(buffers: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of ``buffers`` after the first ``sent`` bytes."""
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [buffer[sent:], *buffers[index + 1 :]]
        sent -= len(buffer)
    return []


class TlsTransport:
    """Transport over TLS; one copy more in each direction, which encryption costs anyway."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream

    async def receive_into(self, view: memoryview) -> int:
        try:
            data = await self._stream.receive_some(len(view))
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
            raise ConnectionResetError(str(error)) from error
        view[: len(data)] = data
        return len(data)

    async def send(self, buffers: Sequence[Buffer]) -> None:
        try:
            for buffer in buffers:
                await self._stream.send_all(buffer)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
            raise ConnectionResetError(str(error)) from error

    def close(self) -> None:
        self._stream.transport_stream.socket.close()


async def connect(host: str, port: int, *, tls: ssl.SSLContext | None, timeout_s: float) -> Transport:
    """A transport to ``host``:``port``; raises Unavailable(UNREACHABLE or TIMEOUT)."""
    try:
        with trio.fail_after(timeout_s):
            stream = await trio.open_tcp_stream(host, port)
            if tls is None:
                return PlainTransport(_take_socket(stream))
            secured = trio.SSLStream(stream, tls, server_hostname=host)
            await secured.do_handshake()
            return TlsTransport(secured)
    except trio.TooSlowError:
        raise Unavailable(Code.TIMEOUT, f"{host}:{port} did not accept within {timeout_s:g} s") from None
    except (OSError, trio.BrokenResourceError, ssl.SSLError) as error:
        raise Unavailable(Code.UNREACHABLE, f"cannot connect to {host}:{port}: {error}") from error


def _take_socket(stream: trio.SocketStream) -> socket.socket:
    """The plain socket inside a trio stream, detached from it."""
    trio_socket = stream.socket
    return socket.socket(trio_socket.family, trio_socket.type, trio_socket.proto, fileno=trio_socket.detach())
