"""The two forms of a chunk's sidecar, as bytes: a log while the chunk is OPEN, a table once it is SEALED.

Both begin with a header of 64 bytes (little-endian) that names the chunk and carries its own CRC-32C::

    magic 8s | version u16 | form u16 | block bytes u32 | chunk u64 | space u64 | epoch u64 | limit u64 |
    length u64 (0 in a log) | reserved u32 | CRC u32

A log goes on with records, appended one per append and never rewritten::

    kind u16 | count u16 | length u32 | durable u32 | tail u32 | count x u32 | CRC u32

``length`` is the chunk's length after the append, ``tail`` the CRC of the unfinished block up to that length,
the ``count`` numbers are the CRCs of the blocks finished since the record before. ``durable`` is a length that
was fsynced *before* this record was written: below it a mismatch is rot, above it may be a torn write. A
record's CRC carries on from the CRC of what stands before it, so a record is only ever valid behind the very
bytes it was written behind, and the log is read up to the first record that is not.

A FENCE record (its two numbers are an epoch) stops appends for good.

A table goes on with one CRC per block and a CRC over them that carries on from the header's.

Pure: bytes in, values out.
"""

import enum
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from cloudverge_protocol.checksum import Buffer, crc32c
from cloudverge_protocol.ids import BLOCK_BYTES, CHUNK_BYTES, ChunkId, Epoch, SpaceId

if TYPE_CHECKING:
    Crcs = array[int]
else:
    Crcs = array  # which cannot be subscripted at run time before Python 3.12

MAGIC: Final = b"CVCHUNK\x00"
VERSION: Final = 1

_HEADER: Final = struct.Struct("<8sHHIQQQQQI")
_RECORD: Final = struct.Struct("<HHIII")
_CRC: Final = struct.Struct("<I")
HEADER_BYTES: Final = _HEADER.size + _CRC.size
LOG_BYTES_MAX: Final = 4 * 1024 * 1024  # a log grows no further: appends are refused as CHUNK_FULL


class Form(enum.IntEnum):
    """What follows the header."""

    LOG = 1
    TABLE = 2


class Kind(enum.IntEnum):
    """What a log record says."""

    LENGTH = 1
    FENCE = 2


class SidecarDamaged(Exception):
    """The header, or the table, does not verify: nothing can be proven about the chunk's data."""


@dataclass(frozen=True, slots=True)
class Header:
    """Whose bytes these are; fixed when the chunk is created here."""

    chunk: ChunkId
    space: SpaceId
    epoch: Epoch
    limit: int


class Record(NamedTuple):
    """One append as the log tells it; ``end`` is where the next record begins."""

    length: int
    durable: int
    tail: int
    end: int
    crc: int


@dataclass(frozen=True, slots=True)
class Log:
    """A log as far as it verifies; ``crcs`` are those of all finished blocks, in order.

    ``end`` and ``crc`` are where the next record goes and what it carries on from. ``clean``: nothing but
    whole valid records was found.
    """

    header: Header
    records: tuple[Record, ...]
    crcs: Crcs
    end: int
    crc: int
    clean: bool
    fence: Epoch  # 0: none


@dataclass(frozen=True, slots=True)
class Table:
    """A sealed chunk: its header, its length and one CRC per block."""

    header: Header
    length: int
    crcs: Crcs


