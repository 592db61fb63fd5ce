"""Writes the rows' changes to the replica, in groups, from a worker thread, with the journal position they include.

At most about ``AGE_S`` after a change, or sooner when there are many. ``relief`` is for those who make changes
faster than they are written. After each group the journal segments that nothing needs any more are removed.
"""

import sqlite3
from collections.abc import Callable
from typing import Any, Final

import structlog
import trio

from cloudverge_mount.rows import Rows
from cloudverge_protocol.errors import Code, Unavailable

AGE_S: Final = 1.0
MANY: Final = 16_000
RETRY_S: Final = 2.0
CALM_S: Final = 0.2  # how often to look while nothing happens

_log = structlog.get_logger()


class ReplicaWriter:
    """``state`` gives what the group includes; ``position_of`` the journal position in it; ``trim`` follows."""

    def __init__(self, rows: Rows, state: Callable[[], dict[str, Any]], trim: Callable[[int], None]) -> None:
        self._rows = rows
        self._state = state
        self._trim = trim
        self._lock = trio.Lock()
        self._relieved = trio.Event()
        self._written: dict[str, Any] = {}
        self.trouble = ""
        self.in_thread = True  # simulations write in line

    async def run(self) -> None:
        """Until cancelled."""
        quiet_s = 0.0
        while True:
            await trio.sleep(CALM_S)
            quiet_s += CALM_S
            if self._rows.changes.count >= MANY or quiet_s >= AGE_S:
                quiet_s = 0.0
                try:
                    await self.write()
                except Unavailable:
                    await trio.sleep(RETRY_S)

    async def relief(self) -> None:
        """Wait until there is room for more changes."""
        while self._rows.crowded:
            await self.write()

    async def write(self) -> None:
        """Write all changes there are now, and the state."""
        async with self._lock:
            state = self._state()
            if self._rows.changes.count or state != self._written:
                await self._write_group(state)
                self._written = state
                self._trim(int(state["position"]))

    async def _write_group(self, state: dict[str, Any]) -> None:
        group = self._rows.snapshot(list(state.items()))
        try:
            with trio.CancelScope(shield=True):  # the group must not be in doubt
                await self._in_thread(lambda: self._rows.replica.write(group))
        except sqlite3.Error as error:
            self._rows.not_written()
            self.trouble = f"the replica cannot be written: {error}"
            _log.error("the replica cannot be written", error=str(error))
            raise Unavailable(Code.INTERNAL, self.trouble) from error
        self._rows.written()
        self.trouble = ""

    async def forget(self, inodes: set[int], names: set[tuple[int, bytes]]) -> None:
        """Write all changes, then know nothing any more of these rows. The caller keeps everybody out.

        The position stays as it was until then: a start between the two must see what these rows had missed.
        """
        async with self._lock:
            if self._rows.changes.count:
                await self._write_group({})
            with trio.CancelScope(shield=True):
                await self._in_thread(lambda: self._rows.replica.forget(inodes, names))
            self._rows.clear()

    async def _in_thread(self, work: Callable[[], None]) -> None:
        if self.in_thread:
            await trio.to_thread.run_sync(work)
        else:
            work()
            await trio.lowlevel.checkpoint()
