"""The chunks of one server: found, created, appended to, read. Everything here is synchronous.

OPEN chunks stand in memory whole (each holds a claim on the disk, so their number is bounded by it); of SEALED
ones only the tables last used, under a budget of bytes. There is no list of all chunks: the file names are it.

An append is made of two steps with no await between them, so that the chain can be set going in the middle:
``prepare`` decides everything (and reads what overlaps), ``commit`` writes. Data is written before its log
record, and the memory of it changes only when both are: a failure half-way leaves bytes that no record
acknowledges, which the next append overwrites.
"""

import errno
import time
from itertools import groupby
from typing import Final, NamedTuple

import structlog
from cachetools import LRUCache, TTLCache

from cloudverge_chunkserver.appending import Plan, check_body, no_chunk, plan_append
from cloudverge_chunkserver.capacity import Capacity
from cloudverge_chunkserver.chunks import BrokenChunk, Chunk, OpenChunk, SealedChunk, View
from cloudverge_chunkserver.damage import DamageList
from cloudverge_chunkserver.disk import Disk, Part, Stored, fault_of
from cloudverge_chunkserver.reading import Span, bad_in_span, damaged, plan_read
from cloudverge_chunkserver.recovery import recover
from cloudverge_chunkserver.sidecar import (
    HEADER_BYTES,
    LOG_BYTES_MAX,
    Header,
    SidecarDamaged,
    begin_log,
    parse_log,
    parse_table,
)
from cloudverge_protocol.checksum import Buffer, piece_crcs
from cloudverge_protocol.errors import ChunkFault, Code, Denied
from cloudverge_protocol.ids import BLOCK_BYTES, CHUNK_BYTES, ChunkId, Epoch, SpaceId

log = structlog.get_logger("cloudverge.chunkserver.store")

TABLES_BYTES: Final = 32 * 1024 * 1024
_TABLE_OVERHEAD: Final = 400
_SIDECAR_BYTES_MAX: Final = 2 * LOG_BYTES_MAX
_FENCES: Final = 65536
FENCE_S: Final = 180  # longer than any ticket lives


class Appending(NamedTuple):
    """A prepared append: its right, what is to be done, and the bytes."""

    right: Header
    plan: Plan
    body: Buffer
    crcs: tuple[int, ...]


