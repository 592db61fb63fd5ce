"""Room for dirty bytes: who wants to write more than the budget holds waits here.

Room comes, in this order, from uploads; from the RAM of files that lie in the spill (closed ones); and, when
uploading has stalled, from spilling open files too, up to the spill's own budget. Nobody waits longer than
``PATIENCE_S`` without any progress, or after a refusal that time will not mend.
"""

import structlog
import trio

from cloudverge_mount.budget import Budget
from cloudverge_mount.dirty import DirtyFile
from cloudverge_mount.keeper import Keeper
from cloudverge_mount.uploader import Uploader
from cloudverge_protocol.errors import CloudVergeError
from cloudverge_protocol.ids import InodeId

log = structlog.get_logger(__name__)

PATIENCE_S = 20.0
STALL_S = 2.0  # of no progress, after which bytes of open files are spilled too
LOOK_AGAIN_S = 0.05  # a look through all files that found little is not repeated sooner


class Room:
    """``files`` may be at most ``files_max``; their bytes in RAM at most what ``budget`` holds."""

    def __init__(
        self,
        files: dict[InodeId, DirtyFile],
        files_max: int,
        budget: Budget,
        keeper: Keeper,
        uploader: Uploader,
    ) -> None:
        self._files = files
        self._files_max = files_max
        self._budget = budget
        self._keeper = keeper
        self._uploader = uploader
        self._looked_at = -1e9

    def has(self, ino: InodeId, length: int) -> bool:
        """Whether ``length`` bytes more of ``ino`` fit now."""
        if not self._budget.has_room(length):
            return False
        return len(self._files) < self._files_max or ino in self._files

    async def make(self, ino: InodeId, length: int) -> None:
        """Wait until they fit. Raises NoRoom, Denied or Unavailable."""
        uploader = self._uploader
        refusals, progress = uploader.refusals, uploader.progress
        stalled_at = trio.current_time()
        while not self.has(ino, length):
            uploader.press()
            now = trio.current_time()
            if uploader.progress != progress:
                progress, stalled_at = uploader.progress, now
            if self._release(length, spill_open=now > stalled_at + STALL_S):
                continue
            if uploader.refusals > refusals or now > stalled_at + PATIENCE_S:
                raise uploader.last_error()
            with trio.move_on_after(STALL_S / 2):
                await self._budget.wait()
        self._budget.wake()

    def _release(self, length: int, *, spill_open: bool) -> int:
        """Give back RAM of spilled bytes; with ``spill_open`` spill what is not. Returns the bytes freed."""
        now = trio.current_time()
        if now < self._looked_at + LOOK_AGAIN_S and not spill_open:
            return 0
        goal = max(length, self._budget.limit_bytes // 4)
        freed = 0
        for file in list(reversed(self._files.values())):
            if spill_open and file.unspilled:
                spill_open = self._spill(file)
            freed += file.release() if file.weight else 0
            if freed >= goal:
                break
        else:
            self._looked_at = now
        self._budget.charge(-freed)
        return freed

    def _spill(self, file: DirtyFile) -> bool:
        try:
            self._keeper.keep(file)
        except CloudVergeError as error:
            log.info("bytes of an open file could not be spilled", ino=file.ino, error=str(error))
            return False
        return True
