"""One OPEN chunk being appended to: what has been sent, acknowledged and proved durable.

Appends leave in the order of their offsets and are pipelined; replies come in any order. Only receipts count:
a byte is durable when each replica of the grant has sent a receipt for a length that covers it. A chain that
had any failure is broken for ever: nothing is appended to it again, whatever else may still come in for it
is ignored, and what was not durable goes to another chunk.

Pure but for ``Chain.append``, which makes the call.
"""

from collections import deque
from collections.abc import Sequence

from cloudverge_mount.connection import Connection
from cloudverge_mount.dirty import DirtyFile
from cloudverge_mount.packer import Parcel
from cloudverge_mount.pieces import Landing
from cloudverge_protocol.checksum import Buffer, crc32c
from cloudverge_protocol.errors import ChunkFault, CloudVergeError, Code, class_of, make_error
from cloudverge_protocol.ids import BLOCK_BYTES
from cloudverge_protocol.messages import Append, AppendReply, ChunkGrant, FrameType, Receipt

RETIRE_BYTES = 256 * 1024  # a chunk with less room is full (a small one: with less than a quarter)
APPEND_TIMEOUT_S = 6.0  # without progress
JOIN_BYTES = 16 * 1024  # buffers up to this length are joined before they are sent


class Chain:
    """The append right of one grant. All its appends go over the connection for ``purpose``."""

    def __init__(self, grant: ChunkGrant, purpose: str = "") -> None:
        self.grant = grant
        self.purpose = purpose
        self.end = 0  # the next append's offset
        self.sync_end = 0  # a receipt has been asked for up to here
        self.durable = 0  # receipted by every replica
        self.receipts: tuple[Receipt, ...] = ()
        self.parcels: deque[Parcel] = deque()  # sent, not durable
        self.broken: CloudVergeError | None = None
        self.failed_server = 0  # who broke it, if a server did
        self.retired = False  # full or broken: no further append
        self.sealed = False
        self._acked: dict[int, Receipt] = {}

    @property
    def room(self) -> int:
        """Bytes that may still be appended."""
        return self.grant.limit - self.end

    def is_full_with(self, more: int = 0) -> bool:
        """Whether the chunk counts as full once ``more`` bytes have been appended."""
        return self.room - more < min(RETIRE_BYTES, self.grant.limit // 4)

    @property
    def unasked(self) -> int:
        """Bytes sent for which no receipt has been asked yet."""
        return self.end - self.sync_end

    def begin(self, parcel: Parcel | None, sync: bool) -> int:
        """Take the parcel's place in the chunk (None: an empty append that only asks for receipts)."""
        offset = self.end
        if parcel is not None:
            self.end = parcel.end = offset + parcel.length
            self.parcels.append(parcel)
        if sync:
            self.sync_end = self.end
        return offset

    async def append(
        self, connection: Connection, ticket: str, offset: int, body: Sequence[Buffer], sync: bool
    ) -> None:
        """Send ``body`` for the place ``begin`` gave; raises what went wrong (``failed_server`` says where).

        The request leaves before the first suspension can let another append of this chain go ahead.
        """
        grant = self.grant
        request = Append(
            ticket, grant.chunk, grant.epoch, offset, tuple(body_crcs(body, offset)), sync, grant.places[1:]
        )
        end = offset + sum(map(len, body))
        try:
            reply, _ = await connection.call(FrameType.APPEND, request, body, timeout_s=APPEND_TIMEOUT_S)
        except CloudVergeError as error:
            if blames_server(error):
                self.failed_server = grant.places[0].server
            raise
        assert isinstance(reply, AppendReply)
        self.acknowledge(reply, end)

    def acknowledge(self, reply: AppendReply, end: int) -> None:
        """Count a reply's receipts; raises if the append did not reach ``end`` on every server."""
        if reply.failed or reply.code:
            self.failed_server = reply.failed
            code = reply.code or Code.UNAVAILABLE
            raise make_error(code, reply.message or f"chunkserver {reply.failed} could not append")
        if reply.length < end:
            raise ChunkFault(Code.GAP, f"chunk {self.grant.chunk} ends at {reply.length}, not at {end}")
        if self.broken is None and reply.receipts:
            self._count(reply.receipts)

    def _count(self, receipts: Sequence[Receipt]) -> None:
        grant = self.grant
        for receipt in receipts:
            known = self._acked.get(receipt.server)
            if (receipt.chunk, receipt.epoch) == (grant.chunk, grant.epoch) and (
                known is None or known.length < receipt.length
            ):
                self._acked[receipt.server] = receipt
        held = [self._acked.get(place.server) for place in grant.places]
        proofs = tuple(receipt for receipt in held if receipt is not None)
        if len(proofs) == len(held):
            self.receipts = proofs
            self.durable = min(receipt.length for receipt in proofs)

    def arrived(self) -> list[Parcel]:
        """The parcels that have become durable since the last call, in order."""
        home: list[Parcel] = []
        while self.parcels and self.parcels[0].end <= self.durable:
            home.append(self.parcels.popleft())
        return home

    def abandon(self, error: CloudVergeError) -> list[Parcel]:
        """Break the chain; the parcels that are lost with it."""
        self.broken = self.broken or error
        self.retired = True
        lost = list(self.parcels)
        self.parcels.clear()
        return lost


def blames_server(error: CloudVergeError) -> bool:
    """Whether a failed call says something about the server, and not about our rights or this chunk."""
    return class_of(error.code) not in _OUR_OWN and error.code not in _OF_THE_CHUNK


_OUR_OWN = {class_of(Code.UNAUTHORIZED), class_of(Code.BAD_REQUEST)}
_OF_THE_CHUNK = {Code.SEALED, Code.CONFLICT, Code.GAP, Code.CHUNK_FULL, Code.NO_CHUNK}


def landings(parcel: Parcel) -> list[tuple[DirtyFile, list[Landing]]]:
    """Where the ranges of a parcel that has its place lie in the chunk."""
    at = parcel.end - parcel.length
    result = []
    for file, taken in parcel.items:
        places = []
        for start, end, _ in taken:
            places.append(Landing(start, end, at))
            at += end - start
        result.append((file, places))
    return result


def joined(buffers: Sequence[Buffer]) -> list[Buffer]:
    """The same bytes in few buffers: neighbours that are short are joined."""
    if len(buffers) < 2:
        return list(buffers)
    result: list[Buffer] = []
    short: list[Buffer] = []
    for buffer in buffers:
        if len(buffer) <= JOIN_BYTES:
            short.append(buffer)
            continue
        if short:
            result.append(b"".join(short))
            short = []
        result.append(buffer)
    if short:
        result.append(b"".join(short))
    return result


def body_crcs(buffers: Sequence[Buffer], offset: int) -> list[int]:
    """``piece_crcs`` of the buffers one after another, lying at ``offset`` of a chunk."""
    crcs: list[int] = []
    crc, begun, left = 0, False, BLOCK_BYTES - offset % BLOCK_BYTES
    for buffer in buffers:
        length = len(buffer)
        if length < left:
            if length:
                crc, begun, left = crc32c(buffer, crc), True, left - length
            continue
        view, at = memoryview(buffer), 0
        while length - at >= left:
            crcs.append(crc32c(view[at : at + left], crc))
            at, crc, begun, left = at + left, 0, False, BLOCK_BYTES
        if at < length:
            crc, begun, left = crc32c(view[at:]), True, left - (length - at)
    if begun:
        crcs.append(crc)
    return crcs
