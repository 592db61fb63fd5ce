"""Dirty files: from written bytes to Writes. Below ``ledger``; most of what ``Sink`` asks ends here.

A Write is made when bytes have become durable, from the file's attributes as they are then: journaled row and
what is pending over it. The bytes side says which spill records it supersedes; both go into one record.
"""

import structlog

from cloudverge_mount.entries import Entries
from cloudverge_mount.holding import Held
from cloudverge_mount.pending import Pending
from cloudverge_mount.records import (
    COMING,
    SETTLED,
    SPILL,
    ComingRecord,
    Receipts,
    SettledRecord,
    SpillRecord,
    encode,
)
from cloudverge_mount.spillrecord import Spilled
from cloudverge_protocol.errors import CloudVergeError
from cloudverge_protocol.ids import InodeId
from cloudverge_protocol.inodes import Extents, Inode
from cloudverge_protocol.operations import Write
from cloudverge_protocol.rules import apply

_log = structlog.get_logger()


class Writes(Entries):
    """Entries of Write operations, and the pending attributes of dirty files."""

    def log_spill(self, record: Spilled) -> None:
        """See ``Sink``."""
        pending = self.pendings.get(record.ino)
        if pending is None:
            payload = SpillRecord(record)
        else:
            payload = SpillRecord(record, pending.size, pending.mtime_ns, pending.ctime_ns, pending.mode)
        segment = self.journal.append(SPILL, encode(payload))
        self.spilled(record, segment, payload.size)

    def log_coming(self, ino: InodeId, size: int, now_ns: int, mode: int | None) -> None:
        """The size of a dirty file is set: if some of it is closed already, a kill must not undo that.

        This says all there is to a cut. What else is journaled of it comes later, or never if we are killed.
        """
        if ino in self.spills:
            self.journal.append(COMING, encode(ComingRecord(ino, size, now_ns, now_ns, mode)))
            self.spills.resized(ino, size)

    def spilled(self, record: Spilled, segment: int, size: int) -> None:
        """The journal has taken this record."""
        if not record.forgets and self.spills.add(record, segment, size):
            self.holding.spilled_over(record.ino, record.number)

    def enter_write(
        self, ino: InodeId, extents: Extents, receipts: Receipts, durable_below: int, spilled_through: int
    ) -> int:
        """See ``Sink``."""
        row = self._row(ino)
        if row is None:
            return self.outbox.settled  # nobody waits for these bytes
        pending = self.pendings.get(ino)
        if pending is None:
            pending = self.pendings[ino] = Pending(row.size)
        size = max(row.size, min(pending.size, durable_below))
        through = self.spills.superseded(ino, spilled_through, size)
        return self._write(row, pending, extents, receipts, size, through)

    def _write(
        self, row: Inode, pending: Pending, extents: Extents, receipts: Receipts, size: int, through: int
    ) -> int:
        ino, holding = row.ino, self.holding
        mtime_ns = row.mtime_ns if pending.mtime_ns is None else pending.mtime_ns
        ctime_ns = row.ctime_ns if pending.ctime_ns is None else pending.ctime_ns
        op = Write(ino, extents, size, mtime_ns, ctime_ns, pending.mode)
        self.local.begin()
        apply(op, self.local)
        growth = min(pending.growth, sum(extent.length for extent in extents))
        settles = (ino, through) if through else None
        passes = holding.waits_for(ino)
        ready: list[Held] = []
        place = 0
        if holding.held and holding.blocks_write(ino):
            self._hold_write(op, receipts, settles, growth, through)
        else:
            self._enter_write(op, receipts, settles, growth, through)
            place = self.outbox.pushed
            ready = holding.write_passed(ino, through)
        self.local.commit()
        if passes and (pending.ctime_ns is not None or (pending.is_set and holding.sets_attributes(ino))):
            self._restate.add(ino)
        pending.growth -= growth
        self.quota.dirty_bytes -= growth
        pending.entered()
        self.spills.entered(ino, through)
        if ready:
            self._freed(ino, ready)
        return place

    def content_settled(self, ino: InodeId) -> None:
        """See ``Sink``; if the journal cannot take it now, ``retry`` will."""
        try:
            self._settle(ino)
        except CloudVergeError as error:
            self.unsettled.add(ino)
            _log.error("a file's attributes wait for room in the journal", inode=ino, reason=error.message)

    def _settle(self, ino: InodeId) -> None:
        pending, row = self.pendings.get(ino), self._row(ino)
        if pending is not None:
            if row is not None and (pending.differs(row) or self.spills.has_fresh(ino)):
                size = max(row.size, pending.size)  # after a start others may have made it longer
                self._write(row, pending, (), (), size, self.spills.last(ino))
            self._drop_pending(ino)
        if self.holding.waits_for(ino):
            self.journal.append(SETTLED, encode(SettledRecord(ino)))
            self._freed(ino, self.holding.settled(ino))

    def _drop_pending(self, ino: int) -> None:
        pending = self.pendings.pop(ino, None)
        if pending is not None:
            self.quota.dirty_bytes -= pending.growth

    def grow(self, pending: Pending, growth: int) -> None:
        """A dirty file has become longer by so many bytes that will count against the quota."""
        pending.growth += growth
        self.quota.dirty_bytes += growth

    def shrink_growth(self, pending: Pending, most: int) -> None:
        """A dirty file was cut: no more than ``most`` bytes of growth are left."""
        gone = max(0, pending.growth - most)
        pending.growth -= gone
        self.quota.dirty_bytes -= gone

    def retry(self) -> None:
        """Try again what the journal could not take."""
        for ino in list(self.unsettled):
            if not self.content.is_dirty(InodeId(ino)):
                self._settle(InodeId(ino))
            self.unsettled.discard(ino)
        if self.holding.held:
            self.release_all(self.holding.all_ready())
        self.restate_due()

    # --- lost files --------------------------------------------------------------------------------------

    def forget_content(self, ino: InodeId) -> None:
        """Whatever is dirty of this file has nowhere to go."""
        self._drop_pending(ino)
        if self.content.is_dirty(ino):
            self.content.drop(ino)
        if ino in self.spills:
            self._spill_committed(ino, self.spills.last(ino))
        if self.holding.waits_for(ino):
            self._freed(ino, self.holding.settled(ino))

    def abandon_content(self, ino: InodeId) -> None:
        """The dirty bytes of this file are lost; what waits for them is set aside by the caller."""
        self._drop_pending(ino)
        self.content.drop(ino)
        if ino in self.spills:
            self._spill_committed(ino, self.spills.last(ino))
