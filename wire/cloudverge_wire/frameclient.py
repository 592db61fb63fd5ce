"""A pipelined frame connection from one server to another, on asyncio.

Requests leave in the order of ``begin``; replies come in any order. A connection that failed in any way stays
closed: the owner connects again. HELLO is sent again, ahead of the next request and without waiting, when the
last one is ``RENEW_S`` old: the other side verifies it before it looks at what follows.

Every request has a deadline (one timer for all of them, set to the earliest). Bounded: a request that finds
more than ``WRITE_MAX_BYTES`` unsent is refused with UNAVAILABLE; who sends streams awaits ``drained`` between.
"""

import asyncio
import ssl as tls
from collections.abc import Callable, Sequence
from typing import cast

from cloudverge_protocol import codec
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import CloudVergeError, Code, ProtocolFault, Unavailable, make_error
from cloudverge_protocol.frames import Frame, FrameReader
from cloudverge_protocol.messages import ErrorReply, FrameType, Hello, HelloReply, Message
from cloudverge_wire.flow import WRITE_HIGH_BYTES, write_frame
from cloudverge_wire.listen import tune_stream

Reply = tuple[Message, memoryview]

RENEW_S = 40.0
CALL_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
WRITE_MAX_BYTES = 256 * 1024 * 1024


class _Call:
    __slots__ = ("deadline", "future", "kind")

    def __init__(self, kind: FrameType, future: "asyncio.Future[Reply]", deadline: float) -> None:
        self.kind, self.future, self.deadline = kind, future, deadline


