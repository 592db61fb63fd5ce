"""The records of the journal file, and their encoding.

A record is a prefix of 9 bytes and a payload (msgpack)::

    payload length u32 | CRC-32C of the payload u32 | kind u8        (little-endian)

The CRC starts from the segment's number and the kind, so that bytes of another segment never pass. What each
kind means for a replay stands with its struct; together they hold everything the mount must remember until
the metaserver has it. Formats only grow: append fields with defaults, never reorder or renumber.
"""

import struct
from typing import Final

import msgspec

from cloudverge_mount.spillrecord import Spilled
from cloudverge_protocol.checksum import crc32c
from cloudverge_protocol.ids import EntryNumber, Incarnation, InodeId
from cloudverge_protocol.messages import Receipt
from cloudverge_protocol.operations import Operation

FORMAT: Final = 1

HEADER: Final = 1
ENTRY: Final = 2  # payload: an operations.Entry, as it goes into batches
WRITE: Final = 3
HELD: Final = 4
RELEASED: Final = 5
SPILL: Final = 6
ACKED: Final = 7
ASIDE: Final = 8
SETTLED: Final = 9
COMING: Final = 10

PREFIX: Final = struct.Struct("<IIB")
RECORD_BYTES_MAX: Final = 16 * 1024 * 1024

Receipts = tuple[Receipt, ...]


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all payloads but ENTRY."""


class HeaderRecord(Record, frozen=True):
    """First of every segment. ``valid_end``: up to where the segments before it were whole when it began."""

    format: int
    cluster: str
    history: str
    space: int
    session: int
    valid_end: int


class WriteRecord(Record, frozen=True):
    """An entry whose operation is a Write. ``spilled_through``: see ``Sink.enter_write``."""

    entry: msgspec.Raw
    receipts: Receipts
    spilled_through: int


class HeldRecord(Record, frozen=True):
    """An operation accepted and shown, but not in the order of entries yet.

    ``sources``: inodes whose bytes it waits for, each with the spill number its bytes had reached (0: none).
    ``met``: the inodes whose rows it meets.
    """

    hold: int
    op: Operation
    met: tuple[int, ...]
    sources: tuple[tuple[InodeId, int], ...] = ()
    receipts: Receipts = ()
    spilled_through: int = 0


class ReleasedRecord(Record, frozen=True):
    """The held operation ``hold`` enters the order here, as this entry."""

    hold: int
    entry: msgspec.Raw
    receipts: Receipts = ()
    spilled_through: int = 0


class SpillRecord(Record, frozen=True):
    """Closed bytes in the spill files, and what the inode's attributes were to become (None: as journaled)."""

    spilled: Spilled
    size: int = -1  # -1: nothing pending
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    mode: int | None = None


class ComingRecord(Record, frozen=True):
    """What the attributes of a file with closed bytes are to become; see SpillRecord."""

    ino: InodeId
    size: int
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    mode: int | None = None


class AckedRecord(Record, frozen=True):
    """The metaserver has committed this entry and all before it (of older incarnations too)."""

    incarnation: Incarnation
    number: EntryNumber


class SettledRecord(Record, frozen=True):
    """What waits for the bytes of ``ino`` waits no longer: none is left that could come."""

    ino: InodeId


class AsideRecord(Record, frozen=True):
    """These entries and held operations were set aside: they are never shipped."""

    entries: tuple[tuple[Incarnation, EntryNumber], ...]
    held: tuple[int, ...]


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode


def frame(segment: int, kind: int, payload: bytes) -> bytes:
    """The bytes of a record in ``segment``."""
    return PREFIX.pack(len(payload), crc32c(payload, (segment << 8 | kind) & 0xFFFFFFFF), kind) + payload


def unframe(segment: int, data: memoryview, offset: int) -> tuple[int, memoryview, int] | None:
    """(kind, payload, offset just past it) of the record at ``offset``; None if no whole record is there."""
    start = offset + PREFIX.size
    if start > len(data):
        return None
    length, crc, kind = PREFIX.unpack_from(data, offset)
    end = start + length
    if length > RECORD_BYTES_MAX or end > len(data):
        return None
    payload = data[start:end]
    if crc32c(payload, (segment << 8 | kind) & 0xFFFFFFFF) != crc:
        return None
    return kind, payload, end
