"""The scheduling shim: what pyfuse3 sees as ``trio``, so that a request does not cost a scheduler turn.

pyfuse3 runs a pool of workers; each takes a lock, waits for the FUSE descriptor, reads one request, runs its
handler and starts over. Lock and wait each cost a turn of the trio loop (tens of microseconds), though most
handlers answer without suspending. pyfuse3 looks ``trio`` up as an attribute of its own module (its asyncio
mode replaces it), so this module stands in for it:

* pyfuse3's lock is free; instead one worker, the *holder*, may read requests. It keeps that right from one
  request to the next and loses it when it suspends in a handler (an instrument hook sees that), to a parked
  worker or to a new one. So blocked requests never block others, and nobody else is woken while all is quick.
* The holder looks at the descriptor itself (see ``readiness``), lingering there for a moment when no other
  task is runnable. Every ``QUANTUM_S`` the loop gets a real checkpoint, at once if another task is due and no
  request waits.
* Workers that pyfuse3 starts in advance are kept in reserve until one is needed.

Workers also carry the deadline of their request (I8): one that has been busy for too long is cancelled, its
handler turns that into an errno, and the worker starts afresh. Nothing is paid for that by other requests.

The descriptor is non-blocking: a request may vanish between poll and read (its process was killed), and a
blocking read would stop the whole loop then. pyfuse3 raises EAGAIN in that case and the worker starts afresh.
"""

import errno
import math
import os
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Any, Final, cast

import pyfuse3
import trio
from trio.lowlevel import Task

from cloudverge_mount.kernelmount import LONG_PATIENCE_S
from cloudverge_mount.readiness import Readiness

QUANTUM_S: Final = 0.001
WATCH_S: Final = 1.0

SessionLoop = Callable[..., Awaitable[None]]


class _Done:
    """An awaitable that is done already."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        return _NOTHING


_NOTHING: Final = cast("Generator[Any, Any, None]", iter(()))  # at its end from the start: may be shared
_DONE: Final = _Done()


class _FreeLock:
    """Stands in for ``trio.Lock``; see the module's text for why it may be free."""

    def __aenter__(self) -> _Done:
        return _DONE

    def __aexit__(self, *exc_info: object) -> _Done:
        return _DONE


