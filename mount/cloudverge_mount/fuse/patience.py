"""Requests that wait, and what ends that before they have an answer.

A request is given up when it has taken too long (I8), when its caller is being killed, or when all are. The kernel
tells of a signal once (INTERRUPT), whatever signal it is; but programs do not expect EINTR from files, so what we look
for is a caller who is about to die, and once a signal was told of we look again and again. Only who waits for a lock
is interrupted by any signal, as fcntl(2) has it.

Giving up is to cancel the scope of the worker, with a verdict that becomes the answer. Whoever answers has the last
word: a handler that ends all the same has its answer sent.
"""

from collections.abc import Iterable, Mapping
from errno import EINTR, ETIMEDOUT
from time import monotonic
from typing import Final

import structlog
import trio

from cloudverge_mount.fuse.requests import Request

WATCH_S: Final = 1.0
DOUBT_S: Final = 0.2  # how often we look whether a caller who got a signal is dying
KILLED: Final = 1 << 8  # the bit of SIGKILL in /proc/PID/status

_log = structlog.get_logger()


class Wait:
    """A worker's request that waits; ``verdict`` is the errno it was given up with, 0 while it was not."""

    __slots__ = ("request", "scope", "since", "verdict")

    def __init__(self, request: Request, scope: trio.CancelScope) -> None:
        self.request = request
        self.scope = scope
        self.since = monotonic()
        self.verdict = 0

    def give_up(self, verdict: int) -> None:
        """Let it fail with this errno; a verdict stands."""
        self.verdict = self.verdict or verdict
        self.scope.cancel()


class Patience:
    """All requests that wait. One may take ``patience_s``, some longer (``longer_s``, by opcode).

    Those of ``interruptible`` opcodes end with any signal.
    """

    def __init__(
        self, patience_s: float, longer_s: Mapping[int, float], interruptible: Iterable[int]
    ) -> None:
        self._patience_s = patience_s
        self._longer_s = longer_s
        self._interruptible = frozenset(interruptible)
        self._waits: dict[int, Wait] = {}  # by the number of the request
        self._doubted: set[Wait] = set()
        self._doubt = trio.Event()

    def begin(self, request: Request, scope: trio.CancelScope) -> Wait:
        """The request waits from now on, within this scope, until ``end``."""
        wait = self._waits[request.unique] = Wait(request, scope)
        return wait

    def end(self, wait: Wait) -> None:
        """It does not wait any more."""
        del self._waits[wait.request.unique]
        self._doubted.discard(wait)

    def interrupt(self, unique: int) -> None:
        """The caller of this request has got a signal; it may have been answered meanwhile."""
        wait = self._waits.get(unique)
        if wait is None:
            return
        if wait.request.opcode in self._interruptible or is_dying(wait.request.pid):
            wait.give_up(EINTR)
        else:
            self._doubted.add(wait)
            self._doubt.set()

    def give_up_all(self, verdict: int) -> None:
        """Nothing that is under way may go on; it fails with this errno."""
        for wait in self._waits.values():
            wait.give_up(verdict)

    async def watch(self) -> None:
        """Give up what takes too long, and what its caller will not live to see; runs until cancelled."""
        while True:
            with trio.move_on_after(min(WATCH_S, self._patience_s / 10)):
                await self._doubt.wait()
            if self._doubted:
                await trio.sleep(DOUBT_S)
            else:
                self._doubt = trio.Event()
            self._look(monotonic())

    def _look(self, now: float) -> None:
        for wait in self._doubted:
            if is_dying(wait.request.pid):
                wait.give_up(EINTR)
        for wait in self._waits.values():
            patience_s = self._longer_s.get(wait.request.opcode, self._patience_s)
            if not wait.verdict and now - wait.since > patience_s:
                _log.error("a request took too long and was given up", opcode=wait.request.opcode)
                wait.give_up(ETIMEDOUT)


def is_dying(pid: int) -> bool:
    """Whether this thread has a fatal signal; the kernel has made SIGKILL of it then."""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("SigPnd:"):
                    return bool(int(line.split()[1], 16) & KILLED)
    except OSError:
        return pid != 0  # it is gone; 0: of a process in another namespace nothing can be known
    return False
