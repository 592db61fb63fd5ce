"""The table of locks: the seam behind which one is asked for, and the waiting part over ``lockrules``.

``LockTable`` is the seam for locks that hold across mounts: keyed by inode, sort and owner, and knowing neither file
handles nor processes of this machine (a server would put the session before the owner). ``MountLocks``, the first
of its kind, answers for this mount alone.

- What was granted is held, what raises (also ``Cancelled``) is not: no lock is left with someone who does not know.
- Waiting has no deadline. It ends by the lock, by cancellation, or by the end of its owner.

Must never wait where a lock is given up: that would be the deadlock.
"""

from typing import Final, Protocol

import trio

from cloudverge_mount.lockrules import Key, LockRules, Outcome, Waiter
from cloudverge_mount.ranges import END_MAX, Claim
from cloudverge_protocol.errors import Code, Refused

POLITE_S: Final = 2.0  # how long a reader lets a writer go first who waits already

_REFUSALS: Final = {
    Outcome.DEADLOCK: (Code.DEADLOCK, "those who hold the lock wait for what this owner holds"),
    Outcome.CROWDED: (Code.NO_LOCKS, "there are too many locks"),
    Outcome.GONE: (Code.BAD_HANDLE, "the file was closed while a lock on it was waited for"),
}


class LockTable(Protocol):
    """Locks by inode and sort (``key``) and owner (in ``claim``)."""

    async def test(self, key: Key, claim: Claim) -> Claim | None:
        """What is in the way of a claim, None if nothing is."""

    async def attempt(self, key: Key, claim: Claim) -> bool:
        """Take it if that can be had at once. Raises Refused(NO_LOCKS)."""

    async def acquire(self, key: Key, claim: Claim) -> None:
        """Take it, waiting for as long as it takes. Raises Refused: DEADLOCK, NO_LOCKS, BAD_HANDLE (owner gone)."""

    async def release(self, key: Key, owner: int, start: int = 0, end: int = END_MAX) -> None:
        """Give up a range. Raises Refused(NO_LOCKS) for a part of a lock that would leave two."""

    async def forget(self, key: Key, owner: int) -> None:
        """The owner is no more: his locks and waits end."""


class MountLocks:
    """The ``LockTable`` of one mount."""

    def __init__(self) -> None:
        self._parked: dict[Waiter, trio.lowlevel.Task] = {}
        self.rules = LockRules(self._wake)

    def _wake(self, waiter: Waiter) -> None:
        task = self._parked.pop(waiter, None)
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def test(self, key: Key, claim: Claim) -> Claim | None:
        """See ``LockTable``."""
        return self.rules.first_conflict(key, claim)

    async def attempt(self, key: Key, claim: Claim) -> bool:
        """See ``LockTable``."""
        return self.rules.attempt(key, claim)

    async def acquire(self, key: Key, claim: Claim) -> None:
        """See ``LockTable``."""
        waiter = self.rules.ask(key, claim)
        if waiter is None:
            return
        try:
            await self._decision(waiter)
        finally:
            self.rules.withdraw(waiter)
        if waiter.outcome in _REFUSALS:
            raise Refused(*_REFUSALS[waiter.outcome])

    async def _decision(self, waiter: Waiter) -> None:
        """Nothing is awaited once there is one: a cancellation could take back what was granted."""
        if waiter.polite:
            with trio.move_on_after(POLITE_S):
                await self._park(waiter)
            if waiter.outcome is None:
                self.rules.hurry(waiter)
        if waiter.outcome is None:
            await self._park(waiter)

    async def _park(self, waiter: Waiter) -> None:
        """Wait; from the moment this is cancelled, not only when its task notices, nothing is granted."""
        self._parked[waiter] = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            waiter.paused = True
            del self._parked[waiter]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def release(self, key: Key, owner: int, start: int = 0, end: int = END_MAX) -> None:
        """See ``LockTable``."""
        if self.rules:
            self.rules.release(key, owner, start, end)

    async def forget(self, key: Key, owner: int) -> None:
        """See ``LockTable``."""
        if self.rules:
            self.rules.forget(key, owner)