def blocks_in(length: int) -> int:
    """How many blocks, the last one perhaps unfinished, ``length`` bytes take."""
    return -(-length // BLOCK_BYTES)


def _encode_header(header: Header, form: Form, length: int) -> tuple[bytes, int]:
    fields = _HEADER.pack(
        MAGIC, VERSION, form, BLOCK_BYTES, header.chunk, header.space, header.epoch, header.limit, length, 0
    )
    crc = crc32c(fields)
    return fields + _CRC.pack(crc), crc


def _parse_header(data: Buffer, form: Form) -> tuple[Header, int, int]:
    if len(data) < HEADER_BYTES:
        raise SidecarDamaged("the sidecar is shorter than its header")
    view = memoryview(data)
    crc = _CRC.unpack_from(view, _HEADER.size)[0]
    if crc != crc32c(view[: _HEADER.size]):
        raise SidecarDamaged("the sidecar's header fails its checksum")
    magic, version, found, block, chunk, space, epoch, limit, length, _ = _HEADER.unpack_from(view)
    if magic != MAGIC or version != VERSION or found != form or block != BLOCK_BYTES:
        raise SidecarDamaged(f"the sidecar is of another kind (version {version}, form {found})")
    return Header(ChunkId(chunk), SpaceId(space), Epoch(epoch), limit), length, crc


def begin_log(header: Header) -> tuple[bytes, int]:
    """The first bytes of a log, and the CRC its first record carries on from."""
    return _encode_header(header, Form.LOG, 0)


def encode_record(crc: int, length: int, durable: int, tail: int, crcs: Sequence[int]) -> tuple[bytes, int]:
    """A record to follow what ends with ``crc``; returns it and its own CRC."""
    return _encode(Kind.LENGTH, crc, length, durable, tail, crcs)


def encode_fence(crc: int, length: int, durable: int, tail: int, epoch: Epoch) -> tuple[bytes, int]:
    """A record that stops appends and raises the chunk's epoch."""
    return _encode(Kind.FENCE, crc, length, durable, tail, (epoch & 0xFFFFFFFF, epoch >> 32))


def _encode(
    kind: Kind, crc: int, length: int, durable: int, tail: int, numbers: Sequence[int]
) -> tuple[bytes, int]:
    fields = _RECORD.pack(kind, len(numbers), length, durable, tail)
    if numbers:
        fields += struct.pack(f"<{len(numbers)}I", *numbers)
    own = crc32c(fields, crc)
    return fields + _CRC.pack(own), own


class _Scan:
    """Reads records one after another; stops at the first that does not verify."""

    def __init__(self, data: Buffer, crc: int) -> None:
        self.view = memoryview(data)
        self.end = HEADER_BYTES
        self.crc = crc
        self.records: list[Record] = []
        self.crcs: Crcs = array("I")
        self.fence = 0

    def step(self) -> bool:
        view, start = self.view, self.end
        if len(view) - start < _RECORD.size + _CRC.size:
            return False
        kind, count, length, durable, tail = _RECORD.unpack_from(view, start)
        stop = start + _RECORD.size + 4 * count
        if len(view) - stop < _CRC.size:
            return False
        crc = crc32c(view[start:stop], self.crc)
        if crc != _CRC.unpack_from(view, stop)[0]:
            return False
        numbers = struct.unpack_from(f"<{count}I", view, start + _RECORD.size)
        return self._take(kind, numbers, Record(length, durable, tail, stop + _CRC.size, crc))

    def _take(self, kind: int, numbers: tuple[int, ...], record: Record) -> bool:
        blocks = len(self.crcs) + (len(numbers) if kind == Kind.LENGTH else 0)
        if record.length // BLOCK_BYTES != blocks or not record.durable <= record.length <= CHUNK_BYTES:
            return False
        if kind == Kind.LENGTH:
            self.crcs.extend(numbers)
        elif kind == Kind.FENCE and len(numbers) == 2:
            self.fence = numbers[0] | numbers[1] << 32
        else:
            return False
        self.records.append(record)
        self.end, self.crc = record.end, record.crc
        return True


def parse_log(data: Buffer) -> Log:
    """The log in a sidecar's bytes, as far as it verifies; raises SidecarDamaged for a bad header."""
    header, _, crc = _parse_header(data, Form.LOG)
    scan = _Scan(data, crc)
    while scan.step():
        pass
    clean = scan.end == len(scan.view)
    return Log(header, tuple(scan.records), scan.crcs, scan.end, scan.crc, clean, Epoch(scan.fence))


def encode_table(table: Table) -> bytes:
    """A sealed chunk's whole sidecar."""
    if len(table.crcs) != blocks_in(table.length):
        raise ValueError(f"{len(table.crcs)} CRCs for {table.length} bytes")
    head, crc = _encode_header(table.header, Form.TABLE, table.length)
    body = struct.pack(f"<{len(table.crcs)}I", *table.crcs)
    return b"".join((head, body, _CRC.pack(crc32c(body, crc))))


def parse_table(data: Buffer) -> Table:
    """The table in a sidecar's bytes; raises SidecarDamaged unless every byte of it verifies."""
    header, length, crc = _parse_header(data, Form.TABLE)
    count = blocks_in(length)
    stop = HEADER_BYTES + 4 * count
    if length > CHUNK_BYTES or len(data) != stop + _CRC.size:
        raise SidecarDamaged("the sidecar's table has another size than its header says")
    view = memoryview(data)
    body = view[HEADER_BYTES:stop]
    if crc32c(body, crc) != _CRC.unpack_from(view, stop)[0]:
        raise SidecarDamaged("the sidecar's table fails its checksum")
    return Table(header, length, array("I", struct.unpack(f"<{count}I", body)))
