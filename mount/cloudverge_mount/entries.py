"""Entries: how operations get numbers and their place in the order, or wait for it. Below ``ledger``.

Everything here writes one journal record and then changes memory, in this order; what raises has changed nothing.

One thing must be mended about the order: a Write passes the operations that wait for its bytes, and these set
ctime (or mode and times) when the metaserver applies them after it. If the file was written after such an
operation, its attributes are stated once more when the last of them has gone (``_restate``).
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
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
    ENTRY,
    HELD,
    RELEASED,
    WRITE,
    HeldRecord,
    Receipts,
    ReleasedRecord,
    WriteRecord,
    encode,
)
from cloudverge_mount.rights import Rights
from cloudverge_mount.rows import Rows
from cloudverge_protocol.errors import CloudVergeError
from cloudverge_protocol.ids import FILE_BYTES_MAX, ChunkId, EntryNumber, Incarnation, InodeId
from cloudverge_protocol.inodes import Inode
from cloudverge_protocol.operations import ChunkDone, Entry, Operation, Write

_log = structlog.get_logger()

Settles = tuple[int, int] | None  # (inode, spill number) that an entry's commit supersedes


class Bytes(Protocol):
    """What the ledger asks of the bytes side, all synchronous."""

    def is_dirty(self, ino: InodeId) -> bool: ...
    def close(self, ino: InodeId) -> None: ...
    def is_spilled(self, ino: InodeId) -> bool: ...
    def dirty_ranges(self, ino: InodeId, start: int, end: int) -> Sequence[tuple[int, int]]: ...
    def cut(self, ino: InodeId, start: int, end: int = FILE_BYTES_MAX) -> None: ...
    def drop(self, ino: InodeId) -> None: ...
    def spill_committed(self, ino: InodeId, through: int) -> None: ...
    def committed(self, settled: int, given: int, waiting: bool) -> None: ...


class Carried(msgspec.Struct, frozen=True, array_like=True):
    """What a held operation takes along to its entry."""

    segment: int
    receipts: Receipts = ()
    settles: Settles = None
    growth_bytes: int = 0
    growth_inodes: int = 0


class Entries:
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
        self.quota.is_settled = lambda: not len(self.outbox) and not self.holding.held
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

    # --- entering ----------------------------------------------------------------------------------------

    def _enter(self, op: Operation, settles: Settles, inodes: int, growth: int = 0) -> None:
        number = self._number + 1
        raw = encode(Entry(self._incarnation, EntryNumber(number), op))
        position = self.journal.end
        segment = self.journal.append(ENTRY, raw)
        self._number = number
        self.quota.entered_inodes += inodes
        self.quota.entered_bytes += growth
        self._queue(Item(self._incarnation, number, raw, segment, (), settles, growth, inodes), position)

    def _queue(self, item: Item, position: int) -> None:
        self.needs.add(item.segment)
        self.outbox.push(item, position)

    def _enter_write(
        self, op: Write, receipts: Receipts, settles: Settles, growth: int, through: int
    ) -> None:
        number = self._number + 1
        raw = encode(Entry(self._incarnation, EntryNumber(number), op))
        position = self.journal.end
        segment = self.journal.append(WRITE, encode(WriteRecord(msgspec.Raw(raw), receipts, through)))
        self._number = number
        self.quota.entered_bytes += growth
        self._queue(Item(self._incarnation, number, raw, segment, receipts, settles, growth), position)

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

    # --- waiting -----------------------------------------------------------------------------------------

    def _hold_back(
        self,
        op: Operation,
        met: tuple[int, ...],
        sources: tuple[int, ...],
        settles: Settles,
        inodes: int,
        growth: int,
    ) -> None:
        hold = self._hold + 1
        waits = tuple((InodeId(ino), self._reached(InodeId(ino))) for ino in sources)
        segment = self.journal.append(HELD, encode(HeldRecord(hold, op, met, waits)))
        self._hold = hold
        self.needs.add(segment)
        self.quota.entered_inodes += inodes
        self.quota.entered_bytes += growth
        self.holding.add(Held(hold, op, met, Carried(segment, (), settles, growth, inodes)), waits)

    def _reached(self, ino: InodeId) -> int:
        """The spill number that stands for all bytes of a dirty file as of now; 0: only settling does."""
        return self.spills.last(ino) if self.content.is_spilled(ino) else 0

    def _hold_write(self, op: Write, receipts: Receipts, settles: Settles, growth: int, through: int) -> None:
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
                row = self._row(ino)
                if row is not None:
                    self._enter(attributes_of(row), None, 0)
                self._restate.discard(ino)

    def restate_due(self) -> None:
        """State again what nothing held will set any more, in case the journal could not take it before."""
        try:
            self._restate_after(tuple(self._restate))
        except CloudVergeError as error:
            _log.error("attributes are stated again later", reason=error.message)

    def _freed(self, ino: int, ready: list[Held]) -> None:
        self.release_all(ready)
        if not self.holding.waits_for(ino):
            self.on_freed(ino)

    def _row(self, ino: int) -> Inode | None:
        node = self.rows.node(ino)
        return None if node is None else node.row

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
        outbox = self.outbox
        self.content.committed(outbox.settled, outbox.pushed, bool(self.holding.held))

    def _spill_committed(self, ino: int, through: int) -> None:
        self.spills.committed(ino, through)
        self.content.spill_committed(InodeId(ino), through)


def attributes_of(row: Inode) -> Write:
    """The Write that says what a row does of its file."""
    return Write(row.ino, (), row.size, row.mtime_ns, row.ctime_ns, row.mode & 0o7777)
