"""The ledger: where an operation is accepted. Checked by the rules, journaled, shown, queued or held.

All of it is synchronous: between the check and the journal write nothing else happens, so no lock is needed
and the journal's order is the order in which things were seen to happen. An exception leaves no trace.

The local view is one state, the rows: every accepted operation is applied to them at once, held ones too.
That is right because the order of entries differs from the order of acceptance only where rows are disjoint,
and for Writes, which are applied when they enter. A dirty file's coming attributes are ``pendings``.
"""

import stat
from collections.abc import Iterable

from cloudverge_mount.entries import Bytes, Carried, attributes_of
from cloudverge_mount.holding import Held
from cloudverge_mount.outbox import Item
from cloudverge_mount.pending import Pending
from cloudverge_mount.records import HeldRecord
from cloudverge_mount.rowkeys import inodes_met
from cloudverge_mount.writes import Writes
from cloudverge_protocol.ids import ROOT_INODE, InodeId
from cloudverge_protocol.operations import (
    RENAME_EXCHANGE,
    ChunkDone,
    Create,
    Link,
    Operation,
    Rename,
    Write,
)
from cloudverge_protocol.rules import apply

__all__ = ["Bytes", "Ledger", "made"]


class Ledger(Writes):
    """See the module's text."""

    def accept(self, op: Operation, newborn: int = 0, sources: tuple[int, ...] = (), growth: int = 0) -> None:
        """Do ``op``; ``sources``: dirty files whose bytes it must not overtake, spilled already.

        ``growth``: bytes that it adds to what the space uses.
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
        met = self._met(op) if sources or holding.held else ()
        if sources or (met and holding.blocks(met)):
            self._hold_back(op, met, sources, settles, inodes, growth)
        else:
            self._enter(op, settles, inodes, growth)
        local.commit()
        if self.pendings and not newborn:
            self.overtake(op)
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

    def overtake(self, op: Operation) -> None:
        """What was to become of these dirty files is older than what ``op`` makes of them."""
        for ino in (getattr(op, "ino", 0), getattr(op, "target", 0), getattr(op, "dst", 0)):
            pending = self.pendings.get(ino) if isinstance(ino, int) else None
            if pending is not None and type(op) is not Write:
                pending.overtaken(op)

    def _ended(self, ino: int) -> None:
        if ino in self.pendings or ino in self.spills:
            self._drop_pending(ino)
            self.content.drop(InodeId(ino))

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

    def restate_later(self, ino: int) -> None:
        """A Write of this file may have passed operations that set its attributes again."""
        self._restate.add(ino)

    def restated(self, ino: int) -> None:
        """It has been made good."""
        self._restate.discard(ino)

    def show_last(self, ino: int, last: Pending) -> None:
        """The rows were rebuilt in the order of entries; the file's Write was accepted after what it passed."""
        row = self._row(ino)
        if row is None or not row.nlink:
            self._restate.discard(ino)
            return
        if last.ctime_ns is not None and last.ctime_ns <= row.ctime_ns:
            last.ctime_ns = None  # others have changed the file meanwhile
        last.size = row.size
        shown = last.over(row)
        if shown != row:
            self.local.begin()
            apply(attributes_of(shown), self.local)
            self.local.commit()
        elif not self.holding.meets(ino):
            self._restate.discard(ino)

    # --- giving up ---------------------------------------------------------------------------------------

    def give_up(self, held: Iterable[Held]) -> None:
        """These held operations never enter; what waited for nothing else may go."""
        chosen = list(held)
        hopeless = {waiting.hold for waiting in chosen}
        ready: list[Held] = []
        for waiting in reversed(chosen):
            ready.extend(self.holding.release(waiting))
            self.needs.drop(waiting.carried.segment)
            self.quota.entered_bytes -= waiting.carried.growth_bytes
            self.quota.entered_inodes -= waiting.carried.growth_inodes
            if waiting.carried.settles is not None:
                self._spill_committed(*waiting.carried.settles)
            self._restate.difference_update(waiting.met)
        self.release_all(follower for follower in ready if follower.hold not in hopeless)

    def drop_dead_spill(self) -> None:
        """After a replay: spill records of files that are not dirty, and that no uncommitted entry supersedes."""
        awaited = {item.settles[0] for item in self.outbox if item.settles is not None}
        for held in self.holding.held.values():
            if held.carried.settles is not None:
                awaited.add(held.carried.settles[0])
        for ino in list(self.spills):
            if ino not in awaited and ino not in self.unsettled and not self.content.is_dirty(InodeId(ino)):
                self._spill_committed(ino, self.spills.last(ino))

    def settle_clean(self) -> None:
        """After a replay: say what cuts have left of files, and let go what waits for bytes that all have entered."""
        for ino in [*self.pendings, *self.holding.waiting_for()]:
            if not self.content.is_dirty(InodeId(ino)):
                self.content_settled(InodeId(ino))
        self.release_all(self.holding.all_ready())
        self.restate_due()

    def needs_old(self) -> bool:
        """Whether an earlier incarnation must not end yet: held Writes name its chunks, held Links its orphans."""
        return any(
            hold <= self._old_hold and isinstance(held.op, Write | Link)
            for hold, held in self.holding.held.items()
        )

    def trim(self, replica_position: int) -> None:
        """Remove the journal segments that nothing needs."""
        first = self.needs.first(self.journal.segment)
        self.journal.trim(min(first, replica_position >> 32))


def made(op: Operation) -> int:
    """The inode that an operation makes, 0 if it makes none: known not to exist before."""
    return op.ino if type(op) is Create else 0
