"""The messages in frames: one request struct and one reply struct for each frame type.

Fields are positional on the wire (array_like): append new ones with defaults, never reorder. A reply frame
repeats its request's type and id with FLAG_REPLY; an error reply carries ``ErrorReply`` whatever the type.
``REQUESTS`` and ``REPLIES`` are the whole vocabulary: a frame type that is not in them does not exist.
The structs lie in modules by subject, and all of them are to be had from here.
Lists that would cost much have a greatest length here: what is longer is refused before it is decoded.
"""

import enum
from typing import Final

from cloudverge_protocol.messages.base import Empty, ErrorReply, Hello, HelloReply, Message
from cloudverge_protocol.messages.chunks import (
    ChunkAllocate,
    ChunkGrant,
    ChunkGrants,
    ChunkLocate,
    ChunkLocateReply,
    ChunkPlaces,
    ChunkSeal,
    ChunkSealed,
    Damage,
    Place,
    RangeTicket,
    Span,
    Tickets,
    TicketsReply,
)
from cloudverge_protocol.messages.namespace import (
    Batch,
    BatchReply,
    Feed,
    FeedReply,
    Folder,
    Load,
    LoadReply,
    Receipt,
    Tree,
    TreeReply,
)
from cloudverge_protocol.messages.replicas import (
    Append,
    AppendReply,
    Epochs,
    Read,
    ReadReply,
    ReplicaDelete,
    ReplicaFetch,
    ReplicaSeal,
    ReplicaStat,
    ReplicaState,
    ReplicaStates,
    ReplicaVerified,
    ReplicaVerify,
)
from cloudverge_protocol.messages.sessions import (
    Ids,
    IdsReply,
    IncarnationClose,
    SessionOpen,
    SessionRef,
    SessionRenewed,
    SessionReply,
)

__all__ = [
    "REPLIES", "REQUESTS", "Append", "AppendReply", "Batch", "BatchReply", "ChunkAllocate", "ChunkGrant",
    "ChunkGrants", "ChunkLocate", "ChunkLocateReply", "ChunkPlaces", "ChunkSeal", "ChunkSealed", "Damage", "Empty",
    "Epochs", "ErrorReply", "Feed", "FeedReply", "Folder", "FrameType", "Hello", "HelloReply", "Ids", "IdsReply",
    "IncarnationClose", "Load", "LoadReply", "Message", "Place", "RangeTicket", "Read", "ReadReply", "Receipt",
    "ReplicaDelete", "ReplicaFetch", "ReplicaSeal", "ReplicaStat", "ReplicaState", "ReplicaStates", "ReplicaVerified",
    "ReplicaVerify", "SessionOpen", "SessionRef", "SessionRenewed", "SessionReply", "Span", "Tickets", "TicketsReply",
    "Tree", "TreeReply",
]  # fmt: skip


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