class Workers(trio.abc.Instrument):
    """The workers of one pyfuse3 session: who may read, who is busy since when, who waits."""

    def __init__(self, patience_s: float, long_patience_s: float = LONG_PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._long_patience_s = long_patience_s
        self._holder: Task | None = None
        self._parked: deque[Task] = deque()
        self._reserve: deque[Callable[[], None]] = deque()  # bounded by pyfuse3's max_tasks, like the rest
        self._busy_since: dict[Task, float] = {}
        self._scopes: dict[Task, trio.CancelScope] = {}
        self._patient: set[Task] = set()
        self._expired: set[Task] = set()
        self._due: set[Task] = set()  # runnable tasks that wait for us
        self._readiness: Readiness | None = None
        self._closing = False
        self._yield_at = 0.0

    # --- what pyfuse3 calls ------------------------------------------------------------------------------

    def wait_readable(self, fd: int) -> Awaitable[None]:
        """Return once ``fd`` is readable; pyfuse3 reads it without suspending in between."""
        now = monotonic()
        task = trio.lowlevel.current_task()
        readiness = self._readiness
        if (
            task is self._holder
            and now < self._yield_at
            and readiness is not None
            and (readiness.now() if self._due else readiness.soon())
        ):
            self._busy_since[task] = now
            return _DONE
        return self._wait(fd, task)

    async def _wait(self, fd: int, task: Task) -> None:
        self._busy_since.pop(task, None)
        if self._readiness is None:
            os.set_blocking(fd, False)
            self._readiness = Readiness(fd)
        await trio.lowlevel.checkpoint()  # an expired worker ends here
        await self._become_holder(task)
        while not self._readiness.now():
            if self._closing:
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(fd)
        self._busy_since[task] = now = monotonic()
        self._yield_at = now + QUANTUM_S

    async def _become_holder(self, task: Task) -> None:
        if self._holder is None:
            self._holder = task
        if self._holder is task:
            return

        def abort(_: object) -> trio.lowlevel.Abort:
            self._parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        self._parked.append(task)
        await trio.lowlevel.wait_task_rescheduled(abort)

    def notify_closing(self, fd: int) -> None:
        """The session ends: the holder leaves, and each that takes its place after it."""
        self._closing = True
        trio.lowlevel.notify_closing(fd)

    # --- who reads while a worker is busy ----------------------------------------------------------------

    def _release(self) -> None:
        """The holder is busy or gone: let the next one read."""
        self._holder = None
        if self._parked:
            self._holder = self._parked.popleft()
            trio.lowlevel.reschedule(self._holder)
        elif self._reserve and not self._closing:
            self._reserve.popleft()()

    def task_scheduled(self, task: Task) -> None:
        """Instrument hook."""
        self._due.add(task)

    def before_task_step(self, task: Task) -> None:
        """Instrument hook."""
        self._due.discard(task)

    def after_task_step(self, task: Task) -> None:
        """Instrument hook: a busy holder that gives up its turn has suspended in its handler."""
        if task is self._holder and task in self._busy_since:
            self._release()

    # --- the life of a worker ----------------------------------------------------------------------------

    def start(self, nursery: trio.Nursery, session_loop: SessionLoop, *args: object, name: str) -> None:
        """Run ``session_loop(*args)`` in a worker as soon as one is needed."""

        def begin() -> None:
            nursery.start_soon(self._run, session_loop, *args, name=name)

        if self._scopes:
            self._reserve.append(begin)
        else:
            begin()

    async def _run(self, session_loop: SessionLoop, *args: object) -> None:
        """Run pyfuse3's loop, afresh after an expired request and after a request that vanished."""
        task = trio.lowlevel.current_task()
        try:
            while True:
                with trio.CancelScope() as scope:
                    self._scopes[task] = scope
                    try:
                        return await session_loop(*args)
                    except OSError as error:
                        if error.errno != errno.EAGAIN:
                            raise
                self._expired.discard(task)
        finally:
            del self._scopes[task]
            self._busy_since.pop(task, None)
            self._expired.discard(task)
            if self._holder is task:
                self._release()

    async def watch_deadlines(self) -> None:
        """Cancel requests that take too long; runs for ever."""
        while True:
            await trio.sleep(min(WATCH_S, self._patience_s / 10))
            self._expire(monotonic())

    def give_up_all(self) -> None:
        """Nothing that is under way may go on."""
        self._expire(math.inf)

    def _expire(self, now: float) -> None:
        for task, since in self._busy_since.items():
            patience_s = self._long_patience_s if task in self._patient else self._patience_s
            if now - since > patience_s and task not in self._expired:
                self._expired.add(task)
                self._scopes[task].cancel()

    def has_expired(self) -> bool:
        """Whether the current request was cancelled because it took too long."""
        return bool(self._expired) and trio.lowlevel.current_task() in self._expired

    @contextmanager
    def patient(self) -> Iterator[None]:
        """The current request has a progress rule of its own (fsync may take minutes on a slow line)."""
        task = trio.lowlevel.current_task()
        self._patient.add(task)
        try:
            yield
        finally:
            self._patient.discard(task)


class _Nursery:
    """pyfuse3's nursery of workers."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._manager = trio.open_nursery()

    async def __aenter__(self) -> "_Nursery":
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._manager.__aexit__(kind, error, traceback)

    def start_soon(self, function: SessionLoop, *args: object, name: str) -> None:
        self._workers.start(self._nursery, function, *args, name=name)


class _Trio:
    """What pyfuse3 uses of the module ``trio``."""

    ClosedResourceError = trio.ClosedResourceError
    Lock = _FreeLock

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.lowlevel = self
        self.wait_readable = workers.wait_readable
        self.notify_closing = workers.notify_closing
        self.current_task = trio.lowlevel.current_task
        self.current_trio_token = trio.lowlevel.current_trio_token

    def open_nursery(self) -> _Nursery:
        return _Nursery(self._workers)


def install(workers: Workers) -> None:
    """Put the shim into pyfuse3; call before ``pyfuse3.main``, inside the trio loop."""
    module: Any = pyfuse3
    module.trio = _Trio(workers)
    trio.lowlevel.add_instrument(workers)


def uninstall(workers: Workers) -> None:
    """Give pyfuse3 its trio back."""
    module: Any = pyfuse3
    module.trio = trio
    trio.lowlevel.remove_instrument(workers)
