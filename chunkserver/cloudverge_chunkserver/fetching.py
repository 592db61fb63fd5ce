"""Repair: a whole good replica made from others, block by good block.

The blocks that are already good here are taken from the own disk, the others from the sources in turn: a
source that is away or has a bad block in the range costs a retry elsewhere, not the repair. The copy is written
aside, fsynced, checked against the seal's length, and takes the replica's place by a rename; its table follows.
Between the two the new data meets the old sidecar, which proves the same bytes.

The CRCs are the sources': each verified the block against its own table before it sent it, and we verify what
arrived against what they sent. Where this server's table is whole, its CRC must agree with them.
"""

from array import array
from typing import Final

import structlog

from cloudverge_chunkserver.chunks import BrokenChunk, Chunk, OpenChunk, SealedChunk
from cloudverge_chunkserver.commits import Workers
from cloudverge_chunkserver.disk import Part, fault_of
from cloudverge_chunkserver.links import Links
from cloudverge_chunkserver.reading import Span, bad_in_span
from cloudverge_chunkserver.replicas import Replicas, ReplicaStatus
from cloudverge_chunkserver.sidecar import Crcs, Header, Table, blocks_in, encode_table
from cloudverge_protocol.checksum import crc32c
from cloudverge_protocol.errors import ChunkFault, CloudVergeError, Code, Denied
from cloudverge_protocol.ids import BLOCK_BYTES, CHUNK_BYTES, ChunkId
from cloudverge_protocol.messages import FrameType, Place, Read, ReadReply, ReplicaFetch

log = structlog.get_logger("cloudverge.chunkserver.fetch")

PIECE_BLOCKS: Final = 16


