"""The one narrow seam to the network: bytes received into a buffer, buffers sent, nothing else.

With a TLS context a transport is encrypted and the server verified, or it is not made: see ``tlsfaults``.

``PlainTransport`` talks to a non-blocking socket directly and suspends only when the kernel says so: a trio
socket call costs a scheduler turn even when it could answer at once, and the chunk path makes thousands a
second. Each method still yields to the loop now and then, so that a fast peer cannot starve the rest.
"""

import socket
import ssl
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urlsplit

import trio

from cloudverge_mount.tlsfaults import Untrusted, tls_expected, tls_fault
from cloudverge_mount.tlstransport import TlsTransport
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import CloudVergeError, Code, Unavailable

TURNS_BEFORE_YIELD = 32
SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
PROBE_S = 2.0
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


async def connect(host: str, port: int, *, tls: ssl.SSLContext | None, timeout_s: float) -> Transport:
    """A transport to ``host``:``port``; raises Unavailable(UNREACHABLE or TIMEOUT), or Untrusted."""
    try:
        with trio.fail_after(timeout_s):
            plain = PlainTransport(_take_socket(await trio.open_tcp_stream(host, port)))
            return plain if tls is None else await _secured(plain, tls, host)
    except trio.TooSlowError:
        raise Unavailable(Code.TIMEOUT, f"{host}:{port} did not accept within {timeout_s:g} s") from None
    except OSError as error:  # ssl.SSLError is one too
        fault = tls_fault(error, f"{host}:{port}")
        raise fault or Unavailable(Code.UNREACHABLE, f"cannot connect to {host}:{port}: {error}") from error


async def _secured(plain: PlainTransport, tls: ssl.SSLContext, host: str) -> TlsTransport:
    secured = TlsTransport(plain, tls, host)
    try:
        await secured.handshake()
    except BaseException:
        plain.close()
        raise
    return secured


async def speaks_tls(host: str, port: int, timeout_s: float = PROBE_S) -> bool:
    """Whether a server that closed a plain connection would have liked TLS; nothing is sent to it but a greeting."""
    greeting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    greeting.check_hostname, greeting.verify_mode = False, ssl.CERT_NONE
    try:
        (await connect(host, port, tls=greeting, timeout_s=timeout_s)).close()
    except CloudVergeError:
        return False
    return True


async def http_fault(error: BaseException, url: str) -> Untrusted | None:
    """What to say if an HTTP request failed because of TLS; None if it was something else."""
    parts = urlsplit(url)
    where = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
    fault = tls_fault(error, where)
    if fault is None and parts.scheme == "http" and await speaks_tls(parts.hostname or "", parts.port or 80):
        return tls_expected(where)
    return fault


def _take_socket(stream: trio.SocketStream) -> socket.socket:
    """The plain socket inside a trio stream, detached from it."""
    trio_socket = stream.socket
    return socket.socket(trio_socket.family, trio_socket.type, trio_socket.proto, fileno=trio_socket.detach())
