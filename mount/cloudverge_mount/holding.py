"""The order of operations: what must wait, and for what. Pure: no I/O, no clock.

An operation enters the journal's order at once, but for these:

- a rename or link whose source file is dirty waits for the bytes the file had then (I9);
- an operation that has a row in common with a waiting one waits for it (I1);
- a Write is made late, when its bytes are durable. It passes the operations that wait for these very bytes
  and all that wait for those, but nothing that was there before the first of them.

So what waits is a graph without cycles: an edge leads from an operation to a later one, and a Write stands
just before the first operation that waits for its file. ``ready`` operations are returned to the caller, who
journals their release in that order and says so (``release``), which may make others ready.

Rows are named by inode (see ``rowkeys``). A ChunkDone waits for the held Writes that name its chunk.
"""

from collections.abc import Collection, Iterable
from typing import Any

from cloudverge_protocol.operations import Operation, Setattr, Write


class Held:
    """An operation that waits; ``preds`` are those before it, ``sources`` the files whose bytes it waits for."""

    __slots__ = ("carried", "followers", "hold", "met", "op", "preds", "sources")

    def __init__(self, hold: int, op: Operation, met: tuple[int, ...], carried: Any = None) -> None:  # noqa: ANN401
        self.hold = hold
        self.op = op
        self.met = met
        self.carried = carried  # the owner's, for the release
        self.preds: set[Held] = set()
        self.followers: list[Held] = []
        self.sources: dict[int, int] = {}  # inode -> spill number its bytes had reached, 0 if none

    @property
    def is_ready(self) -> bool:
        """Whether nothing is left to wait for."""
        return not self.preds and not self.sources


