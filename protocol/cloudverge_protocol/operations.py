"""The operations of a namespace, as they stand in journals, batches and the oplog.

An operation carries everything that decides its outcome (ids, times, owners), so that applying it is a pure
function of the rows it touches: ``rules.apply`` runs it in the mount before the answer and again in the
metaserver before the commit. Names are raw bytes. All times are nanoseconds since 1970.
"""

from typing import Annotated

import msgspec

from cloudverge_protocol.ids import (
    BATCH_EXTENTS_MAX,
    ChunkId,
    DentryId,
    EntryNumber,
    Incarnation,
    InodeId,
    SessionId,
)
from cloudverge_protocol.inodes import Extents

RENAME_NOREPLACE = 1  # as in renameat2(2)
RENAME_EXCHANGE = 2
XATTR_CREATE = 1  # as in setxattr(2)
XATTR_REPLACE = 2


class Op(msgspec.Struct, frozen=True, array_like=True, tag_field="op"):
    """Base of all operations."""


class Create(Op, frozen=True, tag="create"):
    """Make an inode of any kind and its first name. ``dentry`` and ``ino`` come from the session's range.

    ``mode`` holds the file type. In a folder with the setgid bit the new inode inherits its group, and a
    new folder the bit. ``target`` is for symlinks, ``rdev`` for devices.

    A regular file may be made without a name (empty, and ``dentry`` is 0): O_TMPFILE. It is an orphan of the session
    from birth, in ``parent`` only as far as it inherits, and ends as those do that lost their last name while open:
    by Reap, or with its incarnation, so that no crash leaves one behind. No name is ever seen by anybody, which
    making and unlinking one could not promise.
    """

    parent: InodeId
    name: bytes
    ino: InodeId
    dentry: DentryId
    mode: int
    uid: int
    gid: int
    now_ns: int
    rdev: int = 0
    target: bytes = b""


class Link(Op, frozen=True, tag="link"):
    """Give ``ino`` (not a folder) another name; if it has none it must be an orphan of the session, and is none then.

    Which of its orphans may have a name is the mount's to decide: linkat(2) lets files of O_TMPFILE, no others.
    """

    ino: InodeId
    parent: InodeId
    name: bytes
    dentry: DentryId
    now_ns: int


class Unlink(Op, frozen=True, tag="unlink"):
    """Take the name ``name`` of ``ino`` away. ``keep``: it is open here; with its last name it becomes an orphan."""

    parent: InodeId
    name: bytes
    ino: InodeId
    keep: bool
    now_ns: int


class Rmdir(Op, frozen=True, tag="rmdir"):
    """Remove the empty folder ``ino``. ``keep`` as in Unlink."""

    parent: InodeId
    name: bytes
    ino: InodeId
    keep: bool
    now_ns: int


class Rename(Op, frozen=True, tag="rename"):
    """Move ``ino`` from (parent, name) to (new_parent, new_name); semantics of renameat2(2).

    ``target`` is the inode that the new name pointed to (0: none) and is replaced or exchanged. ``dentry``
    becomes the id of the new name, ``other`` (with RENAME_EXCHANGE) that of the old one. ``keep``: a
    replaced target is open here.
    """

    parent: InodeId
    name: bytes
    new_parent: InodeId
    new_name: bytes
    ino: InodeId
    target: InodeId
    flags: int
    keep: bool
    dentry: DentryId
    other: DentryId
    now_ns: int


class Setattr(Op, frozen=True, tag="setattr"):
    """Set what is not None; ctime becomes ``now_ns``. ``mode`` is permission bits only (07777)."""

    ino: InodeId
    now_ns: int
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


class Setxattr(Op, frozen=True, tag="setxattr"):
    """Set one extended attribute; ``flags`` as in setxattr(2)."""

    ino: InodeId
    name: bytes
    value: bytes
    flags: int
    now_ns: int


class Removexattr(Op, frozen=True, tag="removexattr"):
    """Remove one extended attribute."""

    ino: InodeId
    name: bytes
    now_ns: int


class Write(Op, frozen=True, tag="write"):
    """Map ``extents`` (durable bytes of the session's own chunks) into the file, over what was there.

    ``size`` is the file's size afterwards; it may be larger than the extents' end (a hole) and is never
    smaller than the end of an extent given here; existing extents beyond it are cut. ``mode`` is given when
    setuid and setgid bits were cleared by the write.
    """

    ino: InodeId
    extents: Annotated[Extents, msgspec.Meta(max_length=BATCH_EXTENTS_MAX)]
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int | None = None


class Truncate(Op, frozen=True, tag="truncate"):
    """Set the size; what lies beyond is gone, what is new reads as zeroes. ``mode`` as in Write."""

    ino: InodeId
    size: int
    now_ns: int
    mode: int | None = None


class CloneRange(Op, frozen=True, tag="clone_range"):
    """Let ``length`` bytes of ``dst`` be the same chunk bytes as those of ``src``; resolved at commit.

    ``mode`` as in Write.
    """

    src: InodeId
    src_offset: int
    length: int
    dst: InodeId
    dst_offset: int
    now_ns: int
    mode: int | None = None  # of ``dst``


class PunchHole(Op, frozen=True, tag="punch_hole"):
    """Let ``length`` bytes read as zeroes and be mapped no more; the size stays. ``mode`` as in Write.

    The range may reach beyond the size. It is the second half of fallocate(2): growing the size is Truncate.
    """

    ino: InodeId
    offset: int
    length: int
    now_ns: int
    mode: int | None = None


class Reap(Op, frozen=True, tag="reap"):
    """The last opener of an orphan has let go: its inode, extents and attributes end."""

    ino: InodeId


class ChunkDone(Op, frozen=True, tag="chunk_done"):
    """This journal names no further bytes of ``chunk``: the writer's pin on it ends."""

    chunk: ChunkId


Operation = (
    Create | Link | Unlink | Rmdir | Rename | Setattr | Setxattr | Removexattr
    | Write | Truncate | CloneRange | Reap | ChunkDone | PunchHole
)  # fmt: skip


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An operation in a journal, with the identity it was born with."""

    incarnation: Incarnation
    number: EntryNumber
    op: Operation


class LogEntry(msgspec.Struct, frozen=True, array_like=True):
    """A committed operation, as the oplog gives it."""

    seq: int
    session: SessionId  # 0: the metaserver itself
    incarnation: Incarnation
    number: EntryNumber
    op: Operation
