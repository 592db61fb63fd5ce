"""The ledger: where an operation is accepted. Checked by the rules, journaled, shown, queued or held.

All of it is synchronous: between the check and the journal write nothing else happens, so no lock is needed
and the journal's order is the order in which things were seen to happen. An exception leaves no trace.

The local view is one state, the rows: every accepted operation is applied to them at once, held ones too.
That is right because the order of entries differs from the order of acceptance only where rows are disjoint,
and for Writes, which are applied when they enter. One thing must be mended: a Write passes the operations
that wait for its bytes, and these set ctime (or mode) again when they are applied elsewhere. If the file was
written after such an operation, its attributes are stated once more when the last of them has gone
(``_restate``).

A dirty file's coming attributes are ``pendings``; see ``pending``.
"""

import stat
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec
import structlog

from cloudverge_mount.holding import Held, Holding
from cloudverge_mount.journal import Journal
from cloudverge_mount.localset import LocalSet
from cloudverge_mount.needs import Needs, SpillBook
from cloudverge_mount.outbox import Item, Outbox
from cloudverge_mount.pending import Pending
from cloudverge_mount.quota import Quota
from cloudverge_mount.records import (
    COMING,
    ENTRY,
    HELD,
    RELEASED,
    SETTLED,
    SPILL,
    WRITE,
    ComingRecord,
    HeldRecord,
    Receipts,
    ReleasedRecord,
    SettledRecord,
    SpillRecord,
    WriteRecord,
    encode,
)
from cloudverge_mount.rights import Rights
from cloudverge_mount.rowkeys import inodes_met
from cloudverge_mount.rows import Rows
from cloudverge_mount.spillrecord import Spilled
from cloudverge_protocol.errors import CloudVergeError
from cloudverge_protocol.ids import (
    ROOT_INODE,
    ChunkId,
    EntryNumber,
    Incarnation,
    InodeId,
)
from cloudverge_protocol.inodes import Extents, Inode
from cloudverge_protocol.operations import (
    RENAME_EXCHANGE,
    ChunkDone,
    Create,
    Entry,
    Operation,
    Rename,
    Write,
)
from cloudverge_protocol.rules import apply

_log = structlog.get_logger()


class Bytes(Protocol):
    """What the ledger asks of the bytes side, all synchronous."""

    def is_dirty(self, ino: InodeId) -> bool: ...
    def close(self, ino: InodeId) -> None: ...
    def is_spilled(self, ino: InodeId) -> bool: ...
    def cut(self, ino: InodeId, size: int) -> None: ...
    def drop(self, ino: InodeId) -> None: ...
    def spill_committed(self, ino: InodeId, through: int) -> None: ...


class Carried(msgspec.Struct, frozen=True, array_like=True):
    """What a held operation takes along to its entry."""

    segment: int
    receipts: Receipts = ()
    settles: tuple[int, int] | None = None
    growth_bytes: int = 0
    growth_inodes: int = 0


