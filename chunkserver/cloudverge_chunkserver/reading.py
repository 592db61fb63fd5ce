"""Which blocks a range needs, and whether they are what they should be.

Whole blocks are read around the range and every one is checked before a byte leaves (I5). Pure.
"""

from typing import NamedTuple

from cloudverge_chunkserver.chunks import View
from cloudverge_protocol.checksum import Buffer, crc32c
from cloudverge_protocol.errors import ChunkFault, Code, ProtocolFault
from cloudverge_protocol.ids import BLOCK_BYTES, MAX_READ_BYTES


class Span(NamedTuple):
    """Whole blocks: bytes [start, start + size) of a chunk."""

    start: int
    size: int


def plan_read(view: View, offset: int, length: int) -> Span:
    """The blocks that [offset, offset + length) touches, as far as the chunk reaches."""
    if offset < 0 or not 0 <= length <= MAX_READ_BYTES:
        raise ProtocolFault(Code.BAD_REQUEST, f"a read of {length} bytes at {offset}")
    start = offset // BLOCK_BYTES * BLOCK_BYTES
    end = min(view.length, -(-(offset + length) // BLOCK_BYTES) * BLOCK_BYTES)
    if length == 0 or start >= end:
        return Span(min(start, view.length // BLOCK_BYTES * BLOCK_BYTES), 0)
    return Span(start, end - start)


def crcs_of(view: View, span: Span) -> tuple[int, ...]:
    """What the blocks of ``span`` must have."""
    first, finished = span.start // BLOCK_BYTES, view.length // BLOCK_BYTES
    last = -(-(span.start + span.size) // BLOCK_BYTES)
    crcs = tuple(view.crcs[first : min(last, finished)])
    return (*crcs, view.tail) if last > finished else crcs


def bad_blocks(view: View, start: int, data: Buffer) -> list[int]:
    """The blocks in ``data``, which lies at ``start`` and should fill whole blocks, that do not verify.

    Data that ends early leaves its last block bad; blocks that are missing altogether are for the caller.
    """
    whole = memoryview(data)
    bad = []
    for position in range(0, len(whole), BLOCK_BYTES):
        block = (start + position) // BLOCK_BYTES
        piece = whole[position : position + BLOCK_BYTES]
        if crc32c(piece) != view.crc_of(block) or len(piece) != view.bytes_of(block):
            bad.append(block)
    return bad


def bad_in_span(view: View, span: Span, data: Buffer) -> list[int]:
    """As ``bad_blocks``, with the blocks of ``span`` that ``data`` does not reach counted as bad."""
    bad = bad_blocks(view, span.start, data)
    first_missing = -(-(span.start + len(data)) // BLOCK_BYTES)
    return bad + list(range(first_missing, -(-(span.start + span.size) // BLOCK_BYTES)))


def damaged(chunk: int, bad: list[int]) -> ChunkFault:
    """The error that names the blocks of which this server has no good copy."""
    names = ", ".join(str(block) for block in bad[:8])
    return ChunkFault(Code.DAMAGED, f"chunk {chunk}: block {names} fails its checksum on this chunkserver")
