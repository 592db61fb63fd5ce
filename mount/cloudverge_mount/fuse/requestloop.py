"""The loop of requests: reads one, has it answered, writes the answer, and starts over.

A request costs no turn of the trio loop. Its handler is a coroutine, and this loop takes its first step by itself:
most handlers have their answer then. One that suspends hands out what it wants of trio (its *trap*); the worker passes
that on, as ``await`` would have done, and goes on waiting as that request, while another worker takes over reading.
Handlers notice nothing, since each runs in one task from beginning to end. So there is always one reader, nobody is
woken while all is quick, and a request that waits blocks no other.

Every ``QUANTUM_S`` the loop gets a real checkpoint, at once if another task is due and no request waits; while nothing
else is due the reader lingers for the next request (see ``readiness``).

What ends a request that waits, other than its answer, is in ``patience``. Each worker runs in a cancel scope, which
must be older than the handlers in it; so one that was given up begins afresh.
"""

import errno
import os
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from time import monotonic
from typing import Any, Final

import structlog
import trio
from trio.lowlevel import Task

from cloudverge_mount.fuse import replies
from cloudverge_mount.fuse.abi import Opcode
from cloudverge_mount.fuse.patience import Patience
from cloudverge_mount.fuse.requests import BadRequest, Decoder, Request
from cloudverge_mount.readiness import Readiness
from cloudverge_protocol.checksum import Buffer

QUANTUM_S: Final = 0.001
WORKERS_MAX: Final = 5000  # each of them waits; the kernel's callers are as many
IDLE_MAX: Final = 4

Reply = bytes | Sequence[Buffer] | None
Handler = Callable[[Request, Any], Coroutine[Any, Any, Reply]]  # of a request and its body
_INTERRUPT: Final = int(Opcode.INTERRUPT)
_OF_OPEN_FILES: Final = frozenset(  # whoever has it open was let in then
    (
        *(Opcode.READ, Opcode.WRITE, Opcode.FSYNC, Opcode.FLUSH, Opcode.RELEASE),
        *(Opcode.READDIR, Opcode.READDIRPLUS, Opcode.FSYNCDIR, Opcode.RELEASEDIR),
        *(Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.DESTROY),
    )
)
_log = structlog.get_logger()


class _Rest:
    """The rest of a coroutine whose first step has been taken: waits for what it waits for."""

    __slots__ = ("_coroutine", "_trap")

    def __init__(self, coroutine: Coroutine[Any, Any, Reply], trap: object) -> None:
        self._coroutine = coroutine
        self._trap = trap

    def __await__(self) -> Generator[Any, Any, Reply]:
        coroutine, trap = self._coroutine, self._trap
        reply: Reply
        while True:
            try:
                sent = yield trap
            except BaseException as error:
                try:
                    trap = coroutine.throw(error)
                except StopIteration as done:
                    reply = done.value
                    return reply
            else:
                try:
                    trap = coroutine.send(sent)
                except StopIteration as done:
                    reply = done.value
                    return reply