class Holding:
    """All operations that wait, in the order they came."""

    def __init__(self) -> None:
        self.held: dict[int, Held] = {}
        self._last: dict[int, Held] = {}  # inode -> the last held operation that meets it
        self._waiting: dict[int, list[Held]] = {}  # inode -> those that wait for its bytes, in order
        self._before: dict[int, Held | None] = {}  # inode -> what precedes the first of those
        self._writes: dict[int, set[Held]] = {}  # chunk -> held Writes that name it
        self._setattrs: dict[int, int] = {}  # inode -> how many held Setattrs it has

    def __len__(self) -> int:
        return len(self.held)

    # --- asking ------------------------------------------------------------------------------------------

    def blocks(self, met: Iterable[int]) -> bool:
        """Whether an operation that meets these inodes has to wait."""
        last = self._last
        return any(ino in last for ino in met)

    def blocks_write(self, ino: int) -> bool:
        """Whether a Write of this file that enters now has to wait."""
        if ino in self._waiting:
            return self._before[ino] is not None
        return ino in self._last

    def blocks_done(self, chunk: int) -> bool:
        """Whether a held Write names ``chunk``."""
        return chunk in self._writes

    def waits_for(self, ino: int) -> bool:
        """Whether an operation waits for this file's bytes: they must not be thrown away."""
        return ino in self._waiting

    def sets_attributes(self, ino: int) -> bool:
        """Whether a held operation will set mode, owner or times of this file to given values."""
        return ino in self._setattrs

    def waiting_for(self) -> list[int]:
        """The inodes whose bytes are waited for."""
        return list(self._waiting)

    def meets(self, ino: int) -> bool:
        """Whether a held operation meets this inode."""
        return ino in self._last

    def holds(self, held: Held) -> bool:
        """Whether this one still waits."""
        return self.held.get(held.hold) is held

    def before(self, ino: int) -> list[Held]:
        """The held operations that must enter before all that meets ``ino`` now has entered."""
        seen: dict[int, Held] = {}
        todo = [held for held in (self._last.get(ino), self._before.get(ino)) if held is not None]
        while todo:
            held = todo.pop()
            if held.hold not in seen:
                seen[held.hold] = held
                todo.extend(held.preds)
        return list(seen.values())

    def after(self, met: Collection[int]) -> list[Held]:
        """The held operations that meet one of these inodes, or meet one that does, in order."""
        rows, found = set(met), []
        for held in self.held.values():
            if not rows.isdisjoint(held.met):
                rows.update(held.met)
                found.append(held)
        return found

    # --- holding -----------------------------------------------------------------------------------------

    def add(self, held: Held, sources: Iterable[tuple[int, int]] = ()) -> None:
        """Hold an operation; ``sources``: dirty files it waits for, with the spill number of their bytes."""
        for ino, number in sources:
            held.sources[ino] = number
            if ino not in self._waiting:
                self._waiting[ino] = []
                self._before[ino] = self._last.get(ino)
            self._waiting[ino].append(held)
        for ino in held.met:
            before = self._last.get(ino)
            if before is not None and before is not held:
                self._link(before, held)
            self._last[ino] = held
        if type(held.op) is Setattr:
            self._setattrs[held.op.ino] = self._setattrs.get(held.op.ino, 0) + 1
        self.held[held.hold] = held

    def add_done(self, held: Held, chunk: int) -> None:
        """Hold a ChunkDone."""
        for write in self._writes.get(chunk, ()):
            self._link(write, held)
        self.held[held.hold] = held

    def add_write(self, held: Held, through: int) -> None:
        """Hold a Write that supersedes the spill of its file up to ``through``."""
        op = held.op
        assert isinstance(op, Write)
        ino = op.ino
        for chunk in {extent.chunk for extent in op.extents}:
            self._writes.setdefault(chunk, set()).add(held)
        self.held[held.hold] = held
        if ino not in self._waiting:
            self._link(self._last[ino], held)
            self._last[ino] = held
            return
        before = self._before[ino]
        assert before is not None
        self._link(before, held)
        self._before[ino] = held
        self._satisfy(ino, through)

    def write_passed(self, ino: int, through: int) -> list[Held]:
        """A Write of this file has entered without waiting; what that makes ready."""
        return self._satisfy(ino, through) if ino in self._waiting else []

    def spilled_over(self, ino: int, number: int) -> None:
        """Spilled bytes of this file were overwritten and spilled again as ``number``.

        Record numbers below no longer say what has entered: those who wait must see the newer bytes enter.
        """
        for waiter in self._waiting.get(ino, ()):
            if waiter.sources[ino]:
                waiter.sources[ino] = max(number, waiter.sources[ino])

    def settled(self, ino: int) -> list[Held]:
        """No byte of this file is dirty any more; what that makes ready."""
        return self._satisfy(ino, None) if ino in self._waiting else []

    def _satisfy(self, ino: int, through: int | None) -> list[Held]:
        """Bytes up to spill number ``through`` (None: all) have entered, behind ``_before`` if that waits."""
        ready, rest = [], []
        before = self._before[ino]
        for waiter in self._waiting[ino]:
            number = waiter.sources[ino]
            if through is not None and not 0 < number <= through:
                rest.append(waiter)
                continue
            del waiter.sources[ino]
            if before is not None:
                self._link(before, waiter)
            if waiter.is_ready:
                ready.append(waiter)
        if rest:
            self._waiting[ino] = rest
        else:
            del self._waiting[ino], self._before[ino]
        return ready

    def _link(self, before: Held, after: Held) -> None:
        if before not in after.preds:
            after.preds.add(before)
            before.followers.append(after)

    # --- letting go --------------------------------------------------------------------------------------

    def release(self, held: Held) -> list[Held]:
        """``held`` has entered the order (or was set aside, the last ones first); what that makes ready."""
        del self.held[held.hold]
        self._unregister(held)
        ready = []
        for follower in held.followers:
            follower.preds.discard(held)
            if follower.is_ready and self.holds(follower):
                ready.append(follower)
        held.followers = []
        return ready

    def _unregister(self, held: Held) -> None:
        for ino in held.sources:
            self._waiting[ino].remove(held)
            if not self._waiting[ino]:
                del self._waiting[ino], self._before[ino]
        for ino in held.met:
            if self._last.get(ino) is held:
                before = _previous(held, ino)
                if before is None:
                    del self._last[ino]
                else:
                    self._last[ino] = before
            if self._before.get(ino) is held:
                self._before[ino] = _previous(held, ino)
        if type(held.op) is Setattr:
            left = self._setattrs.pop(held.op.ino) - 1
            if left:
                self._setattrs[held.op.ino] = left
        if isinstance(held.op, Write):
            for chunk in {extent.chunk for extent in held.op.extents}:
                writes = self._writes[chunk]
                writes.discard(held)
                if not writes:
                    del self._writes[chunk]

    def all_ready(self) -> list[Held]:
        """Everything that waits for nothing, in order; after a replay."""
        return [held for held in self.held.values() if held.is_ready]


def _previous(held: Held, ino: int) -> Held | None:
    """What waits just before this one at an inode; there may be something only when this one is set aside."""
    before = [pred for pred in held.preds if ino in pred.met]
    last = [one for one in before if not any(one in other.preds for other in before)]
    return max(last, key=lambda one: one.hold, default=None)
