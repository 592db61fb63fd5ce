"""Reading the journal at start: what is not committed yet, what is held, which closed bytes are not durable.

Two passes. The first learns what later records say about earlier ones (acknowledged, set aside). The second
goes through the records as they were written and brings ledger, outbox, holding and the dirty map to what they
were, but for the rows: those are rebuilt afterwards (``rebase``). ``doubtful`` are the rows of committed entries
that the replica does not include, and of what was set aside. ``last`` is what Writes that passed held operations
have said of their files (see ``entries``) as far as nothing later did: rows are rebuilt in the order of entries.
"""

from collections.abc import Mapping
from typing import Protocol

from cloudverge_mount.journal import Found, Journal, segment_of
from cloudverge_mount.ledger import Ledger
from cloudverge_mount.outbox import Item, entry_of, item_of
from cloudverge_mount.pending import Pending
from cloudverge_mount.records import (
    ACKED,
    ASIDE,
    COMING,
    ENTRY,
    FORMAT,
    HEADER,
    HELD,
    RELEASED,
    SETTLED,
    SPILL,
    WRITE,
    AckedRecord,
    AsideRecord,
    ComingRecord,
    HeaderRecord,
    HeldRecord,
    ReleasedRecord,
    SettledRecord,
    SpillRecord,
)
from cloudverge_mount.rowkeys import inodes_met, nothing_touched
from cloudverge_mount.spillrecord import Spilled
from cloudverge_protocol.codec import decode
from cloudverge_protocol.errors import Code, ProtocolFault
from cloudverge_protocol.ids import FILE_BYTES_MAX, InodeId
from cloudverge_protocol.inodes import Extents
from cloudverge_protocol.operations import CloneRange, Operation, PunchHole, Truncate, Write


class Restorable(Protocol):
    """What of the bytes side is used here."""

    def restore(self, record: Spilled) -> None: ...
    def rewritten(self, ino: InodeId, extents: Extents) -> None: ...
    def cut(self, ino: InodeId, start: int, end: int = FILE_BYTES_MAX) -> None: ...


class Verdicts:
    """What the journal and the metaserver say about entries."""

    def __init__(self, high_water: Mapping[int, int]) -> None:
        self._acked = (0, 0)
        self._high_water = dict(high_water)
        self.aside: set[tuple[int, int]] = set()
        self.aside_holds: set[int] = set()
        self.last_number: dict[int, int] = {}  # of each incarnation, in the journal

    def learn(self, found: Found) -> None:
        """First pass."""
        if found.kind == ACKED:
            acked = decode(AckedRecord, found.payload)
            self._acked = max(self._acked, (acked.incarnation, acked.number))
        elif found.kind == HEADER:
            header = decode(HeaderRecord, found.payload)
            if header.format > FORMAT:
                raise ProtocolFault(
                    Code.VERSION,
                    f"the journal has format {header.format}, this program knows {FORMAT}: use the newer one",
                )
        elif found.kind == ASIDE:
            aside = decode(AsideRecord, found.payload)
            self.aside.update(aside.entries)
            self.aside_holds.update(aside.held)
        elif (item := item_of(found)) is not None:
            last = self.last_number.get(item.incarnation, 0)
            self.last_number[item.incarnation] = max(item.number, last)

    def is_committed(self, incarnation: int, number: int) -> bool:
        """Whether the metaserver has this entry."""
        if number <= self._high_water.get(incarnation, 0):
            return True
        return (incarnation, number) <= self._acked

    def is_aside(self, incarnation: int, number: int) -> bool:
        """Whether it was set aside."""
        return (incarnation, number) in self.aside


