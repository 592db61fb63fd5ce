"""The file system behind the binding as one class, with its background work: ``filesystem.FileSystem``."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
import trio

from cloudverge_mount.copying import Copying
from cloudverge_mount.core import Core
from cloudverge_mount.holes import Holes
from cloudverge_mount.listing import Listing
from cloudverge_mount.locks import MountLocks
from cloudverge_mount.rebase import Rebase
from cloudverge_mount.recovery import CatchUp
from cloudverge_mount.rowkeys import Touched
from cloudverge_mount.xattrs import Xattrs
from cloudverge_protocol.errors import CloudVergeError, Code, Refused

RETRY_EVERY_S: Final = 1.0
CHANGED_ELSEWHERE: Final = "the space was changed elsewhere meanwhile"

_log = structlog.get_logger()


class Vfs(Holes, Copying, Listing, Xattrs):
    """Satisfies ``filesystem.FileSystem``; made by ``open_vfs``."""

    def __init__(self, core: Core, rebase: Rebase, catch_up: CatchUp, seq: int) -> None:
        self.core = core
        self.locks = MountLocks()
        self.lockers = {}
        self.unopened = OrderedDict()
        self.rebase = rebase
        self._catch_up = catch_up
        self.seq = seq
        self._behind = trio.Event()  # others have changed the space, or the session is a new one
        core.ledger.on_freed = self.freed
        core.rights.on_reopened(self._reopened)
        core.rights.on_seq(self.seq_is)

    @property
    def invalidate(self) -> Callable[[list[int], list[tuple[int, bytes]]], None] | None:
        """Set by the process: drop these inodes and names from the kernel's caches (from a thread)."""
        return self.core.aside.invalidate

    @invalidate.setter
    def invalidate(self, drop: Callable[[list[int], list[tuple[int, bytes]]], None] | None) -> None:
        self.core.aside.invalidate = drop

    # --- background --------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The background work (shipping, writing the replica, catching up); runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.core.shipper.run)
            nursery.start_soon(self.core.writer.run)
            nursery.start_soon(self.core.loader.run_ahead)
            nursery.start_soon(self._keep_trying)
            nursery.start_soon(self._keep_up)
            task_status.started()

    async def _keep_trying(self) -> None:
        """What the journal could not take, it may take later."""
        while True:
            await trio.sleep(RETRY_EVERY_S)
            if self.core.shipper.old:
                self.core.shipper.wake()
            if self.core.gate.closed is None:
                try:
                    self.core.ledger.retry()
                except CloudVergeError as error:
                    _log.warning("the journal still takes nothing", reason=error.message)

    async def _keep_up(self) -> None:
        while True:
            await self._behind.wait()
            self._behind = trio.Event()
            try:
                await self._take_in_foreign()
            except CloudVergeError as error:
                _log.warning("the oplog could not be read", reason=error.message)
                await trio.sleep(RETRY_EVERY_S)
                self._behind.set()

    async def _take_in_foreign(self) -> None:
        found = await self._catch_up.foreign(self.seq, None)
        if found is None:
            _log.warning("what happened in the space meanwhile is not told: all is read anew")
            seq = self.core.rights.seq_now
            await self.core.writer.write()
            found = Touched(*self.core.rows.replica.everything()), seq
        touched, seq = found
        if touched.inodes:
            async with self.core.shipper.paused(), self.core.gate.shut():
                refused = await self.rebase.rebase(touched)
                await self.core.aside.held(refused, Refused(Code.STALE, CHANGED_ELSEWHERE))
            if self.core.aside.invalidate is not None:
                self.core.aside.invalidate(list(touched.inodes), list(touched.names))
        self.seq = max(self.seq, seq)

    def _reopened(self) -> None:
        old = self.core.ledger.incarnation
        self.core.ledger.renumber()
        ended = {old, *self.core.rights.high_water} - {self.core.rights.incarnation}
        self.core.shipper.retire(ended, self.core.rows.orphans)
        self.core.shipper.wake()
        self._behind.set()

    def seq_is(self, seq: int) -> None:
        """The space is at ``seq``: catch up if that is news to one who only reads."""
        if seq > self.seq and self.core.rights.read_only:
            self._behind.set()

    def note_seq(self, seqs: Sequence[int], seq: int) -> None:
        """A batch of ours has been committed with these seqs, and the space is at ``seq``."""
        fresh = [number for number in seqs if number]
        if seq == self.seq + len(fresh) and len(fresh) == len(seqs):
            self.seq = seq
        elif seq > self.seq:
            self._behind.set()

    # --- for the process ---------------------------------------------------------------------------------

    async def sync(self) -> None:
        """Everything done so far is durable and committed."""
        await self.core.sync()

    def status(self) -> dict[str, Any]:
        """pending_entries, journal_bytes, open_handles, degraded (list of reasons)."""
        core = self.core
        degraded = list(core.aside.reasons)
        degraded += [trouble for trouble in (core.shipper.trouble, core.writer.trouble) if trouble]
        return {
            "pending_entries": len(core.ledger.outbox) + len(core.holding),
            "journal_bytes": core.ledger.journal.size_bytes,
            "open_handles": len(core.handles),
            "degraded": degraded,
        }

    async def forget(self, pairs: Sequence[tuple[int, int]]) -> None:
        """The kernel's node ids are inode numbers: nothing is kept for them but removed folders."""
        departed = self.core.departed
        if departed:
            for ino, _ in pairs:
                departed.pop(ino, None)

    async def aclose(self) -> None:
        """Write what memory holds to the replica and close the files; call it after ``run`` has ended."""
        try:
            await self.core.writer.write()
        finally:
            self.core.ledger.journal.close()
            self.core.rows.replica.close()
