"""Closed bytes kept for a crash: what goes to the spill and the journal, and how both become dirty bytes again.

Dirty bytes lie in RAM or in the spill; here they are had from either.

The journal's records and Writes, replayed in their order, give the dirty map as it was: a record makes its range
dirty (its bytes stay in the spill), a Write or a cut forgets the ranges it covers. Everything restored is
verified once, at the end; what is missing or bad is named, stays dirty and stuck, and stops nothing else.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator

import structlog

from cloudverge_mount.dirty import DirtyFile
from cloudverge_mount.pieces import Piece, Report
from cloudverge_mount.sink import Sink
from cloudverge_mount.spill import Spill
from cloudverge_mount.spillrecord import Spilled, forgotten
from cloudverge_mount.uncommitted import Uncommitted
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import ChunkFault, Code, NoRoom
from cloudverge_protocol.ids import InodeId
from cloudverge_protocol.inodes import Extents

log = structlog.get_logger(__name__)

RECORD_BYTES = 1024 * 1024  # at most this many neighbouring bytes share a spill record


class Keeper:
    """Spill and journal together; ``files`` are the dirty maps, shared with ``Content``."""

    def __init__(
        self,
        files: dict[InodeId, DirtyFile],
        spill: Spill,
        sink: Sink,
        uncommitted: Uncommitted,
        note: Callable[[str], None],
    ) -> None:
        self._files = files
        self._spill = spill
        self._sink = sink
        self._note = note
        self.uncommitted = uncommitted
        self._last_load: tuple[int, bytes] = (0, b"")  # record number and bytes last read back
        self._restored: set[InodeId] = set()

    # --- before a crash ---------------------------------------------------------------------------------

    def keep(self, file: DirtyFile) -> None:
        """Spill what of ``file`` is not spilled yet. Raises NoRoom; then some of it may be."""
        group: list[Piece] = []
        length = 0
        for piece in file.to_spill():
            size = piece.end - piece.start
            if group and (group[-1].end != piece.start or length + size > RECORD_BYTES):
                self._keep_group(file, group)
                group, length = [], 0
            group.append(piece)
            length += size
        if group:
            self._keep_group(file, group)

    def _keep_group(self, file: DirtyFile, group: list[Piece]) -> None:
        buffers: list[Buffer] = [piece.view(piece.start, piece.end) for piece in group]
        if not self._spill.has_room(sum(map(len, buffers))):
            raise NoRoom(Code.NO_SPACE, "the spill of this mount's cache folder is full")
        record = self._spill.append(file.ino, group[0].start, buffers)
        self._sink.log_spill(record)
        file.spilled(group, record)

    def forgot(self, file: DirtyFile, start: int, end: int) -> None:
        """Spilled bytes of [start, end) are gone: a replay must not bring them back."""
        record = forgotten(file.ino, start, end, self._spill.next_number())
        file.last_record = record.number
        self._sink.log_spill(record)

    def last_record(self, ino: InodeId) -> int:
        """The highest record number of ``ino`` that is still kept; 0 if there is none."""
        records = self._spill.records(ino)
        return records[-1].number if records else 0

    def superseded(self, ino: InodeId) -> int:
        """Records of ``ino`` numbered this or lower are superseded by what is entered or forgotten so far."""
        file = self._files.get(ino)
        return self.last_record(ino) if file is None else file.spilled_through()

    # --- after it ---------------------------------------------------------------------------------------

    def restore(self, record: Spilled) -> None:
        """Replay a journaled record."""
        self._spill.adopt(record)
        file = self._files.get(record.ino)
        if file is None:
            if record.forgets:
                return
            file = self._files[record.ino] = DirtyFile(record.ino)
        file.restore(record)
        self.drop_if_clean(file)

    def rewritten(self, ino: InodeId, extents: Extents) -> None:
        """Replay a journaled Write: records before it no longer hold for its ranges."""
        file = self._files.get(ino)
        if file is not None:
            for extent in extents:
                file.forget(extent.offset, extent.end)
            self.drop_if_clean(file)

    def drop_if_clean(self, file: DirtyFile) -> None:
        """Take a file without dirty bytes out of the maps."""
        if not file.size:
            del self._files[file.ino]

    def verify(self) -> dict[InodeId, str]:
        """Verify all that was restored: which inodes have lost bytes, and why."""
        lost: dict[InodeId, str] = {}
        for ino, file in self._files.items():
            records = {piece.record.number: piece.record for piece in file if piece.record is not None}
            for record in records.values():
                try:
                    self._spill.read(record)
                except ChunkFault as fault:
                    lost[ino] = fault.message
        self._restored.update(self._files)
        self._spill.sweep()
        return lost

    def take_restored(self) -> list[DirtyFile]:
        """The restored files that are still dirty; given once."""
        files = [self._files[ino] for ino in self._restored if ino in self._files]
        self._restored.clear()
        return files

    def entered(self, ino: InodeId, report: Report, place: int) -> None:
        """A Write names these bytes; see ``Sink`` for its ``place``."""
        self.uncommitted.keep(ino, report.pieces, place, self._spill.last_number)
        if self.uncommitted.crowded:
            self._sink.hurry()

    # --- bytes ------------------------------------------------------------------------------------------

    def bytes_of(self, piece: Piece, start: int, end: int) -> Buffer | None:
        """The bytes [start, end) of a piece, from RAM or verified from the spill; None if they are lost."""
        if piece.data is not None:
            return piece.view(start, end)
        record = piece.record
        assert record is not None
        if self._last_load[0] != record.number:
            try:
                self._last_load = (record.number, self._spill.read(record))
            except ChunkFault as fault:
                log.error("spilled bytes are lost", ino=record.ino, segment=record.segment, error=str(fault))
                self._note(str(fault))
                return None
        return memoryview(self._last_load[1])[start - record.offset : end - record.offset]

    def unstored_inodes(self) -> list[InodeId]:
        """Files with bytes that are not known to be committed."""
        return list(dict.fromkeys((*self._files, *self._spill.inodes(), *self.uncommitted.inodes())))

    def unstored_pieces(self, ino: InodeId) -> Iterator[tuple[int, bytes]]:
        """Such bytes of a file with their offsets, older ones first, as far as they can be had.

        Those that were closed are had from the spill: they may be durable, but their Write was not committed.
        """
        records = deque(self._spill.records(ino))
        for after, offset, data in self.uncommitted.pieces(ino):
            while records and records[0].number <= after:
                yield from self._spilled(records.popleft())
            yield offset, data
        for record in records:
            yield from self._spilled(record)
        for piece in self._files.get(ino, ()):
            dirty = self.bytes_of(piece, piece.start, piece.end)
            if dirty is not None:
                yield piece.start, bytes(dirty)

    def _spilled(self, record: Spilled) -> Iterator[tuple[int, bytes]]:
        with contextlib.suppress(ChunkFault):  # noted where it was found
            yield record.offset, self._spill.read(record)