class FrameClient(asyncio.BufferedProtocol):
    """Made by ``FrameClient.connect``."""

    def __init__(self, address: str, hello: Callable[[], Hello]) -> None:
        self.address = address
        self.server: HelloReply | None = None
        self._hello = hello
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._calls: dict[int, _Call] = {}
        self._last_id = 0
        self._greeted_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._lost: CloudVergeError | None = None
        self._resumed: asyncio.Future[None] | None = None  # while writing is paused

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int,
        hello: Callable[[], Hello],
        *,
        ssl: tls.SSLContext | None = None,
        timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> "FrameClient":
        """Connect and introduce ourselves; raises Unavailable, or what the server says to our HELLO."""
        address, loop = f"{host}:{port}", asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                _, client = await loop.create_connection(lambda: cls(address, hello), host, port, ssl=ssl)
        except TimeoutError:
            raise Unavailable(Code.TIMEOUT, f"{address} did not accept within {timeout_s:g} s") from None
        except OSError as error:
            raise Unavailable(Code.UNREACHABLE, f"{address}: {error}") from error
        try:
            await client._greet(timeout_s)
        except BaseException:
            client.close()
            raise
        return client

    async def call(
        self,
        kind: FrameType,
        message: Message,
        body: Sequence[Buffer] = (),
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Reply:
        """Send a request, wait for its reply: (message, body). Raises what the server answered, or Unavailable."""
        await self.drained(timeout_s)
        return await self.begin(kind, message, body, timeout_s=timeout_s)

    def begin(
        self,
        kind: FrameType,
        message: Message,
        body: Sequence[Buffer] = (),
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> "asyncio.Future[Reply]":
        """Send a request now; the future has its reply or error. Cancelling it only stops the waiting.

        Never raises: what is wrong is in the future. ``body`` is not copied and must not change.
        """
        future: asyncio.Future[Reply] = self._loop.create_future()
        trouble = self._trouble()
        if trouble is not None:
            future.set_exception(trouble)
            return future
        try:
            if self._loop.time() > self._greeted_at + RENEW_S and kind is not FrameType.HELLO:
                self._renew()
            self._send(kind, message, body, future, timeout_s)
        except CloudVergeError as fault:  # too large for a frame, or no token to be had
            future.set_exception(fault)
        return future

    async def drained(self, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Wait until the server has taken enough of what was sent; raises Unavailable."""
        if self._resumed is not None:
            try:
                async with asyncio.timeout(timeout_s):
                    await asyncio.shield(self._resumed)
            except TimeoutError:
                raise Unavailable(Code.TIMEOUT, f"{self.address} takes no more data") from None

    @property
    def closed(self) -> bool:
        """Whether the connection is gone for good."""
        return self._lost is not None or self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        """Close at once; calls under way fail with UNREACHABLE."""
        if self._transport is not None:
            self._transport.abort()
        self._fail_all(Unavailable(Code.UNREACHABLE, f"the connection to {self.address} was closed"))

    # --- sending --------------------------------------------------------------------------------------

    def _trouble(self) -> CloudVergeError | None:
        transport = self._transport
        if self._lost is not None:
            return make_error(self._lost.code, self._lost.message)
        if transport is None or transport.is_closing():
            return Unavailable(Code.UNREACHABLE, f"the connection to {self.address} is lost")
        if transport.get_write_buffer_size() > WRITE_MAX_BYTES:
            return Unavailable(
                Code.UNAVAILABLE, f"{self.address} is too slow: {WRITE_MAX_BYTES} bytes unsent"
            )
        return None

    def _send(
        self,
        kind: FrameType,
        message: Message,
        body: Sequence[Buffer],
        future: "asyncio.Future[Reply]",
        timeout_s: float,
    ) -> None:
        self._last_id = self._last_id % 0xFFFFFFFF + 1
        head = codec.encode_request(kind, self._last_id, message, sum(map(len, body)))
        deadline = self._loop.time() + timeout_s
        self._calls[self._last_id] = _Call(kind, future, deadline)
        self._watch(deadline)
        assert self._transport is not None
        write_frame(self._transport, head, body)

    async def _greet(self, timeout_s: float) -> None:
        reply, _ = await self.begin(FrameType.HELLO, self._hello(), timeout_s=timeout_s)
        assert isinstance(reply, HelloReply)
        self.server = reply
        self._greeted_at = self._loop.time()

    def _renew(self) -> None:
        self._greeted_at = self._loop.time()
        future = self.begin(FrameType.HELLO, self._hello())
        future.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # a refusal closes us anyway

    # --- receiving ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's are not subclasses
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None:
            tune_stream(sock)
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        why = f"{self.address}: {exc}" if exc else f"{self.address} closed the connection"
        self._fail_all(Unavailable(Code.UNREACHABLE, why))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self._reader.buffer_updated(nbytes)
        try:
            while (frame := self._reader.next_frame()) is not None:
                self._deliver(frame)
        except ProtocolFault as fault:
            self._fail_all(Unavailable(Code.UNREACHABLE, f"{self.address} sent garbage: {fault.message}"))
            if self._transport is not None:
                self._transport.abort()

    def _deliver(self, frame: Frame) -> None:
        call = self._calls.pop(frame.request_id, None)
        if call is None or call.future.done():  # the caller has given up
            return
        try:
            reply = codec.decode_reply(call.kind, frame)
        except ProtocolFault as fault:
            call.future.set_exception(fault)
            return
        if isinstance(reply, ErrorReply):
            error = make_error(reply.code, reply.message)
            error.retry_after_s = reply.retry_after_s
            call.future.set_exception(error)
        else:
            call.future.set_result((reply, frame.body))

    def _fail_all(self, reason: CloudVergeError) -> None:
        self._lost = self._lost or reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if not call.future.done():
                call.future.set_exception(make_error(reason.code, reason.message))
        self.resume_writing()

    def pause_writing(self) -> None:
        if self._resumed is None:
            self._resumed = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)
        self._resumed = None

    # --- deadlines ------------------------------------------------------------------------------------

    def _watch(self, deadline: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        for request_id, call in list(self._calls.items()):
            if call.future.done():
                del self._calls[request_id]
            elif call.deadline <= now:
                del self._calls[request_id]
                late = Unavailable(Code.TIMEOUT, f"{self.address} did not answer {call.kind.name} in time")
                call.future.set_exception(late)
        if self._calls:
            self._watch(min(call.deadline for call in self._calls.values()))
