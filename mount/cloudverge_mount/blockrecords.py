"""The files of the disk cache: records, one after the other.

A record is a header (magic, chunk, offset, length, a CRC per block, the header's own CRC) and up to
``RECORD_BYTES`` of verified bytes, whole blocks from a block's start. A file is read up to the first header that is not
whole and right: what follows was being written when the machine stopped.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from cloudverge_mount.blockcache import key_of
from cloudverge_protocol.checksum import crc32c
from cloudverge_protocol.ids import BLOCK_BYTES

RECORD_BYTES: Final = 256 * 1024
MAGIC: Final = 0x43564243
RECORD_BLOCKS: Final = RECORD_BYTES // BLOCK_BYTES
_HEADER: Final = struct.Struct(f"<IQII{RECORD_BLOCKS}I")
_CRC: Final = struct.Struct("<I")
HEADER_BYTES: Final = _HEADER.size + _CRC.size


class Block(NamedTuple):
    """Where the bytes of one block (the last of a chunk may be short) lie."""

    segment: int
    position: int
    length: int
    crc: int


class Record(NamedTuple):
    """``length`` bytes from ``start`` of ``chunk`` at ``position`` of ``segment``, with the CRC of each block."""

    segment: int
    position: int
    chunk: int
    start: int
    length: int
    crcs: tuple[int, ...]

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """Its blocks by key."""
        first = key_of(self.chunk, self.start)
        for index, crc in enumerate(self.crcs):
            at = index * BLOCK_BYTES
            length = min(BLOCK_BYTES, self.length - at)
            yield first + index, Block(self.segment, self.position + at, length, crc)


def header_of(record: Record) -> bytes:
    """The header to stand before the record's bytes."""
    crcs = (*record.crcs, *[0] * (RECORD_BLOCKS - len(record.crcs)))
    fields = _HEADER.pack(MAGIC, record.chunk, record.start, record.length, *crcs)
    return fields + _CRC.pack(crc32c(fields))


def records_in(path: Path, segment: int) -> Iterator[Record]:
    """The records of one file, up to the first header that is not whole and right."""
    with path.open("rb") as file:
        position, size = 0, path.stat().st_size
        while position + HEADER_BYTES <= size:
            file.seek(position)
            header = file.read(HEADER_BYTES)
            magic, chunk, start, length, *crcs = _HEADER.unpack_from(header)
            if magic != MAGIC or _CRC.unpack_from(header, _HEADER.size)[0] != crc32c(header[: _HEADER.size]):
                return
            position += HEADER_BYTES + length
            if length > RECORD_BYTES or position > size:
                return
            blocks = -(-length // BLOCK_BYTES)
            yield Record(segment, position - length, chunk, start, length, tuple(crcs[:blocks]))