class Ledger:
    """See the module's text. ``content`` is set once it exists."""

    content: Bytes

    def __init__(self, rows: Rows, journal: Journal, rights: Rights) -> None:
        self.rows = rows
        self.local = LocalSet(rows)
        self.journal = journal
        self.rights = rights
        self.quota = Quota(rights)
        self.holding = Holding()
        self.outbox = Outbox(journal.scan)
        self.needs = Needs()
        self.spills = SpillBook(self.needs)
        self.pendings: dict[int, Pending] = {}
        self.unsettled: set[int] = set()  # settled by the bytes side, but the journal could not take it
        self.on_freed: Callable[[int], None] = lambda ino: None  # nothing waits for its bytes any more
        self._incarnation = Incarnation(0)
        self._number = 0
        self._hold = 0
        self._old_hold = 0  # of earlier incarnations
        self._restate: set[int] = set()
        self.renumber()

    @property
    def incarnation(self) -> Incarnation:
        """Of the entries made now."""
        return self._incarnation

    @property
    def number(self) -> int:
        """Of the last entry made."""
        return self._number

    def renumber(self) -> None:
        """Entries from now on belong to the session's incarnation of now."""
        if self.rights.incarnation != self._incarnation:
            self._incarnation, self._number = self.rights.incarnation, 0
            self._old_hold = self._hold

    def skip_holds(self, hold: int) -> None:
        """Hold numbers up to this one are taken."""
        self._hold = self._old_hold = max(self._hold, hold)

    # --- operations --------------------------------------------------------------------------------------

    def accept(self, op: Operation, newborn: int = 0, sources: tuple[int, ...] = ()) -> None:
        """Do ``op``; ``sources``: dirty files whose bytes it must not overtake, spilled already.

        Raises Refused, NotLoaded (load and call again) or NoRoom (the journal's disk is full).
        """
        local, holding = self.local, self.holding
        local.begin(newborn)
        apply(op, local)
        if not local.staged:
            return  # a rename of a file to another name of itself
        ended = 0 if newborn else local.ending()
        settles = (ended, self.spills.last(ended)) if ended and ended in self.spills else None
        inodes = 1 if newborn else -1 if ended else 0
        if sources or (holding.held and holding.blocks(self._met(op))):
            self._hold_back(op, sources, settles, inodes)
        else:
            self._enter(op, settles, inodes)
        local.commit()
        if self.pendings and not newborn:
            self._overtake(op)
        if ended:
            self._ended(ended)

    def _met(self, op: Operation) -> tuple[int, ...]:
        met = inodes_met(op)
        if type(op) is Rename and op.parent != op.new_parent:
            return (*met, *self._chain(op))
        return met

    def _chain(self, op: Rename) -> list[int]:
        """The folders above the places that folders are moved to: the rules read them all."""
        chain: list[int] = []
        moves = [(op.ino, op.new_parent)]
        if op.flags & RENAME_EXCHANGE:
            moves.append((op.target, op.parent))
        for moved, place in moves:
            row = self.local.inode(moved)
            if row is None or not stat.S_ISDIR(row.mode):
                continue
            while place not in (ROOT_INODE, 0):
                chain.append(place)
                above = self.local.inode(place)
                place = InodeId(0) if above is None else above.parent
        return chain

    def _enter(self, op: Operation, settles: tuple[int, int] | None, inodes: int) -> None:
        number = self._number + 1
        raw = encode(Entry(self._incarnation, EntryNumber(number), op))
        position = self.journal.end
        segment = self.journal.append(ENTRY, raw)
        self._number = number
        self.quota.entered_inodes += inodes
        self._queue(Item(self._incarnation, number, raw, segment, (), settles, 0, inodes), position)

    def _queue(self, item: Item, position: int) -> None:
        self.needs.add(item.segment)
        self.outbox.push(item, position)

    def _hold_back(
        self, op: Operation, sources: tuple[int, ...], settles: tuple[int, int] | None, inodes: int
    ) -> None:
        hold, met = self._hold + 1, self._met(op)
        waits = tuple((InodeId(ino), self._reached(InodeId(ino))) for ino in sources)
        segment = self.journal.append(HELD, encode(HeldRecord(hold, op, met, waits)))
        self._hold = hold
        self.needs.add(segment)
        self.quota.entered_inodes += inodes
        self.holding.add(Held(hold, op, met, Carried(segment, (), settles, 0, inodes)), waits)

    def _reached(self, ino: InodeId) -> int:
        """The spill number that stands for all bytes of a dirty file as of now; 0: only settling does."""
        return self.spills.last(ino) if self.content.is_spilled(ino) else 0

    def _overtake(self, op: Operation) -> None:
        for ino in (getattr(op, "ino", 0), getattr(op, "target", 0)):
            pending = self.pendings.get(ino) if isinstance(ino, int) else None
            if pending is not None and type(op) is not Write:
                pending.overtaken(op)

    def _ended(self, ino: int) -> None:
        if ino in self.pendings or ino in self.spills:
            self._drop_pending(ino)
            self.content.drop(InodeId(ino))

    # --- what waits --------------------------------------------------------------------------------------

    def release_all(self, ready: Iterable[Held]) -> None:
        """Let these enter the order, and whatever that makes ready; what the journal cannot take stays held."""
        todo = deque(sorted(ready, key=lambda held: held.hold))
        try:
            while todo:
                held = todo.popleft()
                if held.hold in self.holding.held:
                    self._release(held)
                    todo.extend(self.holding.release(held))
                    self._restate_after(held.met)
        except CloudVergeError as error:
            _log.error("held operations stay held for now", reason=error.message)

    def _release(self, held: Held) -> None:
        number, carried = self._number + 1, held.carried
        raw = encode(Entry(self._incarnation, EntryNumber(number), held.op))
        through = carried.settles[1] if carried.settles and isinstance(held.op, Write) else 0
        record = ReleasedRecord(held.hold, msgspec.Raw(raw), carried.receipts, through)
        position = self.journal.end
        segment = self.journal.append(RELEASED, encode(record))
        self._number = number
        self.needs.drop(carried.segment)
        self._queue(
            Item(
                self._incarnation,
                number,
                raw,
                segment,
                carried.receipts,
                carried.settles,
                carried.growth_bytes,
                carried.growth_inodes,
            ),
            position,
        )

    def _restate_after(self, met: tuple[int, ...]) -> None:
        for ino in met:
            if ino in self._restate and not self.holding.meets(ino):
                self._restate.discard(ino)
                node = self.rows.node(ino)
                if node is not None and node.row is not None:
                    self._restate_now(node.row)

    def _restate_now(self, row: Inode) -> None:
        op = Write(row.ino, (), row.size, row.mtime_ns, row.ctime_ns, row.mode & 0o7777)
        self._enter(op, None, 0)

    def restate_later(self, ino: int) -> None:
        """After a replay: a Write of this file may have passed operations that set its attributes again."""
        self._restate.add(ino)

    # --- replay (see ``replay``) -------------------------------------------------------------------------

    def queue_again(self, item: Item, position: int) -> None:
        """An entry of the journal that is not committed."""
        self._queue(item, position)

    def hold_again(self, record: HeldRecord, segment: int) -> None:
        """A held operation of the journal."""
        op, through = record.op, record.spilled_through
        settles = (op.ino, through) if through and isinstance(op, Write) else None
        held = Held(record.hold, op, record.met, Carried(segment, record.receipts, settles))
        self.needs.add(segment)
        self.skip_holds(record.hold)
        if isinstance(op, Write) and self.holding.blocks_write(op.ino):
            self.holding.add_write(held, through)
        elif isinstance(op, ChunkDone):
            self.holding.add_done(held, op.chunk)
        else:
            self.holding.add(held, record.sources)

    # --- from the bytes side -----------------------------------------------------------------------------

    def log_spill(self, record: Spilled) -> None:
        """See ``Sink``."""
        pending = self.pendings.get(record.ino)
        if pending is None:
            payload = SpillRecord(record)
        else:
            payload = SpillRecord(record, pending.size, pending.mtime_ns, pending.ctime_ns, pending.mode)
        segment = self.journal.append(SPILL, encode(payload))
        self.spilled(record, segment)

    def log_coming(self, ino: InodeId, pending: Pending) -> None:
        """The size of a dirty file was set: if some of it is closed already, a kill must not undo that."""
        if ino in self.spills:
            record = ComingRecord(ino, pending.size, pending.mtime_ns, pending.ctime_ns, pending.mode)
            self.journal.append(COMING, encode(record))

    def spilled(self, record: Spilled, segment: int) -> None:
        """The journal has taken this record."""
        if not record.forgets and self.spills.add(record, segment):
            self.holding.spilled_over(record.ino, record.number)

    def enter_write(
        self, ino: InodeId, extents: Extents, receipts: Receipts, durable_below: int, spilled_through: int
    ) -> None:
        """See ``Sink``."""
        row = self._row(ino)
        if row is None:
            return
        pending = self.pendings.get(ino)
        if pending is None:
            pending = self.pendings[ino] = Pending(row.size)
        size = max(row.size, min(pending.size, durable_below))
        self._write(row, pending, extents, receipts, size, spilled_through)

    def _row(self, ino: int) -> Inode | None:
        node = self.rows.node(ino)
        return None if node is None else node.row

    def _write(
        self, row: Inode, pending: Pending, extents: Extents, receipts: Receipts, size: int, through: int
    ) -> None:
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
        if holding.held and holding.blocks_write(ino):
            self._hold_write(op, receipts, settles, growth, through)
        else:
            self._enter_write(op, receipts, settles, growth, through)
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

    def _enter_write(
        self, op: Write, receipts: Receipts, settles: tuple[int, int] | None, growth: int, through: int
    ) -> None:
        number = self._number + 1
        raw = encode(Entry(self._incarnation, EntryNumber(number), op))
        position = self.journal.end
        segment = self.journal.append(WRITE, encode(WriteRecord(msgspec.Raw(raw), receipts, through)))
        self._number = number
        self.quota.entered_bytes += growth
        self._queue(Item(self._incarnation, number, raw, segment, receipts, settles, growth), position)

    def _hold_write(
        self, op: Write, receipts: Receipts, settles: tuple[int, int] | None, growth: int, through: int
    ) -> None:
        hold = self._hold + 1
        record = HeldRecord(hold, op, (op.ino,), (), receipts, through)
        segment = self.journal.append(HELD, encode(record))
        self._hold = hold
        self.needs.add(segment)
        self.quota.entered_bytes += growth
        self.holding.add_write(
            Held(hold, op, (op.ino,), Carried(segment, receipts, settles, growth)), through
        )
        if not self.holding.waits_for(op.ino):
            self.on_freed(op.ino)

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
                self._write(row, pending, (), (), pending.size, self.spills.last(ino))
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

    def _freed(self, ino: int, ready: list[Held]) -> None:
        self.release_all(ready)
        if not self.holding.waits_for(ino):
            self.on_freed(ino)

    def retry(self) -> None:
        """Try again what the journal could not take."""
        for ino in list(self.unsettled):
            if not self.content.is_dirty(InodeId(ino)):
                self._settle(InodeId(ino))
            self.unsettled.discard(ino)
        if self.holding.held:
            self.release_all(self.holding.all_ready())

    def chunk_done(self, chunk: ChunkId) -> None:
        """See ``Sink``."""
        op = ChunkDone(chunk)
        if not self.holding.blocks_done(chunk):
            self._enter(op, None, 0)
            return
        hold = self._hold + 1
        segment = self.journal.append(HELD, encode(HeldRecord(hold, op, ())))
        self._hold = hold
        self.needs.add(segment)
        self.holding.add_done(Held(hold, op, (), Carried(segment)), chunk)

    # --- after a commit ----------------------------------------------------------------------------------

    def committed(self, items: Iterable[Item]) -> None:
        """The metaserver has these; what was kept for them may go."""
        for item in items:
            self.needs.drop(item.segment)
            if item.growth_bytes or item.growth_inodes:
                self.quota.entered_bytes -= item.growth_bytes
                self.quota.entered_inodes -= item.growth_inodes
            if item.settles is not None:
                self._spill_committed(*item.settles)

    def _spill_committed(self, ino: int, through: int) -> None:
        self.spills.committed(ino, through)
        self.content.spill_committed(InodeId(ino), through)

    # --- giving up ---------------------------------------------------------------------------------------

    def give_up(self, held: Iterable[Held]) -> None:
        """These held operations never enter; what waited for nothing else may go."""
        chosen = list(held)
        hopeless = {waiting.hold for waiting in chosen}
        ready: list[Held] = []
        for waiting in chosen:
            ready.extend(self.holding.release(waiting))
            self.needs.drop(waiting.carried.segment)
            self.quota.entered_bytes -= waiting.carried.growth_bytes
            self.quota.entered_inodes -= waiting.carried.growth_inodes
            if waiting.carried.settles is not None:
                self._spill_committed(*waiting.carried.settles)
            self._restate.difference_update(waiting.met)
        self.release_all(follower for follower in ready if follower.hold not in hopeless)

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

    def drop_dead_spill(self) -> None:
        """After a replay: spill records of files that are not dirty, and that no uncommitted entry supersedes."""
        awaited = {item.settles[0] for item in self.outbox if item.settles is not None}
        for held in self.holding.held.values():
            if held.carried.settles is not None:
                awaited.add(held.carried.settles[0])
        for ino in list(self.spills):
            if ino not in awaited and not self.content.is_dirty(InodeId(ino)):
                self._spill_committed(ino, self.spills.last(ino))

    def settle_clean(self) -> None:
        """After a replay: what waits for bytes that have all entered waits no longer."""
        for ino in self.holding.waiting_for():
            if not self.content.is_dirty(InodeId(ino)):
                self._settle(InodeId(ino))
        self.release_all(self.holding.all_ready())

    def has_old_writes(self) -> bool:
        """Whether Writes of an earlier incarnation are held: they name its chunks."""
        return any(
            hold <= self._old_hold and type(held.op) is Write for hold, held in self.holding.held.items()
        )

    def trim(self, replica_position: int) -> None:
        """Remove the journal segments that nothing needs."""
        first = self.needs.first(self.journal.segment)
        self.journal.trim(min(first, replica_position >> 32))


def made(op: Operation) -> int:
    """The inode that an operation makes, 0 if it makes none: known not to exist before."""
    return op.ino if type(op) is Create else 0
