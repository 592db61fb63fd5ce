"""Which rows an operation touches, read off the operation alone.

Every rule reads the inode row of each inode and folder that it names, and writes names, extents and extended
attributes only beside those. So two operations have a row in common only if they name a common inode: sets of
inode numbers are all that the order of operations needs. (Proved by test against ``TrackingSet``.) The one
exception, the chain of folders above the place a folder is moved to, depends on the namespace and is added by
``ledger``.
"""

from typing import NamedTuple

from cloudverge_protocol.operations import (
    ChunkDone,
    CloneRange,
    Create,
    Link,
    Operation,
    Rename,
    Rmdir,
    Unlink,
)


class Touched(NamedTuple):
    """Rows by key: inodes (with their extents and attributes) and names."""

    inodes: set[int]
    names: set[tuple[int, bytes]]

    def add(self, op: Operation) -> None:
        """Add what ``op`` touches."""
        self.inodes.update(inodes_met(op))
        self.names.update(names_met(op))


def nothing_touched() -> Touched:
    """An empty set of rows."""
    return Touched(set(), set())


def inodes_met(op: Operation) -> tuple[int, ...]:
    """The inodes whose rows ``op`` reads or writes."""
    kind = type(op)
    if kind is Create or kind is Link or kind is Unlink or kind is Rmdir:
        return (op.parent, op.ino)  # type: ignore[union-attr]
    if isinstance(op, Rename):
        met = (op.parent, op.ino) if op.parent == op.new_parent else (op.parent, op.new_parent, op.ino)
        return (*met, op.target) if op.target else met
    if isinstance(op, CloneRange):
        return (op.src, op.dst)
    if isinstance(op, ChunkDone):
        return ()
    return (op.ino,)


def names_met(op: Operation) -> tuple[tuple[int, bytes], ...]:
    """The names that ``op`` reads or writes."""
    if isinstance(op, Rename):
        return ((op.parent, op.name), (op.new_parent, op.new_name))
    if isinstance(op, Create | Link | Unlink | Rmdir) and op.name:
        return ((op.parent, op.name),)
    return ()
