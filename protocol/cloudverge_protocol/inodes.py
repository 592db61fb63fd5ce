"""The rows of a namespace: inodes, dentries and extents, as values.

The same structs travel on the wire, lie in the mount's replica and pass through the rules. They are frozen:
a change is a new value (``msgspec.structs.replace``).
"""

import stat

import msgspec

from cloudverge_protocol.ids import ROOT_INODE, ChunkId, DentryId, InodeId, Seq


class Inode(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One inode. Times are nanoseconds since 1970; ``mode`` holds the file type too, as in struct stat.

    ``size`` of a folder is 0 and of a symlink its target's length. ``parent`` and ``entries`` (the number of
    dentries in it) are kept for folders only and are 0 otherwise; a folder's nlink is 2 + its sub-folders.
    ``version`` is the seq of the last operation that changed the row (0: not committed yet).
    """

    ino: InodeId
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    rdev: int = 0
    parent: InodeId = InodeId(0)
    entries: int = 0
    target: bytes = b""
    version: Seq = Seq(0)

    @property
    def is_dir(self) -> bool:
        """Whether this is a folder."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether this is a regular file."""
        return stat.S_ISREG(self.mode)


class Dentry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A name in a folder. ``kind`` is the inode's file type (``stat.S_IFMT(mode)``).

    ``dentry`` is its id, never reused and growing with age: the order and the cookie of listings.
    """

    parent: InodeId
    name: bytes
    ino: InodeId
    kind: int
    dentry: DentryId
    version: Seq = Seq(0)


class Extent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """``length`` bytes at file offset ``offset`` are those at ``chunk_offset`` of ``chunk``."""

    offset: int
    length: int
    chunk: ChunkId
    chunk_offset: int

    @property
    def end(self) -> int:
        """The file offset just past this extent."""
        return self.offset + self.length


Extents = tuple[Extent, ...]  # of one file or one region of it: sorted by offset, never overlapping


def root_inode(now_ns: int, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Inode:
    """The root folder of a new space; it is its own parent and has no dentry."""
    mode = stat.S_IFDIR | (mode & 0o7777)
    return Inode(ROOT_INODE, mode, uid, gid, 2, 0, now_ns, now_ns, now_ns, now_ns, parent=ROOT_INODE)
