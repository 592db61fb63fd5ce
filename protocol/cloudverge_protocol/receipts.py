"""Receipts: a chunkserver's proof that a chunk's first bytes are fsynced on its disk.

A keyed BLAKE2b MAC (RFC 7693) over (server, chunk, epoch, length) under a key that the chunkserver shares
with the metaservers alone. The client carries receipts but can neither make nor alter one.

The same key proves whose heartbeat a report is: the join token is every chunkserver's, and server tickets are shown to
other chunkservers, so neither says more than that the caller belongs to the cluster.
"""

import hmac
import struct
from hashlib import blake2b

from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.ids import ChunkId, Epoch, ServerId
from cloudverge_protocol.messages import Receipt

_FIELDS = struct.Struct("<QQQQ")
_SERVER = struct.Struct("<Q")
HEARTBEAT_HEADER = "cloudverge-proof"  # of the HTTP request, in hex
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


def heartbeat_proof(key: bytes, server: ServerId, body: Buffer) -> str:
    """What shows that ``body``, byte for byte, is the report of ``server``; travels in HEARTBEAT_HEADER."""
    mac = blake2b(_SERVER.pack(server), key=key, digest_size=MAC_BYTES, person=b"cv-heartbeat")
    mac.update(body)
    return mac.hexdigest()


def heartbeat_is_genuine(key: bytes, server: ServerId, body: Buffer, proof: str) -> bool:
    """Whether the holder of ``key`` made this proof for this report; never raises."""
    return hmac.compare_digest(heartbeat_proof(key, server, body).encode(), proof.encode(errors="replace"))
