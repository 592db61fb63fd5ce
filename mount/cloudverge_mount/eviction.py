"""What a mount does when its right to the space has been taken away: it lets go of everything it was given.

In this order: requests of the kernel fail from now on (``barred``), the kernel forgets what it had cached, background
work ends, what was not shipped is kept for its author (``salvage``), and all that the cache folder holds of the
space is removed. The mountpoint stays, answering EACCES, so that nobody writes into the bare folder below it.

What had been read before cannot be unread; this is for an honest mount. Must never ship or apply anything.
"""

import shutil
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

import structlog
import trio

from cloudverge_mount.content import Content
from cloudverge_mount.core import Core
from cloudverge_mount.salvage import salvage
from cloudverge_mount.vfs import Vfs
from cloudverge_protocol.errors import CloudVergeError, Code, Denied
from cloudverge_protocol.ids import ROOT_INODE

_log = structlog.get_logger()

GIVEN: Final = ("replica.sqlite3", "replica.sqlite3-wal", "replica.sqlite3-shm", "journal", "spill", "blocks")
NAMES_MAX: Final = 10_000

UNWIND_S: Final = 5.0  # for background work that was cancelled

Drop = Callable[[list[int], list[tuple[int, bytes]]], None]


class Eviction:
    """``lost`` when the right is gone; ``run`` beside the mount does the rest; ``reason`` tells people."""

    def __init__(self) -> None:
        self.reason = ""
        self.life = trio.CancelScope()  # of the background work that needs the right
        self.life_ended = trio.Event()
        self._error: CloudVergeError | None = None
        self._noted = trio.Event()
        self._waiting: set[trio.CancelScope] = set()

    def lost(self, error: CloudVergeError) -> None:
        """The right to the space has been taken away, as auth says."""
        self._error = error
        self._noted.set()

    async def unless_lost(self, action: Callable[[], Awaitable[None]]) -> None:
        """Do ``action``, which may wait for background work; raises Denied if the right is gone, or goes meanwhile."""
        if not self.reason:
            with trio.CancelScope() as scope:
                self._waiting.add(scope)
                try:
                    return await action()
                finally:
                    self._waiting.discard(scope)
        raise Denied(Code.FORBIDDEN, self.reason)

    async def run(
        self, cache: Path, bar: Callable[[], Iterable[int]], vfs: Vfs, content: Content, drop: Drop
    ) -> None:
        """Wait for the loss, then let go; ``bar`` refuses all requests, ``drop`` tells the kernel.

        ``bar`` gives inodes that the kernel must forget, beside those that the file system knows to be open.
        """
        await self._noted.wait()
        error = self._error
        assert error is not None
        self.reason = reason = f"your right to this space has ended: {error.message}"
        listed = bar()
        inodes, names = cached_by_kernel(vfs.core)
        drop([*inodes, *listed], names)  # first: until then the kernel answers by itself
        for scope in (self.life, *self._waiting):
            scope.cancel()
        with trio.move_on_after(UNWIND_S):
            await self.life_ended.wait()  # it has files open that are closed below
        folder = salvage(vfs.core, content, cache / "recovery", error)
        await content.aclose()
        vfs.core.ledger.journal.close()
        vfs.core.rows.replica.close()
        await trio.to_thread.run_sync(_remove, cache)
        _log.critical("the right to the space is lost", reason=error.message, kept=str(folder or ""))
        if folder:
            self.reason = f"{reason}; what was not stored is kept in {folder}"


def cached_by_kernel(core: Core) -> tuple[list[int], list[tuple[int, bytes]]]:
    """What the kernel must forget so that nothing below stays: open files, and the names in the root."""
    names = {name for name, entry in core.rows.changed_names(ROOT_INODE).items() if entry is not None}
    names.update(listed[1] for listed in core.rows.replica.page(ROOT_INODE, 0, NAMES_MAX))
    return [ROOT_INODE, *core.handles.inodes()], [(int(ROOT_INODE), name) for name in names]


def _remove(cache: Path) -> None:
    for name in GIVEN:
        path = cache / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
