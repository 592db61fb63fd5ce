"""Holes of open files: fallocate(2) makes and covers them, lseek(2) finds them.

Data is what an extent maps or what is dirty; everything else up to the size is a hole and reads as zeroes. What a
file grows by without being written is a hole too: *preallocating reserves nothing*. Chunks are granted when bytes
are there to be appended, on whichever servers have room then, so there is no place that could be kept. What can be
said beforehand is said: the size a file can have, and the room that is left of the quota.

A hole is punched with the order kept: it enters after what was done to the file before, dirty bytes under it are
forgotten at once, and those written later are entered later. It never takes bytes that a held rename or link waits
for: these are stored first.
"""

import os
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import Final

from cloudverge_mount.attributes import without_setid
from cloudverge_mount.core import NotStored
from cloudverge_mount.files import Files
from cloudverge_mount.filesystem import SetattrRequest
from cloudverge_mount.handles import FileHandle
from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import FILE_BYTES_MAX, InodeId, region_of
from cloudverge_protocol.inodes import Inode
from cloudverge_protocol.operations import PunchHole

FALLOC_FL_KEEP_SIZE: Final = 1  # as in fallocate(2)
FALLOC_FL_PUNCH_HOLE: Final = 2
FALLOC_FL_ZERO_RANGE: Final = 16
_EMPTIES: Final = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE
_MODES: Final = (
    0,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_ZERO_RANGE,
    FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
)

Range = tuple[int, int]


def data_from(ranges: Iterable[Range], offset: int) -> int | None:
    """Where data is next, at ``offset`` or after it; ``ranges`` of data come by their starts, and may overlap."""
    return next((max(start, offset) for start, end in ranges if end > offset), None)


def hole_from(ranges: Iterable[Range], offset: int) -> int:
    """Where the data at ``offset`` ends; that is ``offset`` itself if there is none."""
    at = offset
    for start, end in ranges:
        if start > at:
            break
        at = max(at, end)
    return at


class Holes(Files):
    """The part of ``Vfs`` that deals in what files do not hold."""

    # --- finding -----------------------------------------------------------------------------------------

    async def lseek(self, fh: int, offset: int, whence: int) -> int:
        """Where data (SEEK_DATA) or a hole (SEEK_HOLE) is next; the end of the file counts as a hole."""
        return await self.core.retry(self._seek, self.core.handles.file(fh).ino, offset, whence)

    def _seek(self, ino: int, offset: int, whence: int) -> int:
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise Refused(Code.INVALID, f"{whence} is no way to seek here")
        size = self.core.shown(self.core.row(ino)).size
        if not 0 <= offset < size:
            raise Refused(Code.BEYOND_END, f"{offset} is not within the {size} bytes of the file")
        dirty = self.core.content.dirty_ranges(InodeId(ino), offset, size)
        ranges = merge(self._stored_ranges(InodeId(ino), offset), dirty)
        if whence == os.SEEK_HOLE:
            return min(hole_from(ranges, offset), size)
        found = data_from(ranges, offset)
        if found is None:
            raise Refused(Code.BEYOND_END, f"there is no data at {offset} or beyond")
        return found

    def _stored_ranges(self, ino: InodeId, offset: int) -> Iterator[Range]:
        """What extents map in the regions from that of ``offset`` on; regions of holes are never looked at."""
        local = self.core.ledger.local
        for region in sorted(each for each in local.regions(ino) if each >= region_of(offset)):
            yield from ((extent.offset, extent.end) for extent in local.extents(ino, region))

    # --- making ------------------------------------------------------------------------------------------

    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        """fallocate(2) without COLLAPSE, INSERT and UNSHARE; see the module's text for what is not reserved."""
        handle = self.core.handles.file(fh)
        if not handle.writable:
            raise Refused(Code.BAD_HANDLE, "the file is not open for writing")
        if mode not in _MODES:
            raise Refused(Code.NOT_SUPPORTED, f"fallocate cannot do {mode:#x} here")
        if offset < 0 or length <= 0:
            raise Refused(Code.INVALID, f"{length} bytes at {offset} are no range of a file")
        if offset + length > FILE_BYTES_MAX:
            raise Refused(Code.FILE_TOO_BIG, f"{offset + length} bytes, a file can have {FILE_BYTES_MAX}")
        await self.core.retry(self._allocate, handle, mode, offset, offset + length)

    def _allocate(self, handle: FileHandle, mode: int, offset: int, end: int) -> None:
        """All that can refuse it comes before the first change."""
        core, ino = self.core, handle.ino
        core.check_writable()
        row = core.shown(core.row(ino))
        grows = end > row.size
        if grows and not mode & FALLOC_FL_PUNCH_HOLE:
            core.ledger.quota.check_bytes(min(end - row.size, end - offset))
        permissions = without_setid(row.mode) if handle.uid else None
        if mode & _EMPTIES:
            self._punch(row, offset, end, permissions)
        if grows and not mode & FALLOC_FL_KEEP_SIZE:
            self._truncate(ino, end, permissions)
        elif not mode & _EMPTIES:
            self._setattr(ino, SetattrRequest(mode=permissions, mtime_ns=core.clock_ns()))

    def _punch(self, row: Inode, offset: int, end: int, permissions: int | None) -> None:
        core, ino = self.core, row.ino
        if core.holding.waits_for(ino):
            raise NotStored(ino)
        core.ledger.accept(PunchHole(ino, offset, end - offset, core.clock_ns(), permissions))
        if ino in core.pendings:
            core.content.cut(ino, offset, end)
            self._end_clean(ino)
