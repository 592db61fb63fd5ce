"""CRC-32C, the checksum of blocks, frames and journal records.

A block is 64 KiB of a chunk, counted from the chunk's start; the last one may be shorter. The checksum of
a growing block is carried on: ``crc32c(more, crc32c(first)) == crc32c(first + more)``.
"""

from collections.abc import Iterator

from crc32c import crc32c as _crc32c

from cloudverge_protocol.ids import BLOCK_BYTES

Buffer = bytes | bytearray | memoryview


def crc32c(data: Buffer, crc: int = 0) -> int:
    """CRC-32C (Castagnoli, RFC 3720) of ``data``, carried on from ``crc``."""
    return _crc32c(data, crc)


def split_at_blocks(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Pieces (start, end), relative to ``offset``, of [offset, offset + length) cut at block boundaries."""
    start = 0
    while start < length:
        end = min(length, start + BLOCK_BYTES - (offset + start) % BLOCK_BYTES)
        yield start, end
        start = end


def piece_crcs(data: Buffer, offset: int) -> list[int]:
    """One CRC per piece of ``data`` cut at the block boundaries of a chunk, data lying at ``offset`` in it."""
    view = memoryview(data)
    return [_crc32c(view[start:end]) for start, end in split_at_blocks(offset, len(view))]


def pieces_match(data: Buffer, offset: int, crcs: list[int]) -> bool:
    """Whether ``crcs`` is exactly what ``piece_crcs`` gives for this data at this chunk offset."""
    return piece_crcs(data, offset) == crcs
