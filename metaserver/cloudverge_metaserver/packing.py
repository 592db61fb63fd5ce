"""Extents of one region and operations of the oplog, as bytes in the database.

A region is a format byte and msgpack; a reader that meets an unknown format refuses rather than guesses.
"""

from typing import Final

import msgspec

from cloudverge_protocol.errors import Code, Unavailable
from cloudverge_protocol.inodes import Extents
from cloudverge_protocol.operations import Operation

_FORMAT: Final = b"\x01"
_encoder: Final = msgspec.msgpack.Encoder()
_extents: Final = msgspec.msgpack.Decoder(Extents)
_operation: Final["msgspec.msgpack.Decoder[Operation]"] = msgspec.msgpack.Decoder(Operation)

pack_operation = _encoder.encode


def pack_extents(extents: Extents) -> bytes:
    """The bytes of a region."""
    return _FORMAT + _encoder.encode(extents)


def unpack_extents(packed: bytes) -> Extents:
    """The extents of a region as ``pack_extents`` wrote them."""
    if packed[:1] != _FORMAT:
        raise Unavailable(Code.INTERNAL, f"extents are stored in the unknown format {packed[:1]!r}")
    return _extents.decode(memoryview(packed)[1:])


def unpack_operation(packed: bytes) -> Operation:
    """An operation of the oplog."""
    return _operation.decode(packed)
