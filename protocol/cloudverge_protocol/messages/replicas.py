"""Messages to a chunkserver: from mounts, from the metaserver, and from other chunkservers."""

from cloudverge_protocol.ids import ChunkId, Epoch, ServerId, SpaceId
from cloudverge_protocol.messages.base import Message
from cloudverge_protocol.messages.chunks import Place
from cloudverge_protocol.messages.namespace import Receipt


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
