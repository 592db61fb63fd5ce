"""One pipelined frame connection to a server, on trio.

Many calls may be under way at once; replies come in any order and wake their caller. A connection that has
failed in any way (lost, garbage received, a send cut short) is closed and stays so: ``Link`` opens the next.

Deadlines count time without progress: as long as bytes keep arriving or leaving on this connection a call is
not given up before ``STRETCH`` times its timeout, so a large body on a slow line is not a failure.
"""

import itertools
import ssl
from collections.abc import Awaitable, Callable, Sequence

import trio

from cloudverge_mount.transport import Transport, connect
from cloudverge_protocol import codec
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import CloudVergeError, Code, ProtocolFault, Unavailable, make_error
from cloudverge_protocol.frames import Frame, FrameReader
from cloudverge_protocol.messages import ErrorReply, FrameType, Hello, HelloReply, Message

STRETCH = 4
HelloSource = Callable[[], Awaitable[Hello]]


class _Waiter:
    """A call under way: what was asked, and the answer once it is there."""

    __slots__ = ("error", "event", "frame")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.frame: Frame | None = None
        self.error: CloudVergeError | None = None


class Connection:
    """Made by ``Connection.open``; ``call`` is safe from many tasks."""

    def __init__(self, transport: Transport, peer: str) -> None:
        self._transport = transport
        self._peer = peer
        self._ids = itertools.count(1)
        self._waiting: dict[int, _Waiter] = {}
        self._sending = trio.Lock()
        self._last_progress = trio.current_time()
        self.closed = False
        self.server: HelloReply | None = None

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        hello: HelloSource,
        nursery: trio.Nursery,
        *,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 5.0,
    ) -> "Connection":
        """Connect and introduce ourselves. Raises Unavailable, or what the server says to our HELLO."""
        connection = cls(await connect(host, port, tls=tls, timeout_s=timeout_s), f"{host}:{port}")
        nursery.start_soon(connection._receive_frames)
        try:
            await connection.greet(hello, timeout_s=timeout_s)
        except BaseException:
            connection.close()
            raise
        return connection

    async def greet(self, hello: HelloSource, *, timeout_s: float = 5.0) -> None:
        """Send HELLO (again, with a fresher token)."""
        reply, _ = await self.call(FrameType.HELLO, await hello(), timeout_s=timeout_s)
        assert isinstance(reply, HelloReply)
        self.server = reply

    async def call(
        self, kind: FrameType, message: Message, body: Sequence[Buffer] = (), *, timeout_s: float = 30.0
    ) -> tuple[Message, memoryview]:
        """Send a request and wait for its reply and the reply's body.

        Raises the error the server answered, or Unavailable(UNREACHABLE, TIMEOUT).
        """
        if self.closed:
            raise Unavailable(Code.UNREACHABLE, f"the connection to {self._peer} is lost")
        request_id = next(self._ids) & 0xFFFFFFFF
        waiter = self._waiting[request_id] = _Waiter()
        try:
            await self._wait_for_reply(kind, request_id, message, body, waiter, timeout_s)
        finally:
            self._waiting.pop(request_id, None)
        return self._reply_of(kind, waiter)

    async def _wait_for_reply(
        self,
        kind: FrameType,
        request_id: int,
        message: Message,
        body: Sequence[Buffer],
        waiter: _Waiter,
        timeout_s: float,
    ) -> None:
        started = trio.current_time()
        head = codec.encode_request(kind, request_id, message, sum(map(len, body)))
        with trio.move_on_after(timeout_s * STRETCH):
            await self._send((head, *body), timeout_s)
            while not waiter.event.is_set():
                quiet_until = max(started, self._last_progress) + timeout_s
                with trio.move_on_at(quiet_until):
                    await waiter.event.wait()
                if trio.current_time() >= max(started, self._last_progress) + timeout_s:
                    break
        if not waiter.event.is_set():
            raise Unavailable(Code.TIMEOUT, f"{self._peer} did not answer {kind.name} in time")

    async def _send(self, buffers: Sequence[Buffer], timeout_s: float) -> None:
        async with self._sending:
            if self.closed:
                raise Unavailable(Code.UNREACHABLE, f"the connection to {self._peer} is lost")
            whole = False
            try:
                await self._transport.send(buffers)
                whole = True
                self._last_progress = trio.current_time()
            except OSError as error:
                raise Unavailable(Code.UNREACHABLE, f"{self._peer}: {error}") from error
            finally:
                if not whole:  # half a frame may be out: nobody can send after it
                    self.close()

    def _reply_of(self, kind: FrameType, waiter: _Waiter) -> tuple[Message, memoryview]:
        if waiter.error is not None:
            raise make_error(waiter.error.code, waiter.error.message)
        assert waiter.frame is not None
        reply = codec.decode_reply(kind, waiter.frame)
        if isinstance(reply, ErrorReply):
            error = make_error(reply.code, reply.message)
            error.retry_after_s = reply.retry_after_s
            raise error
        return reply, waiter.frame.body

    async def _receive_frames(self) -> None:
        reader = FrameReader()
        reason: CloudVergeError = Unavailable(Code.UNREACHABLE, f"{self._peer} closed the connection")
        try:
            while received := await self._transport.receive_into(reader.get_buffer()):
                self._last_progress = trio.current_time()
                reader.buffer_updated(received)
                while (frame := reader.next_frame()) is not None:
                    self._deliver(frame)
        except OSError as error:
            reason = Unavailable(Code.UNREACHABLE, f"{self._peer}: {error}")
        except trio.ClosedResourceError:
            pass
        except ProtocolFault as fault:
            reason = Unavailable(Code.UNREACHABLE, f"{self._peer} sent garbage: {fault}")
        finally:
            self._fail_all(reason)

    def _deliver(self, frame: Frame) -> None:
        waiter = self._waiting.pop(frame.request_id, None)
        if waiter is not None:  # else the caller has given up
            waiter.frame = frame
            waiter.event.set()

    def _fail_all(self, reason: CloudVergeError) -> None:
        self.close()
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting.values():
            waiter.error = reason
            waiter.event.set()

    def close(self) -> None:
        """Close at once; calls under way fail with UNREACHABLE."""
        if not self.closed:
            self.closed = True
            self._transport.close()
