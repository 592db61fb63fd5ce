"""One accepted frame connection: HELLO first, then requests, answered in any order.

Order of the checks (what they are: ``admission``): the first 24 bytes must announce a small HELLO before
anything is allocated or decoded for the caller; the token is verified before the next frame is looked at; and
each later request is checked against the authority's end before its header is decoded. All refusals of a
caller without a valid token are the same frame with the same message.

Bounds: at most ``IN_FLIGHT`` requests and ``IN_FLIGHT_BYTES`` of their bodies and expected replies are under
way; beyond that, or while the caller does not take its replies, nothing more is read from it. So a connection
costs at most IN_FLIGHT_BYTES + WRITE_HIGH_BYTES + one frame. With ``shares`` that limit is one for all connections
of a caller; with ``callers`` he may have so many of them. A caller that takes nothing for ``STALL_S`` is cut.

Requests are handed on in arrival order by a plain call; what comes back may be the answer itself (no task), or
an awaitable (run as a task). Tasks of a lost connection run to their end: half a request is worse than one
that nobody hears of. A new HELLO may change ``identity`` while requests are under way: a handler reads it at its start.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

import structlog

from cloudverge_protocol import codec
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import CloudVergeError, Code, ProtocolFault, Unavailable
from cloudverge_protocol.frames import MAX_FRAME_BYTES, PREFIX_BYTES, Frame, FrameReader
from cloudverge_protocol.messages import REQUESTS, Empty, ErrorReply, FrameType, Hello, Message
from cloudverge_wire.admission import (
    HELLO_WITHIN_S,
    Authenticate,
    Introduce,
    admit,
    is_small_hello,
    unauthorized,
)
from cloudverge_wire.flow import WRITE_HIGH_BYTES, Callers, InFlight, Shares, cost_of, write_frame
from cloudverge_wire.misconduct import misconduct

Answer = tuple[Message, Sequence[Buffer]]

STALL_S = 60.0
LINGER_S = 1.0
FLUSH_S = 1.0

log = structlog.get_logger("cloudverge.wire")


if TYPE_CHECKING:
    Handle = Callable[["Peer", FrameType, Message, memoryview], Answer | Awaitable[Answer] | None]


class Peer(asyncio.BufferedProtocol):
    """One caller. Handlers use ``identity``, ``address``, ``reply``, ``fail``, ``drained`` and ``close``."""

    def __init__(
        self,
        authenticate: Authenticate,
        introduce: Introduce,
        handle: "Handle",
        peers: "set[Peer]",
        shares: Shares | None = None,
        callers: Callers | None = None,
        frame_bytes: int = MAX_FRAME_BYTES,
    ) -> None:
        self._authenticate, self._introduce, self._handle = authenticate, introduce, handle
        self._peers, self._shares, self._callers = peers, shares, callers
        self._caller: Hashable | None = None  # as whose connection this one counts
        self.identity: object | None = None
        self.hello: Hello | None = None
        self.address = "?"
        self._authority_ends_s: float | None = None
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(frame_bytes)
        self._first: memoryview | None = memoryview(bytearray(PREFIX_BYTES))  # until judged
        self._first_bytes = 0
        self._tasks: set[asyncio.Future[Answer]] = set()
        self._greeting: asyncio.Task[None] | None = None
        self._in_flight = InFlight()
        self._reading = self._writing = True
        self._parting = False  # refused: input is thrown away
        self._stopping = False  # the server is: nothing more is taken
        self._resumed: asyncio.Future[None] | None = None
        self._hello_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._gone = asyncio.Event()

    # --- for handlers ---------------------------------------------------------------------------------

    def reply(self, kind: int, request_id: int, message: Message, body: Sequence[Buffer] = ()) -> None:
        """Answer a request; a caller that has gone is no error. ``body`` must not change afterwards."""
        head = codec.encode_reply(kind, request_id, message, sum(map(len, body)))
        if self._transport is not None and not self._transport.is_closing() and not self._parting:
            write_frame(self._transport, head, body)

    def fail(self, kind: int, request_id: int, error: CloudVergeError, retry_after_s: float = 0.0) -> None:
        """Answer a request with an error."""
        if self._transport is not None and not self._transport.is_closing() and not self._parting:
            reply = ErrorReply(error.code, error.message, retry_after_s or error.retry_after_s)
            self._transport.write(codec.encode_error(kind, request_id, reply))

    async def drained(self) -> None:
        """Wait until the caller has taken enough of its replies; raises Unavailable if it is gone."""
        while not self._writing:
            if self._resumed is None:
                self._resumed = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._resumed)
        if self.closed:
            raise Unavailable(Code.UNREACHABLE, f"{self.address} is gone")

    @property
    def closed(self) -> bool:
        """Whether nothing more can be sent to this caller."""
        return self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        """Send what is buffered, then close."""
        if self._transport is not None:
            self._transport.close()

    async def finish(self, grace_s: float) -> None:
        """Take no more requests, let those under way be answered, then close; cut off after ``grace_s``."""
        self._stopping = True
        self._set_reading(False)
        if not await _came(self._idle, grace_s):
            for task in self._tasks:
                task.cancel()
            await _came(self._idle, FLUSH_S)
        self.close()
        if not await _came(self._gone, FLUSH_S) and self._transport is not None:
            self._transport.abort()

    # --- asyncio's side -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's are not subclasses
        self._transport = transport
        name = transport.get_extra_info("peername")
        self.address = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._hello_timer = asyncio.get_running_loop().call_later(HELLO_WITHIN_S, self.refuse)
        self._peers.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._peers.discard(self)
        for timer in (self._hello_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        if self._greeting is not None:
            self._greeting.cancel()
        self._in_flight.forget(self._advance)
        if self._callers is not None:
            self._callers.leave(self._caller)
        self._transport = None
        self._writing = True
        self._gone.set()
        self._wake_drained()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._parting:
            return memoryview(bytearray(PREFIX_BYTES * 1024))
        if self._first is not None:
            return self._first[self._first_bytes :]
        return self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self._parting:
            return
        if self._first is not None:
            self._first_bytes += nbytes
            if self._first_bytes == PREFIX_BYTES:
                self._judge_first(self._first)
            return
        self._reader.buffer_updated(nbytes)
        self._advance()

    def eof_received(self) -> bool:
        if self.identity is None and not self._parting and self._greeting is None:
            self.refuse()
        return False

    def pause_writing(self) -> None:
        self._writing = False
        self._watch_for_stall(-1)
        self._set_reading(False)

    def resume_writing(self) -> None:
        self._writing = True
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        self._wake_drained()
        asyncio.get_running_loop().call_soon(self._advance)

    # --- frames ---------------------------------------------------------------------------------------

    def _judge_first(self, prefix: memoryview) -> None:
        self._first = None
        if not is_small_hello(prefix):
            self.refuse()
            return
        self._reader.get_buffer()[:PREFIX_BYTES] = prefix
        self._reader.buffer_updated(PREFIX_BYTES)
        self._advance()

    def _held(self) -> bool:
        """Whether the next request must wait."""
        return not self._writing or self._stopping or self._greeting is not None or self._in_flight.full

    def _advance(self) -> None:
        if self.closed:
            return
        try:
            while not self._parting and not self._held() and (frame := self._reader.next_frame()) is not None:
                self._take(frame)
        except ProtocolFault as fault:
            self._lose_framing(fault)
        if self._in_flight.full:
            self._in_flight.hold(self._advance)
        self._set_reading(self._parting or not self._held())

    def _set_reading(self, wanted: bool) -> None:
        if wanted != self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _take(self, frame: Frame) -> None:
        if frame.type == FrameType.HELLO:
            self._greet(frame)
        elif self.identity is None:
            self.refuse(frame.type, frame.request_id)
        elif self._authority_has_ended():
            self.fail(frame.type, frame.request_id, unauthorized())
        else:
            self._serve(frame)

    def _authority_has_ended(self) -> bool:
        return self._authority_ends_s is not None and time.time() >= self._authority_ends_s

    def _serve(self, frame: Frame) -> None:
        try:
            kind, message = codec.decode_request(frame)
            if kind is FrameType.PING:
                self.reply(kind, frame.request_id, Empty())
                return
            answer = self._handle(self, kind, message, frame.body)
        except Exception as error:
            self._fail_with(frame.type, frame.request_id, error)
            return
        if answer is None:
            return
        if isinstance(answer, tuple):
            self._answer(kind, frame.request_id, answer)
            return
        self._run(kind, frame.request_id, cost_of(frame, message), answer)

    def _run(self, kind: FrameType, request_id: int, cost: int, work: Awaitable[Answer]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        self._in_flight.add(cost)
        self._idle.clear()
        task.add_done_callback(partial(self._done, kind, request_id, cost, self._in_flight))

    def _done(
        self,
        kind: FrameType,
        request_id: int,
        cost: int,
        in_flight: InFlight,
        task: "asyncio.Future[Answer]",
    ) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            self.fail(kind, request_id, Unavailable(Code.UNAVAILABLE, "the server is stopping: try again"))
        elif (error := task.exception()) is not None:
            self._fail_with(kind, request_id, error)
        else:
            self._answer(kind, request_id, task.result())
        if not self._tasks:
            self._idle.set()
        in_flight.remove(cost)

    def _answer(self, kind: FrameType, request_id: int, answer: Answer) -> None:
        try:
            self.reply(kind, request_id, *answer)
        except Exception as error:
            self._fail_with(kind, request_id, error)

    def _fail_with(self, kind: int, request_id: int, error: BaseException) -> None:
        if not isinstance(error, CloudVergeError):
            log.error("request failed", frame_type=kind, peer=self.address, exc_info=error)
            error = Unavailable(Code.INTERNAL, "internal error: the server's log has the details")
        if error.is_suspicious:
            request = FrameType(kind).name if kind in REQUESTS else "unknown"
            misconduct.note(self.identity, request, error.code, peer=self.address)
        self.fail(kind, request_id, error)

    # --- HELLO and its refusal ------------------------------------------------------------------------

    def _greet(self, frame: Frame) -> None:
        try:
            _, hello = codec.decode_request(frame)
        except ProtocolFault:
            self.refuse(frame.type, frame.request_id)
            return
        assert isinstance(hello, Hello)
        self._cancel_hello_timer()
        self._greeting = asyncio.ensure_future(self._admit(frame.request_id, hello))

    async def _admit(self, request_id: int, hello: Hello) -> None:
        try:
            identity, reply = await admit(hello, self._authenticate, self._introduce)
            if self._callers is not None:
                self._caller = self._callers.enter(identity, self._caller)
        except CloudVergeError as error:
            self._refuse_with(FrameType.HELLO, request_id, error)
        else:
            self.identity, self.hello = identity, hello
            if self._shares is not None:
                self._in_flight.forget(self._advance)
                self._in_flight = self._shares.of(identity)
            self._authority_ends_s = getattr(identity, "exp", None)
            self.reply(FrameType.HELLO, request_id, reply)
        finally:
            self._greeting = None
            asyncio.get_running_loop().call_soon(self._advance)

    def _cancel_hello_timer(self) -> None:
        if self._hello_timer is not None:
            self._hello_timer.cancel()
            self._hello_timer = None

    def refuse(self, kind: int = FrameType.HELLO, request_id: int = 0) -> None:
        """Say the one thing that a caller without a valid token is told, and part."""
        self._refuse_with(kind, request_id, unauthorized())

    def _refuse_with(self, kind: int, request_id: int, error: CloudVergeError) -> None:
        self.identity = None
        self.fail(kind, request_id, error)
        self._part()

    def _lose_framing(self, fault: ProtocolFault) -> None:
        if self.identity is None:
            self.refuse()
        else:
            self.fail(0, 0, fault)
            self._part()

    def _part(self) -> None:
        """Close in a way that lets the last reply arrive: a close with unread input would reset the connection."""
        if self._transport is None or self._parting or self._transport.is_closing():
            return
        self._parting = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._set_reading(True)
            asyncio.get_running_loop().call_later(LINGER_S, self.close)
        else:
            self._transport.close()

    # --- a caller that does not take its replies ------------------------------------------------------

    def _watch_for_stall(self, last_bytes: int) -> None:
        if self._transport is None or self._writing:
            return
        waiting = self._transport.get_write_buffer_size()
        if waiting == last_bytes:
            log.warning("caller takes no replies, cut off", peer=self.address, waiting_bytes=waiting)
            self._transport.abort()
            return
        self._stall_timer = asyncio.get_running_loop().call_later(STALL_S, self._watch_for_stall, waiting)

    def _wake_drained(self) -> None:
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)
        self._resumed = None


async def _came(event: asyncio.Event, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
