"""The messages in frames: one request struct and one reply struct for each frame type.

Fields are positional on the wire (array_like): append new ones with defaults, never reorder. A reply frame
repeats its request's type and id with FLAG_REPLY; an error reply carries ``ErrorReply`` whatever the type.
``REQUESTS`` and ``REPLIES`` are the whole vocabulary: a frame type that is not in them does not exist.
Lists that would cost much have a greatest length here: what is longer is refused before it is decoded.
"""

import enum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from cloudverge_protocol.ids import (
    AVOIDED_MAX,
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
from cloudverge_protocol.operations import Entry, LogEntry


class FrameType(enum.IntEnum):
    """Stable numbers; 1..19 any server, 20..59 metaserver, 60..89 chunkserver."""

    HELLO = 1
    PING = 2
    SESSION_OPEN = 20
    SESSION_RENEW = 21
    SESSION_CLOSE = 22
    INCARNATION_CLOSE = 23
    IDS = 24
    BATCH = 25
    TREE = 26
    LOAD = 27
    CHUNK_ALLOCATE = 28
    CHUNK_SEAL = 29
    CHUNK_LOCATE = 30
    TICKETS = 31
    DAMAGE = 32
    FEED = 33
    APPEND = 60
    READ = 61
    REPLICA_SEAL = 62
    REPLICA_STAT = 63
    REPLICA_DELETE = 64
    REPLICA_VERIFY = 65
    REPLICA_FETCH = 66
    EPOCHS = 67


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of all messages."""


class ErrorReply(Message, frozen=True):
    """Why a request was refused; ``code`` is an ``errors.Code``."""

    code: int
    message: str
    retry_after_s: float = 0.0


class Empty(Message, frozen=True):
    """Nothing to say but yes."""


# --- any server -----------------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First frame of a connection, and again with a fresher token whenever the old one nears its end.

    ``cluster`` and ``history`` may be empty when the client does not know them yet; a known one that differs
    from the server's is refused (WRONG_CLUSTER, WRONG_HISTORY). ``token`` is for a metaserver an identity ticket,
    for a chunkserver a chunk ticket that is good there, or a server ticket (from another server).
    """

    version: int
    token: str
    cluster: str = ""
    history: str = ""
    software: str = ""


class HelloReply(Message, frozen=True):
    """What this server is. ``now_ns`` is its clock, for diagnosis only."""

    version: int
    cluster: str
    history: str
    server: str
    now_ns: int


# --- metaserver: sessions -------------------------------------------------------------------------------


class SessionOpen(Message, frozen=True):
    """Open (or take over) the session of this cache folder on ``space`` and become its active mount.

    ``cache_id`` is 16 random bytes kept in the cache folder. Another device's live lease gives SPACE_IN_USE
    (message names the device, retry_after_s says when its lease would run out); the same cache_id takes its
    own lease over at once, with a new incarnation.
    """

    space: SpaceId
    cache_id: bytes
    device_name: str
    mountpoint: str = ""


class SessionReply(Message, frozen=True):
    """The session's rights. ``lease_s`` counts from before the request was sent.

    ``high_water`` gives, for each incarnation of this session that is not closed yet, the highest entry number
    already applied. ``first_id``/``ids`` is a fresh range of inode and dentry ids.
    """

    session: SessionId
    incarnation: Incarnation
    lease_epoch: Epoch
    lease_s: float
    seq: Seq
    high_water: tuple[tuple[Incarnation, EntryNumber], ...]
    first_id: int
    ids: int
    replicas: int  # R of this space
    quota_bytes: int  # 0: none
    quota_inodes: int
    used_bytes: int
    used_inodes: int
    read_only: bool = False
    confined: bool = False  # to a sub-tree, shown as the root: READ takes range tickets
    promised_bytes: int = (
        0  # how far this session may go in a quota that others share; 0: as far as the quota
    )
    promised_inodes: int = 0


class SessionRef(Message, frozen=True):
    """Names the caller's session; RENEW, CLOSE. CLOSE also closes the incarnation and its chunks.

    A renewal claims room in what is shared: the level that the space's use shall be allowed to reach. Until it is
    answered, the session accepts nothing beyond the lower of its claim and what it was promised.
    """

    session: SessionId
    incarnation: Incarnation
    lease_epoch: Epoch
    claim_bytes: int = 0
    claim_inodes: int = 0


class SessionRenewed(Message, frozen=True):
    """A lease extended from before the request was sent, and the space's use for statfs."""

    lease_s: float
    seq: Seq
    quota_bytes: int
    quota_inodes: int
    used_bytes: int
    used_inodes: int
    free_bytes: int  # that the chunkservers could still take, divided by R
    promised_bytes: int = 0  # as in SessionReply
    promised_inodes: int = 0


class IncarnationClose(Message, frozen=True):
    """All entries of an ``old`` incarnation of this session have been shipped: release its pins."""

    session: SessionId
    incarnation: Incarnation
    lease_epoch: Epoch
    old: Incarnation


class Ids(Message, frozen=True):
    """Ask for ``count`` more ids."""

    session: SessionId
    incarnation: Incarnation
    lease_epoch: Epoch
    count: int


class IdsReply(Message, frozen=True):
    """The range [first, first + count)."""

    first: int
    count: int


# --- metaserver: namespace ------------------------------------------------------------------------------


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


# --- metaserver: chunks ---------------------------------------------------------------------------------


class Place(Message, frozen=True):
    """Where a chunkserver's frame port listens."""

    server: ServerId
    host: str
    port: int


class ChunkAllocate(Message, frozen=True):
    """Ask for ``count`` new chunks to append to; ``avoid`` names servers that just failed the caller."""

    session: SessionId
    incarnation: Incarnation
    lease_epoch: Epoch
    count: int = 1
    avoid: Annotated[tuple[ServerId, ...], Meta(max_length=AVOIDED_MAX)] = ()


class ChunkGrant(Message, frozen=True):
    """The right to append to ``chunk`` up to ``limit`` bytes, along ``places`` in this order."""

    chunk: ChunkId
    epoch: Epoch
    limit: int
    places: tuple[Place, ...]
    ticket: str


class ChunkGrants(Message, frozen=True):
    """Reply to CHUNK_ALLOCATE."""

    grants: tuple[ChunkGrant, ...]


class ChunkSeal(Message, frozen=True):
    """End the appending to ``chunk``; ``receipts`` prove what is durable so far.

    The reply comes when every reachable replica is sealed. ``length`` of the reply is what stays.
    """

    session: SessionId
    incarnation: Incarnation
    lease_epoch: Epoch
    chunk: ChunkId
    receipts: tuple[Receipt, ...] = ()


class ChunkSealed(Message, frozen=True):
    """The chunk's final length; ``damaged``: no reachable replica reaches it yet."""

    length: int
    damaged: bool


class ChunkLocate(Message, frozen=True):
    """Where the replicas of these chunks of ``space`` are."""

    space: SpaceId
    chunks: tuple[ChunkId, ...]


class ChunkPlaces(Message, frozen=True):
    """``length`` is the sealed length, or the durable one while open."""

    chunk: ChunkId
    sealed: bool
    length: int
    places: tuple[Place, ...]


class ChunkLocateReply(Message, frozen=True):
    """Those that exist and belong to the space; others are left out."""

    chunks: tuple[ChunkPlaces, ...]


class Span(Message, frozen=True):
    """The bytes [offset, offset + length) of a file."""

    ino: InodeId
    offset: int
    length: int


class Tickets(Message, frozen=True):
    """Fresh tickets: to read ``space`` on ``servers``, and to append to the session's own open ``chunks``.

    A read ticket is good on one server, so that a server cannot use what it was shown on another. A session that
    is confined to a sub-tree gets none: it asks for the ``spans`` of files it wants to read.
    """

    space: SpaceId
    session: SessionId
    incarnation: Incarnation
    lease_epoch: Epoch
    chunks: tuple[ChunkId, ...] = ()
    servers: tuple[ServerId, ...] = ()
    spans: tuple[Span, ...] = ()


class RangeTicket(Message, frozen=True):
    """A right to read [offset, offset + length) of ``chunk``, and perhaps more of it, on its replicas."""

    chunk: ChunkId
    offset: int
    length: int
    ticket: str
    places: tuple[Place, ...]


class TicketsReply(Message, frozen=True):
    """``life_s`` is how long they live, counted from before the request was sent.

    ``read`` has one for each server that was named; ``ranges`` cover the spans in order, holes left out.
    """

    life_s: float
    read: tuple[tuple[ServerId, str], ...]
    append: tuple[tuple[ChunkId, str], ...]
    ranges: tuple[RangeTicket, ...] = ()


class Damage(Message, frozen=True):
    """A reader's suspicion: ``server`` gave bad bytes of ``chunk``. It makes the server verify for itself."""

    space: SpaceId
    chunk: ChunkId
    server: ServerId


# --- chunkserver ----------------------------------------------------------------------------------------


class Append(Message, frozen=True):
    """Append the body at ``offset`` of ``chunk`` here and at each of ``onward``, in that order.

    ``crcs`` has one CRC-32C per piece of the body cut at the chunk's block boundaries. With ``sync`` the reply
    has a receipt of every server in the chain for the length reached.
    """

    ticket: str
    chunk: ChunkId
    epoch: Epoch
    offset: int
    crcs: tuple[int, ...]
    sync: bool
    onward: tuple[Place, ...] = ()


class AppendReply(Message, frozen=True):
    """The chunk's length on every server of the chain afterwards, and with ``sync`` their receipts.

    ``failed``: the server down the chain that could not be reached or refused (0: none); then nothing after it
    was written, the receipts are those of the servers before it, and ``code``/``message`` say why.
    """

    length: int
    receipts: tuple[Receipt, ...] = ()
    failed: ServerId = ServerId(0)
    code: int = 0
    message: str = ""


class Read(Message, frozen=True):
    """Read [offset, offset + length) of ``chunk``."""

    ticket: str
    chunk: ChunkId
    offset: int
    length: int


class ReadReply(Message, frozen=True):
    """The body is [start, start + len(body)) of the chunk, whole blocks around what was asked for.

    ``start`` is a multiple of BLOCK_BYTES; the last block may be short (the chunk's end). ``crcs`` has one
    CRC-32C per block. A range that reaches past the end gives what there is.

    With a range ticket the body is exactly what was asked for, cut at block boundaries for ``crcs``.
    """

    start: int
    crcs: tuple[int, ...]


class ReplicaSeal(Message, frozen=True):
    """Metaserver: stop appends to ``chunk`` (raise its epoch); with ``length`` >= 0 also cut the claim to it.

    First sent with -1 to every replica (they answer the length they can verify), then with the seal.
    """

    ticket: str
    chunk: ChunkId
    epoch: Epoch
    length: int = -1


class ReplicaState(Message, frozen=True):
    """What a chunkserver knows of one of its replicas; ``length`` is verified and fsynced."""

    chunk: ChunkId
    state: str  # OPEN, SEALED, DAMAGED, ABSENT
    epoch: Epoch
    length: int
    receipt: Receipt | None = None


class ReplicaStat(Message, frozen=True):
    """Metaserver: the state of these replicas."""

    ticket: str
    chunks: tuple[ChunkId, ...]


class ReplicaStates(Message, frozen=True):
    """In the order asked."""

    states: tuple[ReplicaState, ...]


class ReplicaDelete(Message, frozen=True):
    """Metaserver: remove these replicas."""

    ticket: str
    chunks: tuple[ChunkId, ...]


class ReplicaVerify(Message, frozen=True):
    """Metaserver: check every block of ``chunk`` on disk now; ``bad`` of the reply names the failing blocks."""

    ticket: str
    chunk: ChunkId


class ReplicaVerified(Message, frozen=True):
    """Result of REPLICA_VERIFY."""

    length: int
    bad: tuple[int, ...]


class ReplicaFetch(Message, frozen=True):
    """Metaserver: copy the SEALED ``chunk`` of ``length`` bytes from ``sources``, block by good block.

    ``read_ticket`` lets the receiver READ the chunk from them.
    """

    ticket: str
    chunk: ChunkId
    space: SpaceId
    epoch: Epoch
    length: int
    sources: tuple[Place, ...]
    read_ticket: str = ""


class Epochs(Message, frozen=True):
    """Metaserver: from now on refuse tickets of these spaces with a lower membership epoch (a right was taken)."""

    ticket: str
    spaces: tuple[tuple[SpaceId, Epoch], ...]


REQUESTS: Final[dict[FrameType, type[Message]]] = {
    FrameType.HELLO: Hello,
    FrameType.PING: Empty,
    FrameType.SESSION_OPEN: SessionOpen,
    FrameType.SESSION_RENEW: SessionRef,
    FrameType.SESSION_CLOSE: SessionRef,
    FrameType.INCARNATION_CLOSE: IncarnationClose,
    FrameType.IDS: Ids,
    FrameType.BATCH: Batch,
    FrameType.TREE: Tree,
    FrameType.LOAD: Load,
    FrameType.CHUNK_ALLOCATE: ChunkAllocate,
    FrameType.CHUNK_SEAL: ChunkSeal,
    FrameType.CHUNK_LOCATE: ChunkLocate,
    FrameType.TICKETS: Tickets,
    FrameType.DAMAGE: Damage,
    FrameType.FEED: Feed,
    FrameType.APPEND: Append,
    FrameType.READ: Read,
    FrameType.REPLICA_SEAL: ReplicaSeal,
    FrameType.REPLICA_STAT: ReplicaStat,
    FrameType.REPLICA_DELETE: ReplicaDelete,
    FrameType.REPLICA_VERIFY: ReplicaVerify,
    FrameType.REPLICA_FETCH: ReplicaFetch,
    FrameType.EPOCHS: Epochs,
}

REPLIES: Final[dict[FrameType, type[Message]]] = {
    FrameType.HELLO: HelloReply,
    FrameType.PING: Empty,
    FrameType.SESSION_OPEN: SessionReply,
    FrameType.SESSION_RENEW: SessionRenewed,
    FrameType.SESSION_CLOSE: Empty,
    FrameType.INCARNATION_CLOSE: Empty,
    FrameType.IDS: IdsReply,
    FrameType.BATCH: BatchReply,
    FrameType.TREE: TreeReply,
    FrameType.LOAD: LoadReply,
    FrameType.CHUNK_ALLOCATE: ChunkGrants,
    FrameType.CHUNK_SEAL: ChunkSealed,
    FrameType.CHUNK_LOCATE: ChunkLocateReply,
    FrameType.TICKETS: TicketsReply,
    FrameType.DAMAGE: Empty,
    FrameType.FEED: FeedReply,
    FrameType.APPEND: AppendReply,
    FrameType.READ: ReadReply,
    FrameType.REPLICA_SEAL: ReplicaState,
    FrameType.REPLICA_STAT: ReplicaStates,
    FrameType.REPLICA_DELETE: Empty,
    FrameType.REPLICA_VERIFY: ReplicaVerified,
    FrameType.REPLICA_FETCH: ReplicaState,
    FrameType.EPOCHS: Empty,
}