class Replay:
    """``position``: what the replica includes."""

    def __init__(self, ledger: Ledger, content: Restorable, verdicts: Verdicts, position: int) -> None:
        self._ledger = ledger
        self._content = content
        self._verdicts = verdicts
        self._position = position
        self.doubtful = nothing_touched()
        self.last: dict[int, Pending] = {}
        self.incarnations: set[int] = set()  # with entries that are not committed

    def take(self, found: Found) -> None:
        """Second pass: one record."""
        if found.kind in (ENTRY, WRITE, RELEASED):
            item = item_of(found)
            assert item is not None
            self._take_entry(item, found)
        elif found.kind == HELD:
            self._take_held(decode(HeldRecord, found.payload), found)
        elif found.kind == SPILL:
            self._take_spill(decode(SpillRecord, found.payload), segment_of(found.position))
        elif found.kind == COMING:
            coming = decode(ComingRecord, found.payload)
            self._take_coming(coming.ino, coming)
            self._content.cut(coming.ino, coming.size)
            self._ledger.spills.resized(coming.ino, coming.size)
        elif found.kind == SETTLED:
            self._ledger.holding.settled(decode(SettledRecord, found.payload).ino)

    def _take_entry(self, item: Item, found: Found) -> None:
        ledger, op = self._ledger, entry_of(item).op
        if found.kind == RELEASED:
            self._unhold(decode(ReleasedRecord, found.payload).hold)
        else:
            self._shown(op)
            if isinstance(op, Write):
                self._entered(op, found.kind, item.settles[1] if item.settles else 0)
        if self._verdicts.is_aside(item.incarnation, item.number):
            self._take_aside(op)
            self._give_up_spill(item)
        elif not self._verdicts.is_committed(item.incarnation, item.number):
            ledger.queue_again(item, found.position)
            self.incarnations.add(item.incarnation)
        else:
            if found.position >= self._position:
                self.doubtful.add(op)
            self._give_up_spill(item)

    def _take_aside(self, op: Operation) -> None:
        self.doubtful.add(op)
        for ino in inodes_met(op):
            self._said(ino)

    def _said(self, ino: int) -> None:
        """Nothing has to be stated again of this file."""
        self._ledger.restated(ino)
        self.last.pop(ino, None)

    def _unhold(self, hold: int) -> None:
        held = self._ledger.holding.held.get(hold)
        if held is not None:
            self._ledger.holding.release(held)
            self._ledger.needs.drop(held.carried.segment)

    def _entered(self, op: Write, kind: int, through: int) -> None:
        """A Write has entered without waiting; those that waited for it are released by records of their own."""
        if kind == WRITE:
            self._ledger.spills.entered(op.ino, through)
            self._passing(op)
            self._ledger.holding.write_passed(op.ino, through)
        else:  # its attributes were stated once more
            self._said(op.ino)

    def _passing(self, op: Write) -> None:
        """If held operations wait for the file, they will set its attributes after this Write, which is later."""
        holding = self._ledger.holding
        if holding.waits_for(op.ino):
            self._ledger.restate_later(op.ino)
            last = self.last.setdefault(op.ino, Pending(op.size))
            last.ctime_ns = op.ctime_ns
            if holding.sets_attributes(op.ino):
                last.mtime_ns = op.mtime_ns
                last.mode = op.mode if op.mode is not None else last.mode

    def _give_up_spill(self, item: Item) -> None:
        if item.settles is not None:
            self._ledger.spills.committed(*item.settles)
            self._ledger.content.spill_committed(InodeId(item.settles[0]), item.settles[1])

    def _take_held(self, record: HeldRecord, found: Found) -> None:
        self._shown(record.op)
        if isinstance(record.op, Write):
            self._ledger.spills.entered(record.op.ino, record.spilled_through)
            self._passing(record.op)
        if record.hold in self._verdicts.aside_holds:
            self._take_aside(record.op)
            self._ledger.skip_holds(record.hold)
        else:
            self._ledger.hold_again(record, segment_of(found.position))

    def _shown(self, op: Operation) -> None:
        """The operation was seen to happen here: what it did to dirty bytes and coming attributes."""
        pending = self._ledger.pendings.get(getattr(op, "ino", 0))
        if isinstance(op, Write):
            self._content.rewritten(op.ino, op.extents)
            if pending is not None:
                pending.entered()
        elif isinstance(op, Truncate):
            self._content.cut(op.ino, op.size)
            self._ledger.spills.resized(op.ino, op.size)
            if pending is not None:
                pending.size = op.size
                pending.entered()
        else:
            if isinstance(op, PunchHole):
                self._content.cut(op.ino, op.offset, op.offset + op.length)
            self._ledger.overtake(op)
        changed = (op.dst,) if isinstance(op, CloneRange) else inodes_met(op)
        for ino in changed if self.last else ():
            if ino in self.last:
                self.last[ino].overtaken(op)

    def _take_spill(self, record: SpillRecord, segment: int) -> None:
        spilled = record.spilled
        self._content.restore(spilled)
        self._ledger.spilled(spilled, segment, record.size)
        if record.size >= 0:
            self._take_coming(spilled.ino, record)
        elif spilled.forgets:
            self._ledger.pendings.pop(spilled.ino, None)  # given up

    def _take_coming(self, ino: InodeId, record: SpillRecord | ComingRecord) -> None:
        pending = self._ledger.pendings.setdefault(ino, Pending(record.size))
        pending.size = record.size
        pending.mtime_ns, pending.ctime_ns = record.mtime_ns, record.ctime_ns
        pending.mode = record.mode


def read_journal(journal: Journal, verdicts: Verdicts) -> None:
    """The first pass."""
    for found in journal.replay():
        verdicts.learn(found)
