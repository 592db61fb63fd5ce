"""Receipts: a chunkserver's proof that a chunk's first bytes are fsynced on its disk.

A keyed BLAKE2b MAC (RFC 7693) over (server, chunk, epoch, length) under a key that the chunkserver shares
with the metaservers alone. The client carries receipts but can neither make nor alter one.
"""

import hmac
import struct
from hashlib import blake2b

from cloudverge_protocol.ids import ChunkId, Epoch, ServerId
from cloudverge_protocol.messages import Receipt

_FIELDS = struct.Struct("<QQQQ")
KEY_BYTES = 32
MAC_BYTES = 16


def _mac(key: bytes, server: int, chunk: int, epoch: int, length: int) -> bytes:
    fields = _FIELDS.pack(server, chunk, epoch, length)
    return blake2b(fields, key=key, digest_size=MAC_BYTES, person=b"cv-receipt").digest()


def make_receipt(key: bytes, server: ServerId, chunk: ChunkId, epoch: Epoch, length: int) -> Receipt:
    """The receipt of ``server`` for the first ``length`` bytes of ``chunk``; ``key`` is KEY_BYTES long."""
    return Receipt(server, chunk, epoch, length, _mac(key, server, chunk, epoch, length))


def receipt_is_genuine(key: bytes, receipt: Receipt) -> bool:
    """Whether this receipt was made with ``key`` for exactly these fields; never raises."""
    fields = (receipt.server, receipt.chunk, receipt.epoch, receipt.length)
    if any(not 0 <= field < 1 << 64 for field in fields):
        return False
    return hmac.compare_digest(_mac(key, *fields), receipt.mac)
