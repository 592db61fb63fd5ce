"""Copying between open files without moving a byte: copy_file_range(2) as a clone of the mapping.

A clone is resolved when it is committed, from the extents that the source has then. So its place in the order must be
that in which it was made, and the bytes it means must have entered before it:

- dirty bytes of either range are stored first. A held operation could wait for them instead, as a rename does; but
  later Writes pass a rename, because it does not touch bytes, and a clone that they passed would copy what was
  written after it, or bury it.
- while a held rename or link waits for bytes of either file, Writes pass it, and would pass a clone held behind
  it: these are stored first too.
- a clone that makes its destination longer comes after everything dirty in it: a committed size never passes the end
  of data below which all is durable.

What one call clones is bounded in extents, so that neither this process nor a metaserver is held up by one
operation; the caller goes on where it ended, as copy_file_range(2) wants of him.
"""

from collections.abc import Iterator
from typing import Final

from cloudverge_mount.attributes import without_setid
from cloudverge_mount.core import NotStored
from cloudverge_mount.files import Files
from cloudverge_mount.handles import FileHandle
from cloudverge_protocol import extents as arithmetic
from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import FILE_BYTES_MAX, InodeId, region_of
from cloudverge_protocol.inodes import Extent, Inode
from cloudverge_protocol.operations import CloneRange

EXTENTS_AT_ONCE: Final = 10_000  # of source or destination


class Copying(Files):
    """The part of ``Vfs`` that copies."""

    async def copy_file_range(
        self, fh_in: int, offset_in: int, fh_out: int, offset_out: int, length: int
    ) -> int:
        """Let a range of one file hold the bytes of another's, or of another range of its own; how many it was."""
        source, target = self.core.handles.file(fh_in), self.core.handles.file(fh_out)
        if target.append or not target.writable:
            raise Refused(Code.BAD_HANDLE, "the file is not open for writing at any place")
        if min(offset_in, offset_out, length) < 0:
            raise Refused(Code.INVALID, f"{length} bytes from {offset_in} to {offset_out} are no ranges")
        return await self.core.retry(self._copy, source, offset_in, target, offset_out, length)

    def _copy(self, source: FileHandle, at: int, target: FileHandle, to: int, length: int) -> int:
        core = self.core
        core.check_writable()
        row, into = core.shown(core.row(source.ino)), core.shown(core.row(target.ino))
        length = _clipped(row, at, into, to, length)
        if not length:
            return 0
        self._check_stored(row.ino, at, at + length)
        self._check_stored(into.ino, to, to + length)
        length = min(self._reach(row.ino, at, length), self._reach(into.ino, to, length))
        growth = max(0, self._mapped(row.ino, at, length) - self._mapped(into.ino, to, length))
        if growth:
            core.ledger.quota.check_bytes(growth)
        permissions = without_setid(into.mode) if target.uid else None
        op = CloneRange(row.ino, at, length, into.ino, to, core.clock_ns(), permissions)
        core.ledger.accept(op, growth=growth)
        if into.ino in core.pendings:
            self._end_clean(into.ino)
        return length

    def _check_stored(self, ino: InodeId, start: int, end: int) -> None:
        """See the module's text."""
        core = self.core
        if core.holding.waits_for(ino) or core.content.dirty_ranges(ino, start, end):
            raise NotStored(ino)
        if end > core.row(ino).size and core.content.is_dirty(ino):
            raise NotStored(ino)

    # --- extents -----------------------------------------------------------------------------------------

    def _reach(self, ino: InodeId, start: int, length: int) -> int:
        """How much of a range has EXTENTS_AT_ONCE extents at most."""
        for count, extent in enumerate(self._extents(ino, start, start + length)):
            if count == EXTENTS_AT_ONCE:
                return extent.offset - start
        return length

    def _mapped(self, ino: InodeId, start: int, length: int) -> int:
        """How many bytes of a range are mapped."""
        return sum(extent.length for extent in self._extents(ino, start, start + length))

    def _extents(self, ino: InodeId, start: int, end: int) -> Iterator[Extent]:
        local = self.core.ledger.local
        first, last = region_of(start), region_of(end - 1)
        for region in sorted(each for each in local.regions(ino) if first <= each <= last):
            yield from arithmetic.clip(local.extents(ino, region), start, end)


def _clipped(row: Inode, at: int, into: Inode, to: int, length: int) -> int:
    """How much can be copied: up to the end of the source, and to where a file must end."""
    length = min(length, row.size - at)
    if length <= 0:
        return 0
    if to >= FILE_BYTES_MAX:
        raise Refused(Code.FILE_TOO_BIG, f"{to} bytes, a file can have {FILE_BYTES_MAX}")
    length = min(length, FILE_BYTES_MAX - to)
    if row.ino == into.ino and abs(at - to) < length:
        raise Refused(Code.INVALID, "the two ranges of the file overlap")
    return length
