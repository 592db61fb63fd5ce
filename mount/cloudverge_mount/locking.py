"""Locks of open files, as the binding asks for them: who has locked by which handle, and what its end ends.

An owner of POSIX locks loses those of a file with any ``flush`` in his name, whichever descriptor that was; waits of
his other threads go on, as they do on Linux. What belongs to an open file description (flock(2), and F_OFD_SETLK, of
whose end the kernel tells us nothing but the release) ends with the handle. By then a POSIX owner who has locked
by it has closed it, and with that flushed it: so whoever is still noted for a handle, ends with it.

Must never fail, or wait for anything, where locks end: nobody would give them up again.
"""

import fcntl

from cloudverge_mount.core import Core
from cloudverge_mount.filesystem import Lock
from cloudverge_mount.lockrules import Key
from cloudverge_mount.locks import LockTable
from cloudverge_mount.ranges import END_MAX, Claim
from cloudverge_protocol.errors import Code, Refused


class Locking:
    """The part of ``Vfs`` that deals in locks. ``lockers``: who has locked what by a handle and not closed it yet."""

    core: Core
    locks: LockTable
    lockers: dict[int, set[tuple[Key, int]]]

    async def getlk(self, ino: int, fh: int, lock: Lock) -> Lock | None:
        """F_GETLK of fcntl(2): what is in the way of a lock. Raises Refused: BAD_HANDLE, INVALID."""
        found = await self.locks.test(*self._named(fh, lock))
        if found is None:
            return None
        kind = fcntl.F_WRLCK if found.exclusive else fcntl.F_RDLCK
        return Lock(found.owner, found.start, found.end, kind, found.pid, lock.is_flock)

    async def setlk(self, ino: int, fh: int, lock: Lock, wait: bool) -> None:
        """F_SETLK and F_SETLKW of fcntl(2), and flock(2).

        Raises Refused: BAD_HANDLE, INVALID, LOCKED (only without ``wait``), DEADLOCK, NO_LOCKS.
        """
        key, claim = self._named(fh, lock)
        if lock.type == fcntl.F_UNLCK:
            return await self.locks.release(key, claim.owner, claim.start, claim.end)
        self.lockers.setdefault(fh, set()).add((key, claim.owner))
        if wait:
            await self.locks.acquire(key, claim)
        elif not await self.locks.attempt(key, claim):
            raise Refused(Code.LOCKED, "somebody else's lock is in the way")

    def _named(self, fh: int, lock: Lock) -> tuple[Key, Claim]:
        key = Key(self.core.handles.file(fh).ino, lock.is_flock)
        start, end = (0, END_MAX) if lock.is_flock else (lock.start, lock.end)
        if lock.type not in (fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK) or not 0 <= start <= end <= END_MAX:
            raise Refused(Code.INVALID, f"there is no lock of type {lock.type} from {start} to {end}")
        return key, Claim(lock.owner, start, end, lock.type == fcntl.F_WRLCK, lock.pid)

    async def unlock_closed(self, ino: int, fh: int, owner: int) -> None:
        """``owner`` has closed a descriptor of the file."""
        key = Key(ino, is_flock=False)
        if fh in self.lockers:
            self.lockers[fh].discard((key, owner))
        await self.locks.release(key, owner)

    async def unlock_released(self, fh: int) -> None:
        """A handle is no more."""
        for key, owner in self.lockers.pop(fh, ()):
            await self.locks.forget(key, owner)
