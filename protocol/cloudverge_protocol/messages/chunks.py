"""Messages to the metaserver about chunks: where bytes may go and are, and the tickets for that."""

from typing import Annotated

from msgspec import Meta

from cloudverge_protocol.ids import (
    AVOIDED_MAX,
    ChunkId,
    Epoch,
    Incarnation,
    InodeId,
    ServerId,
    SessionId,
    SpaceId,
)
from cloudverge_protocol.messages.base import Message
from cloudverge_protocol.messages.namespace import Receipt


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