class ChunkStore:
    """See the module's text; ``load`` must be called first."""

    def __init__(self, disk: Disk, capacity: Capacity, damage: DamageList) -> None:
        self.disk = disk
        self.capacity = capacity
        self.damage = damage
        self.chunks = 0
        self._open: dict[ChunkId, OpenChunk] = {}
        self._broken: dict[ChunkId, BrokenChunk] = {}
        self._sealed: LRUCache[ChunkId, SealedChunk] = LRUCache(
            TABLES_BYTES, getsizeof=lambda chunk: _TABLE_OVERHEAD + 4 * len(chunk.table.crcs)
        )
        self._fences: TTLCache[ChunkId, bool] = TTLCache(_FENCES, FENCE_S, time.monotonic)

    # --- start ------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Take stock of the disk and recover what was OPEN."""
        self.disk.remove_leftovers()
        for chunk, files in groupby(self.disk.stored(), key=lambda stored: stored.chunk):
            self._load_chunk(chunk, {stored.part: stored for stored in files})

    def _load_chunk(self, chunk: ChunkId, files: dict[Part, Stored]) -> None:
        if Part.FETCHED in files:
            self.disk.remove(chunk, Part.FETCHED)
        if Part.TABLE in files:
            if Part.LOG in files:  # the seal was published; only this was left to do
                self.disk.remove(chunk, Part.LOG)
        elif Part.LOG in files and files[Part.LOG].size_bytes >= HEADER_BYTES:
            self._recover(chunk, files)
        else:  # its creation was cut short: nothing of it was ever acknowledged as durable
            self._set_aside(chunk, files)
            return
        self.chunks += 1
        self.capacity.stored_bytes += sum(
            files[part].size_bytes for part in (Part.DATA, Part.TABLE) if part in files
        )

    def _set_aside(self, chunk: ChunkId, files: dict[Part, Stored]) -> None:
        for part in (Part.DATA, Part.LOG):
            if part in files and files[part].size_bytes:
                log.warning("file without a sidecar is set aside", chunk=chunk, part=str(part))
                self.disk.set_aside(chunk, part)
            else:
                self.disk.remove(chunk, part)

    def _recover(self, chunk: ChunkId, files: dict[Part, Stored]) -> None:
        data_bytes = files[Part.DATA].size_bytes if Part.DATA in files else 0
        try:
            parsed = parse_log(self.disk.read(chunk, Part.LOG, 0, _SIDECAR_BYTES_MAX))
        except SidecarDamaged as error:
            log.error("the sidecar of an open chunk is damaged", chunk=chunk, reason=str(error))
            self._broken[chunk] = BrokenChunk(chunk, str(error))
            self.damage.add(chunk, [0])
            return
        found = recover(parsed, data_bytes, lambda offset, size: self._bytes(chunk, offset, size))
        opened = self._open[chunk] = OpenChunk.recovered(parsed, found)
        if found.damaged:
            log.error("fsynced bytes of an open chunk are missing", chunk=chunk, length=found.length)
            self.damage.add(chunk, [data_bytes // BLOCK_BYTES])
        elif opened.loggable and data_bytes > found.length:
            self.disk.truncate(chunk, Part.DATA, found.length)
            files[Part.DATA] = Stored(chunk, Part.DATA, found.length)

    def _bytes(self, chunk: ChunkId, offset: int, size: int) -> memoryview:
        try:
            return self.disk.read(chunk, Part.DATA, offset, size)
        except FileNotFoundError:
            return memoryview(b"")

    # --- finding ----------------------------------------------------------------------------------------

    def find(self, chunk: ChunkId) -> Chunk | None:
        """The chunk in whatever state it is; None if it is not here."""
        held = self._open.get(chunk) or self._sealed.get(chunk) or self._broken.get(chunk)
        return held if held is not None else self._find_sealed(chunk)

    def _find_sealed(self, chunk: ChunkId) -> Chunk | None:
        try:
            table = parse_table(self.disk.read(chunk, Part.TABLE, 0, _SIDECAR_BYTES_MAX))
            if table.header.chunk != chunk:
                raise SidecarDamaged("the sidecar is another chunk's")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise fault_of(error, chunk) from None
        except SidecarDamaged as error:
            log.error("the sidecar of a sealed chunk is damaged", chunk=chunk, reason=str(error))
            self.damage.add(chunk, [0])
            broken = self._broken[chunk] = BrokenChunk(chunk, str(error))
            return broken
        sealed = self._sealed[chunk] = SealedChunk(table)
        return sealed

    def open_chunks(self) -> list[OpenChunk]:
        """All OPEN chunks."""
        return list(self._open.values())

    def claimed_bytes(self) -> int:
        """What OPEN chunks may still grow by."""
        return sum(chunk.claim_bytes for chunk in self._open.values())

    def free_bytes(self) -> int:
        """What may still be promised."""
        return self.capacity.free_bytes(self.disk.room(), self.claimed_bytes())

    # --- append -----------------------------------------------------------------------------------------

    def prepare(self, right: Header, offset: int, body: Buffer, crcs: tuple[int, ...]) -> Appending:
        """Decide about an append; raises every refusal there is but a failing disk."""
        check_body(offset, body, crcs)
        chunk = self.find(right.chunk)
        if chunk is None:
            self._check_new(right, offset)
        plan = plan_append(chunk, right, offset, len(body))
        if plan.compare:
            assert isinstance(chunk, OpenChunk)
            self._compare(chunk, offset, memoryview(body)[: plan.compare])
        return Appending(right, plan, body, crcs)

    def _check_new(self, right: Header, offset: int) -> None:
        if right.chunk in self._fences:
            raise Denied(Code.FENCED, f"chunk {right.chunk} has been sealed or deleted")
        if not 0 < right.limit <= CHUNK_BYTES:
            raise ChunkFault(Code.CHUNK_FULL, f"a chunk of {right.limit} bytes cannot be")
        if offset == 0:
            self.capacity.check(self.disk.room(), self.claimed_bytes(), right.limit)

    def _compare(self, chunk: OpenChunk, offset: int, sent: memoryview) -> None:
        """Different bytes at a place that was acknowledged: the writer is confused, it gets no further."""
        number = chunk.header.chunk
        span = plan_read(chunk.view(), offset, len(sent))
        stored = self.read_checked(number, chunk.view(), span)
        if bytes(stored[offset - span.start : offset - span.start + len(sent)]) != bytes(sent):
            self.fence(chunk, chunk.epoch, "an append met different bytes")
            conflict = ChunkFault(
                Code.CONFLICT, f"chunk {number} has other bytes at {offset}; it is closed at {chunk.length}"
            )
            conflict.suspicious = True
            raise conflict

    def commit(self, appending: Appending) -> OpenChunk:
        """Write what ``prepare`` allowed; the chunk's length is then what has been acknowledged."""
        right, plan, body, crcs = appending
        chunk = self._open.get(right.chunk) or self._create(right)
        if not plan.write:
            return chunk
        new: Buffer = memoryview(body)[plan.compare :] if plan.compare else body
        growth = chunk.growth(new, piece_crcs(new, chunk.length) if plan.compare else crcs)
        record, crc = chunk.record_of(growth)
        try:
            self.disk.write(right.chunk, Part.DATA, chunk.length, new)
            self.disk.write(right.chunk, Part.LOG, chunk.log_end, record)
        except OSError as error:
            self._give_back(chunk, error)
            raise fault_of(error, right.chunk) from None
        chunk.logged(record, crc)
        chunk.grow(growth)
        self.capacity.stored_bytes += len(new)
        return chunk

    def _create(self, right: Header) -> OpenChunk:
        head, crc = begin_log(right)
        try:
            self.disk.write(right.chunk, Part.LOG, 0, head)
        except OSError as error:
            self.disk.remove(right.chunk, Part.LOG)
            raise fault_of(error, right.chunk) from None
        chunk = self._open[right.chunk] = OpenChunk(right, HEADER_BYTES, crc, right.epoch)
        self.chunks += 1
        return chunk

    def _give_back(self, chunk: OpenChunk, error: OSError) -> None:
        """A write failed half-way: free what it took; a disk that fails otherwise than by being full is left."""
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            chunk.closed = "its disk failed to write"
            return
        try:
            self.disk.truncate(chunk.header.chunk, Part.DATA, chunk.length)
            self.disk.truncate(chunk.header.chunk, Part.LOG, chunk.log_end)
        except OSError:
            pass  # the next append overwrites it

    def fence(self, chunk: OpenChunk, epoch: Epoch, reason: str) -> None:
        """No more appends, also after a restart."""
        if chunk.closed and epoch <= chunk.epoch:
            return
        chunk.closed = chunk.closed or reason
        chunk.epoch = max(chunk.epoch, epoch)
        if not chunk.loggable:
            return
        record, crc = chunk.fence_record(chunk.epoch)
        try:
            self.disk.write(chunk.header.chunk, Part.LOG, chunk.log_end, record)
        except OSError as error:
            log.error("a fence could not be written", chunk=chunk.header.chunk, reason=str(error))
            return
        chunk.logged(record, crc)

    def fence_absent(self, chunk: ChunkId) -> None:
        """A chunk that is not here was sealed or deleted: a late append must not bring it (back) to life."""
        self._fences[chunk] = True

    # --- read -------------------------------------------------------------------------------------------

    def view(self, chunk: ChunkId, space: SpaceId) -> View:
        """What ``space`` may read of ``chunk``; absent and another space's are one answer."""
        found = self.find(chunk)
        if found is None or isinstance(found, BrokenChunk) or found.header.space != space:
            raise no_chunk()
        return found.view()

    def read_checked(self, chunk: ChunkId, view: View, span: Span) -> memoryview:
        """The bytes of ``span``, verified; waits for the disk."""
        return self.checked(chunk, view, span, self.read_raw(chunk, span))

    def read_raw(self, chunk: ChunkId, span: Span) -> memoryview:
        """The bytes on disk, whatever they are; any thread."""
        if not span.size:
            return memoryview(b"")
        try:
            return self.disk.read(chunk, Part.DATA, span.start, span.size)
        except FileNotFoundError:
            return memoryview(b"")
        except OSError as error:
            if error.errno == errno.EIO:
                return memoryview(b"")
            raise fault_of(error, chunk) from None

    def checked(self, chunk: ChunkId, view: View, span: Span, data: memoryview) -> memoryview:
        """``data`` if every block of it verifies; else the bad ones are remembered and named."""
        bad = bad_in_span(view, span, data)
        if bad:
            self.report_bad(chunk, bad)
            raise damaged(chunk, bad)
        return data

    def report_bad(self, chunk: ChunkId, bad: list[int]) -> None:
        """Remember and log bad blocks."""
        if self.damage.add(chunk, bad):
            log.error("blocks fail their checksum", chunk=chunk, blocks=bad[:32])

    # --- for replicas -----------------------------------------------------------------------------------

    def became_sealed(self, chunk: SealedChunk, *, new: bool = False) -> None:
        """The table has been published; ``new``: there was nothing of the chunk here before."""
        number = chunk.header.chunk
        self._open.pop(number, None)
        self._broken.pop(number, None)
        self._sealed[number] = chunk
        self.chunks += new

    def forget(self, chunk: ChunkId) -> None:
        """The chunk's files are gone."""
        self._open.pop(chunk, None)
        self._broken.pop(chunk, None)
        self._sealed.pop(chunk, None)
        self.damage.forget(chunk)
        self.chunks -= 1