class Fetcher:
    """Copies chunks from other chunkservers."""

    def __init__(self, replicas: Replicas, workers: Workers, links: Links) -> None:
        self._replicas = replicas
        self._store = replicas.store
        self._workers = workers
        self._links = links

    async def fetch(self, wanted: ReplicaFetch) -> ReplicaStatus:
        """Make the replica of ``wanted.chunk`` here whole and SEALED; raises if a block is nowhere good."""
        chunk = wanted.chunk
        async with self._replicas.alone_with(chunk):
            held = self._store.find(chunk)
            if await self._is_whole(held, wanted):
                return self._replicas.status(chunk)
            self._check(held, wanted)
            if isinstance(held, OpenChunk):
                self._store.fence(held, wanted.epoch, "the metaserver has sealed it")
            own = held if isinstance(held, SealedChunk) and held.length == wanted.length else None
            try:
                crcs = await self._copy(wanted, own)
                await self._adopt(wanted, crcs, held)
            except BaseException:
                self._store.disk.remove(chunk, Part.FETCHED)
                raise
            log.info("replica made whole", chunk=chunk, length=wanted.length)
            return self._replicas.status(chunk)

    async def _is_whole(self, held: Chunk | None, wanted: ReplicaFetch) -> bool:
        if not isinstance(held, SealedChunk) or held.length < wanted.length:
            return False
        return not (await self._replicas.verify(wanted.chunk))[1]

    def _check(self, held: Chunk | None, wanted: ReplicaFetch) -> None:
        if not 0 <= wanted.length <= CHUNK_BYTES:
            raise ChunkFault(Code.CHUNK_FULL, f"a chunk of {wanted.length} bytes cannot be")
        if held is not None and not isinstance(held, BrokenChunk) and held.header.epoch > wanted.epoch:
            raise Denied(Code.FENCED, f"chunk {wanted.chunk} is at epoch {held.header.epoch} here")
        store = self._store
        store.capacity.check(store.disk.room(), store.claimed_bytes(), wanted.length)

    # --- copying ----------------------------------------------------------------------------------------

    async def _copy(self, wanted: ReplicaFetch, own: SealedChunk | None) -> Crcs:
        crcs: Crcs = array("I")
        await self._workers.run(self._write, wanted.chunk, 0, memoryview(b""))
        for first in range(0, blocks_in(wanted.length), PIECE_BLOCKS):
            start = first * BLOCK_BYTES
            span = Span(start, min(PIECE_BLOCKS * BLOCK_BYTES, wanted.length - start))
            crcs.extend(await self._piece(wanted, own, span))
        return crcs

    async def _piece(self, wanted: ReplicaFetch, own: SealedChunk | None, span: Span) -> list[int]:
        """Copy one piece whole, from here or from a source; or else each of its blocks by itself."""
        found = await self._own_piece(wanted.chunk, own, span)
        if found is None:
            found = await self._remote_piece(wanted, span)
        if found is not None:
            data, crcs = found
            if own is None or list(own.table.crcs[span.start // BLOCK_BYTES :][: len(crcs)]) == crcs:
                await self._workers.run(self._write, wanted.chunk, span.start, data)
                return crcs
        if span.size <= BLOCK_BYTES:
            block = span.start // BLOCK_BYTES
            raise ChunkFault(
                Code.DAMAGED, f"chunk {wanted.chunk}: no source has a good copy of block {block}"
            )
        halves: list[int] = []
        for start in range(span.start, span.start + span.size, BLOCK_BYTES):
            size = min(BLOCK_BYTES, span.start + span.size - start)
            halves += await self._piece(wanted, own, Span(start, size))
        return halves

    async def _own_piece(
        self, chunk: ChunkId, own: SealedChunk | None, span: Span
    ) -> tuple[memoryview, list[int]] | None:
        if own is None:
            return None
        view = own.view()
        data = await self._workers.run(self._store.read_raw, chunk, span)
        if bad_in_span(view, span, data):
            return None
        first = span.start // BLOCK_BYTES
        return data, list(view.all_crcs()[first : first + blocks_in(span.size)])

    async def _remote_piece(self, wanted: ReplicaFetch, span: Span) -> tuple[memoryview, list[int]] | None:
        for source in wanted.sources:
            try:
                return await self._ask(source, wanted, span)
            except CloudVergeError as error:
                log.warning(
                    "a source failed",
                    chunk=wanted.chunk,
                    server=source.server,
                    start=span.start,
                    why=str(error),
                )
        return None

    async def _ask(self, source: Place, wanted: ReplicaFetch, span: Span) -> tuple[memoryview, list[int]]:
        """The piece from one source, cut at the seal: a longer replica's last block may hold more."""
        request = Read(wanted.read_ticket, wanted.chunk, span.start, span.size)
        reply, body = await self._links.to(source).begin(FrameType.READ, request)
        assert isinstance(reply, ReadReply)
        pieces = [body[at : at + BLOCK_BYTES] for at in range(0, len(body), BLOCK_BYTES)]
        if reply.start != span.start or [crc32c(piece) for piece in pieces] != list(reply.crcs):
            raise ChunkFault(Code.BAD_CHECKSUM, f"chunkserver {source.server} sent bytes that do not verify")
        if len(body) < span.size:
            raise ChunkFault(Code.DAMAGED, f"chunkserver {source.server} has a shorter copy")
        data = body[: span.size]
        crcs = [crc32c(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES)]
        return data, crcs

    def _write(self, chunk: ChunkId, offset: int, data: memoryview) -> None:
        try:
            self._store.disk.write(chunk, Part.FETCHED, offset, data)
        except OSError as error:
            raise fault_of(error, chunk) from None

    # --- taking its place -------------------------------------------------------------------------------

    async def _adopt(self, wanted: ReplicaFetch, crcs: Crcs, held: Chunk | None) -> None:
        header = Header(wanted.chunk, wanted.space, wanted.epoch, max(wanted.length, CHUNK_BYTES))
        table = Table(header, wanted.length, crcs)
        before = await self._workers.run(self._replace, table)
        self._store.became_sealed(SealedChunk(table), new=held is None)
        self._store.damage.forget(wanted.chunk)
        self._store.capacity.stored_bytes += wanted.length - before

    def _replace(self, table: Table) -> int:
        disk, chunk = self._store.disk, table.header.chunk
        try:
            before = disk.size(chunk, Part.DATA)
        except FileNotFoundError:
            before = 0
        try:
            disk.sync(chunk, Part.FETCHED)
            disk.rename(chunk, Part.FETCHED, Part.DATA)
            disk.publish(chunk, Part.TABLE, encode_table(table))
            disk.remove(chunk, Part.LOG)
        except OSError as error:
            raise fault_of(error, chunk) from None
        return before
