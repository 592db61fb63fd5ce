"""TLS over a plain transport: OpenSSL between two memory buffers, without a stream layer in between.

OpenSSL gives and takes one record (16 KiB) a call. So reading goes on as long as anything that was received is
left, straight into the caller's view, and writing collects ``BATCH_BYTES`` of records for one send.

One task receives and one at a time sends, but reading may have something to send too (a key update). All that is
encrypted leaves in the order it was made, because only one task at a time empties the buffer (``_flush``).
"""

import ssl
from collections.abc import Iterator, Sequence
from typing import Protocol, cast

from cloudverge_protocol.checksum import Buffer

RECEIVE_BYTES = 256 * 1024
BATCH_BYTES = 256 * 1024
JOIN_BYTES = 64 * 1024  # a frame up to this is joined: fewer records, fewer calls

_LOST = (ssl.SSLError, ValueError)  # ValueError: OpenSSL's buffers were closed under a reader


class Wire(Protocol):
    """What carries the records (see ``transport.Transport``)."""

    async def receive_into(self, view: memoryview) -> int: ...

    async def send(self, buffers: Sequence[Buffer]) -> None: ...

    def close(self) -> None: ...


class TlsTransport:
    """A client's end; ``handshake`` comes first."""

    def __init__(self, wire: Wire, context: ssl.SSLContext, host: str) -> None:
        self._wire = wire
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._received = memoryview(bytearray(RECEIVE_BYTES))
        self._is_flushing = False
        self._has_ended = False

    @property
    def version(self) -> str:
        """The version agreed on."""
        return self._tls.version() or ""

    async def handshake(self) -> None:
        """Agree on keys and verify the server; raises ssl.SSLError or OSError."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
            except ssl.SSLError:
                await self._flush()  # tells the server why
                raise
            await self._receive()
        await self._flush()

    async def receive_into(self, view: memoryview) -> int:
        """As ``Transport.receive_into``."""
        while not (filled := self._decrypt_into(view)) and not self._has_ended:
            if self._outgoing.pending:
                await self._flush()
            await self._receive()
        return filled

    def _decrypt_into(self, view: memoryview) -> int:
        tls, incoming, filled = self._tls, self._incoming, 0
        try:
            while filled < len(view) and (incoming.pending or tls.pending() or incoming.eof):
                count = cast("int", tls.read(len(view) - filled, view[filled:]))
                if not count:
                    self._has_ended = True
                    break
                filled += count
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._has_ended = True
        except _LOST as error:
            raise ConnectionResetError(str(error)) from error
        return filled

    async def _receive(self) -> None:
        count = await self._wire.receive_into(self._received)
        if count:
            self._incoming.write(self._received[:count])
        else:
            self._incoming.write_eof()

    async def send(self, buffers: Sequence[Buffer]) -> None:
        """As ``Transport.send``."""
        for part in _joined(buffers):
            rest = memoryview(part)
            while rest:
                try:
                    rest = rest[self._tls.write(rest) :]
                except _LOST as error:
                    raise ConnectionResetError(str(error)) from error
                if self._outgoing.pending >= BATCH_BYTES:
                    await self._flush()
        await self._flush()

    async def _flush(self) -> None:
        if self._is_flushing:
            return  # who is at it takes ours along
        self._is_flushing = True
        try:
            while self._outgoing.pending:
                await self._wire.send((self._outgoing.read(),))
        finally:
            self._is_flushing = False

    def close(self) -> None:
        """As ``Transport.close``. Frames say where they end, so no goodbye is needed."""
        self._wire.close()


def _joined(buffers: Sequence[Buffer]) -> Iterator[Buffer]:
    if len(buffers) > 1 and sum(map(len, buffers)) <= JOIN_BYTES:
        yield b"".join(buffers)
    else:
        yield from buffers
