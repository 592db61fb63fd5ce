"""Messages to the metaserver about names: batches of changes, listings, single rows, and what has happened since."""

from typing import Annotated

from msgspec import Meta

from cloudverge_protocol.ids import (
    BATCH_ENTRIES_MAX,
    BATCH_RECEIPTS_MAX,
    ChunkId,
    DentryId,
    EntryNumber,
    Epoch,
    Incarnation,
    InodeId,
    Seq,
    ServerId,
    SessionId,
    SpaceId,
)
from cloudverge_protocol.inodes import Dentry, Extents, Inode
from cloudverge_protocol.messages.base import Message
from cloudverge_protocol.operations import Entry, LogEntry


class Receipt(Message, frozen=True):
    """``server`` swears that the first ``length`` bytes of ``chunk`` are fsynced there; see ``receipts``."""

    server: ServerId
    chunk: ChunkId
    epoch: Epoch
    length: int
    mac: bytes


class Batch(Message, frozen=True):
    """Entries to apply in order, each once; receipts are counted first."""

    session: SessionId
    incarnation: Incarnation
    lease_epoch: Epoch
    receipts: Annotated[tuple[Receipt, ...], Meta(max_length=BATCH_RECEIPTS_MAX)]
    entries: Annotated[tuple[Entry, ...], Meta(max_length=BATCH_ENTRIES_MAX)]


class BatchReply(Message, frozen=True):
    """What came of a batch.

    Entries before the refused one are committed, the rest is untouched. ``seqs`` are the seqs of the committed
    entries in their order (0: it had been applied before). If there are fewer of them than entries and none was
    refused (``refused_number`` 0), the batch was too much work at a time: the rest is to be sent again.
    """

    seqs: tuple[int, ...]
    seq: Seq  # of the space after this batch
    refused_incarnation: Incarnation = Incarnation(0)
    refused_number: EntryNumber = EntryNumber(0)
    refused_code: int = 0
    refused_message: str = ""
    used_bytes: int = 0
    used_inodes: int = 0


class Tree(Message, frozen=True):
    """List folder ``ino`` from after dentry ``cursor``, then its sub-folders breadth first, ``budget`` entries.

    ``more`` are folders to be listed like sub-folders of the first level, before those.
    """

    space: SpaceId
    ino: InodeId
    cursor: DentryId = DentryId(0)
    budget: int = 4000
    deep: bool = True
    more: tuple[InodeId, ...] = ()


class Folder(Message, frozen=True):
    """A listing, or a part of one. ``complete``: nothing follows the last dentry given here.

    A folder whose first dentries are not in this reply has ``after`` > 0: they are those above it.
    """

    ino: InodeId
    after: DentryId
    complete: bool
    dentries: tuple[Dentry, ...]


class TreeReply(Message, frozen=True):
    """Folders in breadth-first order and every inode they name; ``seq`` is the snapshot they were read at.

    ``extents`` holds the whole extent list of files of up to 16 extents, ``xattrs`` those of inodes that have
    some; ``with_xattrs`` and ``many_extents`` name inodes whose attributes or extents must be loaded apart.
    """

    seq: Seq
    folders: tuple[Folder, ...]
    inodes: tuple[Inode, ...]
    extents: tuple[tuple[InodeId, Extents], ...]
    with_xattrs: tuple[InodeId, ...]
    many_extents: tuple[InodeId, ...]


class Load(Message, frozen=True):
    """Read single rows: inodes, names, regions of extents (ino, region), and all xattrs of inodes."""

    space: SpaceId
    inodes: tuple[InodeId, ...] = ()
    dentries: tuple[tuple[InodeId, bytes], ...] = ()
    regions: tuple[tuple[InodeId, int], ...] = ()
    xattrs: tuple[InodeId, ...] = ()


class LoadReply(Message, frozen=True):
    """The rows found, all of one snapshot at ``seq``; what is absent does not exist.

    ``inodes`` also holds the inodes that the found dentries point to.
    """

    seq: Seq
    inodes: tuple[Inode, ...]
    dentries: tuple[Dentry, ...]
    regions: tuple[tuple[InodeId, int, Extents], ...]
    xattrs: tuple[tuple[InodeId, tuple[tuple[bytes, bytes], ...]], ...]


class Feed(Message, frozen=True):
    """The oplog of ``space`` after ``since``, at most ``limit`` entries. RESYNC if it no longer reaches back."""

    space: SpaceId
    since: Seq
    limit: int = 2000


class FeedReply(Message, frozen=True):
    """Entries in order; ``seq`` is the space's seq now (more follows while the last entry's is lower)."""

    seq: Seq
    entries: tuple[LogEntry, ...]