class RequestLoop(trio.abc.Instrument):
    """Serves the device ``fd``, which must not block. ``handlers`` answer by opcode; others get ENOSYS.

    ``refuse`` says which errno an exception of a handler is. A request may take ``patience_s``; those that may take
    ``longer_s`` are named by opcode, as are those that end with any signal (``interruptible``). With ``only_uid``
    nobody but this user and root is let in (allow_root, of which the kernel knows nothing).
    """

    def __init__(
        self,
        fd: int,
        decoder: Decoder,
        buffer_bytes: int,
        handlers: dict[int, Handler],
        refuse: Callable[[Request, Exception], int],
        *,
        patience_s: float,
        longer_s: dict[int, float] | None = None,
        interruptible: Iterable[int] = (),
        only_uid: int | None = None,
    ) -> None:
        self._fd = fd
        self._decode = decoder.decode
        self._buffer = memoryview(bytearray(buffer_bytes))
        self._vector = [self._buffer]
        self._handlers = handlers
        self._refuse = refuse
        self._patience = Patience(patience_s, longer_s or {}, interruptible)
        self._only_uid = only_uid
        self._readiness = Readiness(fd)
        self._reader: Task | None = None
        self._idle: deque[Task] = deque()
        self._workers = 0
        self._due: set[Task] = set()  # runnable tasks that wait for us
        self._yield_at = 0.0
        self._nursery: trio.Nursery | None = None
        self.ended = False

    async def run(self) -> None:
        """Answer until the mount ends, or ``end`` is called."""
        trio.lowlevel.add_instrument(self)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._patience.watch)
                self._start_worker()
        finally:
            self.ended = True
            self._nursery = None
            trio.lowlevel.remove_instrument(self)

    def end(self) -> None:
        """Answer no more: what is under way is cancelled."""
        self.ended = True
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def _start_worker(self) -> None:
        assert self._nursery is not None
        self._workers += 1
        self._nursery.start_soon(self._work)

    # --- instrument: who else is due ---------------------------------------------------------------------

    def task_scheduled(self, task: Task) -> None:
        """Instrument hook."""
        self._due.add(task)

    def before_task_step(self, task: Task) -> None:
        """Instrument hook."""
        self._due.discard(task)

    # --- the life of a worker ----------------------------------------------------------------------------

    async def _work(self) -> None:
        task = trio.lowlevel.current_task()
        if self._reader is None:
            self._reader = task
        try:
            while not self.ended:
                with trio.CancelScope() as scope:
                    if not await self._serve(scope, task):
                        return
        finally:
            self._workers -= 1
            if self._reader is task:
                self._reader = None
                self._pass_on()

    async def _serve(self, scope: trio.CancelScope, task: Task) -> bool:
        """Read and answer; False when this worker is not needed any more, True when it must begin afresh."""
        handlers = self._handlers
        while self._reader is task or await self._become_reader():
            request = self._next_now()
            if request is None:
                request = await self._next()
                if request is None:
                    break
            handler = handlers.get(request.opcode)
            if handler is None or (self._only_uid is not None and not self._admits(request)):
                self._turn_away(request, errno.ENOSYS if handler is None else errno.EACCES)
                continue
            coroutine = handler(request, request.body)
            try:
                trap = coroutine.send(None)
            except StopIteration as done:
                self._reply(request, done.value)
            except Exception as error:
                self._fail(request, error)
            else:
                self._pass_on()
                await self._wait(scope, request, coroutine, trap)
                if scope.cancel_called:
                    return True
        return False

    async def _become_reader(self) -> bool:
        """Wait for the turn to read; False if there are idle workers enough, or the mount has ended."""
        task = trio.lowlevel.current_task()
        if self._reader is None:
            self._reader = task
            return not self.ended
        if self.ended or len(self._idle) >= IDLE_MAX:
            return False

        def abort(_: object) -> trio.lowlevel.Abort:
            self._idle.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        self._idle.append(task)
        await trio.lowlevel.wait_task_rescheduled(abort)
        return not self.ended

    def _pass_on(self) -> None:
        """The reader is busy or gone: let another one read."""
        self._reader = None
        if self._idle:
            self._reader = self._idle.popleft()
            trio.lowlevel.reschedule(self._reader)
        elif self._nursery is not None and not self.ended and self._workers < WORKERS_MAX:
            self._start_worker()

    # --- reading -----------------------------------------------------------------------------------------

    def _next_now(self) -> Request | None:
        """The next request, if it comes within a moment and the others have had their turn lately."""
        readiness = self._readiness
        while monotonic() < self._yield_at:
            if not (readiness.now() if self._due else readiness.soon()):
                break
            request = self._read()
            if request is not None:
                return request
        return None

    async def _next(self) -> Request | None:
        """The next request, however long it takes; None when there will be none."""
        await trio.lowlevel.checkpoint()
        while not self.ended:
            if self._readiness.now():
                self._yield_at = monotonic() + QUANTUM_S
                request = self._read()
                if request is not None:
                    return request
            else:
                await trio.lowlevel.wait_readable(self._fd)
        return None

    def _read(self) -> Request | None:
        """One request, unless it has vanished meanwhile (its caller was killed), or was for us alone."""
        try:
            length = os.readv(self._fd, self._vector)
            request = self._decode(self._buffer, length)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.ENODEV:
                self.end()  # it is unmounted: nobody waits for an answer any more
            elif error.errno not in (errno.ENOENT, errno.EINTR):
                raise
            return None
        except BadRequest as error:
            _log.error("the kernel's request is not understood", reason=error.reason, opcode=error.opcode)
            if error.unique is not None:
                self._write(replies.error(error.unique, errno.EIO))
            return None
        if request.opcode == _INTERRUPT:
            self._patience.interrupt(request.body.unique)  # type: ignore[union-attr]
            return None
        return request

    # --- answering ---------------------------------------------------------------------------------------

    async def _wait(
        self, scope: trio.CancelScope, request: Request, coroutine: Coroutine[Any, Any, Reply], trap: object
    ) -> None:
        wait = self._patience.begin(request, scope)
        try:
            self._reply(request, await _Rest(coroutine, trap))
        except trio.Cancelled:
            self._reply(request, replies.error(request.unique, wait.verdict or errno.ENOTCONN))
            if not wait.verdict:
                raise  # the mount is ending
        except Exception as error:
            if wait.verdict and wait.verdict != errno.EINTR:
                self._reply(request, replies.error(request.unique, wait.verdict))
            else:
                self._fail(request, error)
        finally:
            self._patience.end(wait)

    def _admits(self, request: Request) -> bool:
        return request.uid in (self._only_uid, 0) or request.opcode in _OF_OPEN_FILES

    def _turn_away(self, request: Request, verdict: int) -> None:
        if request.opcode not in (Opcode.FORGET, Opcode.BATCH_FORGET):
            self._write(replies.error(request.unique, verdict))

    def _fail(self, request: Request, error: Exception) -> None:
        self._reply(request, replies.error(request.unique, self._refuse(request, error)))

    def _reply(self, request: Request, reply: Reply) -> None:
        if reply is not None and not self._write(reply):
            _log.error("the kernel takes no answer to this", opcode=request.opcode, node=request.node)
            self._write(replies.error(request.unique, errno.EIO))

    def _write(self, reply: bytes | Sequence[Buffer]) -> bool:
        """False: the kernel finds the answer malformed. That nobody waits for it any more is no fault."""
        try:
            if isinstance(reply, bytes):
                os.write(self._fd, reply)
            else:
                os.writev(self._fd, reply)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return True
            return error.errno == errno.ENOENT
        return True

    def give_up_all(self, verdict: int) -> None:
        """Nothing that is under way may go on; it fails with this errno."""
        self._patience.give_up_all(verdict)
