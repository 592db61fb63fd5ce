"""One pipelined frame connection to a server, on trio.

Many calls may be under way at once; replies come in any order and wake their caller. A connection that has
failed in any way (lost, garbage received, a send cut short) is closed and stays so: ``Link`` opens the next.

Deadlines count time without progress: as long as bytes keep arriving or leaving on this connection a call is
not given up before ``STRETCH`` times its timeout, so a large body on a slow line is not a failure. One watchdog
per connection keeps them all (two cancel scopes a call would cost as much as the rest of it); it sleeps while
nothing is under way.
"""

import itertools
import ssl
from collections.abc import Awaitable, Callable, Sequence

import trio

from cloudverge_mount.tlsfaults import tls_expected
from cloudverge_mount.transport import Transport, connect, speaks_tls
from cloudverge_protocol import codec
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import CloudVergeError, Code, ProtocolFault, Unavailable, make_error
from cloudverge_protocol.frames import Frame, FrameReader
from cloudverge_protocol.messages import ErrorReply, FrameType, Hello, HelloReply, Message

STRETCH = 4
WATCH_EVERY_S = 0.5
WATCH_IDLE_S = 5.0  # the watchdog ends after so long without a call
HelloSource = Callable[[], Awaitable[Hello]]


class _Waiter:
    """A call under way: what was asked, and the answer once it is there."""

    __slots__ = ("error", "event", "frame", "is_sent", "kind", "started", "timeout_s")

    def __init__(self, kind: FrameType, timeout_s: float) -> None:
        self.kind = kind
        self.started = trio.current_time()
        self.timeout_s = timeout_s
        self.is_sent = False
        self.event = trio.Event()
        self.frame: Frame | None = None
        self.error: CloudVergeError | None = None


class Connection:
    """Made by ``Connection.open``; ``call`` is safe from many tasks."""

    def __init__(self, transport: Transport, peer: str, nursery: trio.Nursery) -> None:
        self._transport = transport
        self._peer = peer
        self._nursery = nursery
        self._is_watched = False
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
        """Connect and introduce ourselves. Raises Unavailable, or what the server says to our HELLO.

        Raises Untrusted if the server cannot prove itself, or speaks TLS and we do not, or the other way round.
        """
        connection = cls(await connect(host, port, tls=tls, timeout_s=timeout_s), f"{host}:{port}", nursery)
        nursery.start_soon(connection._receive_frames)
        try:
            await connection.greet(hello, timeout_s=timeout_s)
        except Unavailable as error:
            connection.close()
            if tls is None and error.code == Code.UNREACHABLE and await speaks_tls(host, port):
                raise tls_expected(f"{host}:{port}") from None
            raise
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
        waiter = self._waiting[request_id] = _Waiter(kind, timeout_s)
        if not self._is_watched:
            self._is_watched = True
            self._nursery.start_soon(self._watch)
        try:
            head = codec.encode_request(kind, request_id, message, sum(map(len, body)))
            await self._send((head, *body))
            waiter.is_sent = True
            await waiter.event.wait()
        finally:
            self._waiting.pop(request_id, None)
        return self._reply_of(kind, waiter)

    async def _send(self, buffers: Sequence[Buffer]) -> None:
        try:
            self._sending.acquire_nowait()  # usually free; waiting in line costs a turn of the loop
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            await self._send_whole(buffers)
        finally:
            self._sending.release()

    async def _send_whole(self, buffers: Sequence[Buffer]) -> None:
        if self.closed:
            raise Unavailable(Code.UNREACHABLE, f"the connection to {self._peer} is lost")
        whole = False
        try:
            await self._transport.send(buffers)
            whole = True
            self._last_progress = trio.current_time()
        except (OSError, trio.ClosedResourceError) as error:
            raise Unavailable(Code.UNREACHABLE, f"{self._peer}: {error}") from error
        finally:
            if not whole:  # half a frame may be out: nobody can send after it
                self.close()

    async def _watch(self) -> None:
        """Give up calls that have waited too long without progress."""
        idle_at = trio.current_time() + WATCH_IDLE_S
        while not self.closed and (self._waiting or trio.current_time() < idle_at):
            now, next_look = trio.current_time(), WATCH_EVERY_S
            if self._waiting:
                idle_at = now + WATCH_IDLE_S
            for request_id, waiter in list(self._waiting.items()):
                left = self._patience_left_s(waiter, now)
                if left <= 0:
                    self._give_up(request_id, waiter)
                else:
                    next_look = min(next_look, left)
            await trio.sleep(max(0.005, next_look))
        self._is_watched = False

    def _patience_left_s(self, waiter: _Waiter, now: float) -> float:
        quiet_until = max(waiter.started, self._last_progress) + waiter.timeout_s
        return min(quiet_until, waiter.started + waiter.timeout_s * STRETCH) - now

    def _give_up(self, request_id: int, waiter: _Waiter) -> None:
        if not waiter.is_sent:
            self.close()  # the request is stuck in the socket; who sends now or waits to gets an error
            return
        del self._waiting[request_id]
        waiter.error = Unavailable(Code.TIMEOUT, f"{self._peer} did not answer {waiter.kind.name} in time")
        waiter.event.set()

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
