"""The rules of append as one pure decision: may these bytes be appended here, and which of them are new?

Order of the answers, and why: an old epoch first (a fenced writer must learn that it was replaced, whatever
else is true), then a chunk that takes no more, then where the bytes would lie. A writer that lost an answer
sends its bytes again: what the chunk has already is compared, the rest is written.
"""

from typing import NamedTuple

from cloudverge_chunkserver.chunks import BrokenChunk, Chunk, SealedChunk
from cloudverge_chunkserver.disk import fault_of
from cloudverge_chunkserver.sidecar import LOG_BYTES_MAX, Header
from cloudverge_protocol.checksum import Buffer, piece_crcs
from cloudverge_protocol.errors import ChunkFault, Code, Denied, ProtocolFault
from cloudverge_protocol.ids import MAX_APPEND_BYTES


class Plan(NamedTuple):
    """Of the bytes sent, the first ``compare`` lie in the chunk already; ``write`` new ones follow."""

    compare: int
    write: int


def no_chunk() -> ChunkFault:
    """The one answer for a chunk that is absent or another space's."""
    return ChunkFault(Code.NO_CHUNK, "no such chunk here")


def check_body(offset: int, body: Buffer, crcs: tuple[int, ...]) -> None:
    """Refuse a body that is too long, or that is not what its sender checksummed."""
    if len(body) > MAX_APPEND_BYTES or offset < 0:
        raise ProtocolFault(Code.BAD_REQUEST, f"an append of {len(body)} bytes at {offset}")
    if piece_crcs(body, offset) != list(crcs):
        raise ChunkFault(
            Code.BAD_CHECKSUM, "the bytes received do not match their checksums; send them again"
        )


def plan_append(chunk: Chunk | None, right: Header, offset: int, size: int) -> Plan:
    """What to do with ``size`` bytes at ``offset`` under ``right``; raises the refusal.

    ``chunk`` is None if it does not exist yet: an append at 0 then makes it.
    """
    length, limit = 0, right.limit
    if isinstance(chunk, BrokenChunk):
        raise ChunkFault(Code.DAMAGED, f"chunk {chunk.chunk}: {chunk.reason}")
    if chunk is not None:
        _check_open(chunk, right)
        length, limit = chunk.length, min(limit, chunk.header.limit)  # no more than room was kept for
    if offset > length:
        raise ChunkFault(
            Code.GAP, f"chunk {right.chunk} has {length} bytes here, the append begins at {offset}"
        )
    if offset + size > limit:
        raise ChunkFault(Code.CHUNK_FULL, f"chunk {right.chunk} may not grow past {limit} bytes")
    compare = min(size, length - offset)
    return Plan(compare, size - compare)


def _check_open(chunk: Chunk, right: Header) -> None:
    assert not isinstance(chunk, BrokenChunk)
    if chunk.header.space != right.space:
        raise no_chunk()
    epoch = chunk.header.epoch if isinstance(chunk, SealedChunk) else chunk.epoch
    if right.epoch != epoch:  # a higher one cannot be: the right to append never passes on
        raise Denied(Code.FENCED, f"chunk {right.chunk} is at epoch {epoch}, the ticket at {right.epoch}")
    if isinstance(chunk, SealedChunk):
        raise ChunkFault(Code.SEALED, f"chunk {right.chunk} is sealed at {chunk.length} bytes")
    if chunk.closed:
        raise ChunkFault(Code.SEALED, f"chunk {right.chunk} takes no more: {chunk.closed}")
    if chunk.sync_fault is not None:
        raise fault_of(chunk.sync_fault, right.chunk)
    if chunk.log_end >= LOG_BYTES_MAX:
        raise ChunkFault(Code.CHUNK_FULL, f"chunk {right.chunk} has had too many small appends")
