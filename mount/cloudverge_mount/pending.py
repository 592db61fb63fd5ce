"""What a dirty file's attributes are to become: size, times and mode that no journal entry says yet.

The local view of a file is its journaled row with this laid over it. A write sets size, mtime and ctime here;
the Write that enters when the bytes are durable carries them, and then they are in the row. An operation on
the inode that sets ctime (all do) ends the pending one, because its own is later.

``growth`` are bytes the file has grown by that no entry has counted yet, for the quota.
"""

from typing import Final

from cloudverge_protocol.inodes import Inode
from cloudverge_protocol.operations import CloneRange, PunchHole, Setattr, Truncate, Write


class Pending:
    """Of one file; None means: as the row says."""

    __slots__ = ("ctime_ns", "growth", "mode", "mtime_ns", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.mtime_ns: int | None = None
        self.ctime_ns: int | None = None
        self.mode: int | None = None
        self.growth = 0

    def touch(self, now_ns: int) -> None:
        """The content has changed."""
        self.mtime_ns = self.ctime_ns = now_ns

    def overtaken(self, op: object) -> None:
        """An operation on the inode has been accepted after these were set."""
        self.ctime_ns = None
        if type(op) is Setattr:
            if op.mtime_ns is not None:
                self.mtime_ns = None
            if op.mode is not None:
                self.mode = None
        elif isinstance(op, Write | Truncate | PunchHole | CloneRange):
            self.mtime_ns = None
            if op.mode is not None:
                self.mode = None
            if isinstance(op, CloneRange):
                self.size = max(self.size, op.dst_offset + op.length)

    def entered(self) -> None:
        """A Write or Truncate has carried times and mode into the row."""
        self.mtime_ns = self.ctime_ns = self.mode = None

    @property
    def is_set(self) -> bool:
        """Whether times or mode are to change."""
        return (self.mtime_ns, self.ctime_ns, self.mode) != NOTHING

    def differs(self, row: Inode) -> bool:
        """Whether the row does not say all this yet."""
        return self.size != row.size or self.is_set

    def over(self, row: Inode) -> Inode:
        """The row as it is seen locally."""
        return Inode(
            row.ino,
            row.mode if self.mode is None else (row.mode & ~0o7777) | (self.mode & 0o7777),
            row.uid,
            row.gid,
            row.nlink,
            self.size,
            row.atime_ns,
            row.mtime_ns if self.mtime_ns is None else self.mtime_ns,
            row.ctime_ns if self.ctime_ns is None else self.ctime_ns,
            row.btime_ns,
            row.rdev,
            row.parent,
            row.entries,
            row.target,
            row.version,
        )


NOTHING: Final = (None, None, None)
