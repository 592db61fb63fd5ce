"""What the kernel has cached of the mount, taken back when it turned out not to be so any more.

A notification may block in the kernel until a request about the same file is answered, so it is sent from a
thread and never waited for on the loop. Nothing that is acknowledged to anybody depends on it.
"""

import errno
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
import trio

from cloudverge_mount.kernelmount import KernelMount

WAITING_MAX: Final = 10_000  # batches

Dropped = tuple[list[int], list[tuple[int, bytes]]]
_log = structlog.get_logger()


class KernelCache:
    """``drop`` from anywhere on the loop; ``run`` in the background; ``end`` before the session goes."""

    def __init__(self, kernel: KernelMount) -> None:
        self._kernel = kernel
        self._todo, self._queue = trio.open_memory_channel[Dropped](WAITING_MAX)
        self._ended = False

    def drop(self, inodes: list[int], names: list[tuple[int, bytes]]) -> None:
        """Let the kernel forget attributes and pages of ``inodes``, and these (folder, name) entries."""
        try:
            self._todo.send_nowait((inodes, names))
        except trio.WouldBlock:
            _log.warning(
                "the kernel may show outdated files for a while", inodes=len(inodes), names=len(names)
            )

    async def run(self) -> None:
        """Send what is to be dropped; runs until cancelled."""
        async for dropped in self._queue:
            await trio.to_thread.run_sync(self._send, dropped, abandon_on_cancel=True)

    def end(self) -> None:
        """The session is about to end: send no more."""
        self._ended = True

    def _send(self, dropped: Dropped) -> None:
        inodes, names = dropped
        for parent, name in names:
            self._try(partial(self._kernel.invalidate_entry, parent, name))
        for ino in inodes:
            self._try(partial(self._kernel.invalidate_inode, ino))

    def _try(self, notify: Callable[[], None]) -> None:
        if self._ended:
            return
        try:
            notify()
        except OSError as error:
            if error.errno not in (
                errno.ENOENT,
                errno.ENOTCONN,
                errno.ENODEV,
            ):  # not known there, or unmounted
                _log.warning("the kernel did not forget a file", reason=str(error))
