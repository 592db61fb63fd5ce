"""What the metaserver does to a replica: stop it, seal it, look at it, verify it, delete it.

Sealing order: the log is fenced (in memory at once, so nothing is acknowledged after it), data and log are
fsynced, the table is published beside the log, then the log is removed. A crash between any two steps leaves
either the log or the whole table, and both prove the same bytes.

A seal only ever covers what verifies: bytes that this process did not check as they came in are read back.
Control calls for one chunk run one after another.
"""

import asyncio
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from cloudverge_chunkserver.chunks import BrokenChunk, OpenChunk, SealedChunk, State, View
from cloudverge_chunkserver.commits import Commits, Workers
from cloudverge_chunkserver.disk import Part, fault_of
from cloudverge_chunkserver.reading import Span, bad_in_span
from cloudverge_chunkserver.sidecar import Crcs, Table, encode_table
from cloudverge_chunkserver.store import ChunkStore
from cloudverge_protocol.checksum import crc32c
from cloudverge_protocol.errors import CloudVergeError, Code, Denied
from cloudverge_protocol.ids import BLOCK_BYTES, ChunkId, Epoch

VERIFY_BYTES: Final = 1024 * 1024


class ReplicaStatus(NamedTuple):
    """State, epoch and verified length of one replica."""

    chunk: ChunkId
    state: State
    epoch: Epoch
    length: int


class Replicas:
    """Control over the chunks of ``store``."""

    def __init__(self, store: ChunkStore, commits: Commits, workers: Workers) -> None:
        self.store = store
        self._commits = commits
        self._workers = workers
        self._locks: dict[ChunkId, asyncio.Lock] = {}

    @asynccontextmanager
    async def alone_with(self, chunk: ChunkId) -> AsyncIterator[None]:
        """No other control call for ``chunk`` meanwhile."""
        lock = self._locks.setdefault(chunk, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and not getattr(lock, "_waiters", None):
                self._locks.pop(chunk, None)

    # --- looking ----------------------------------------------------------------------------------------

    def status(self, chunk: ChunkId) -> ReplicaStatus:
        """What is known without reading the data; the length counts only what is fsynced."""
        found = self.store.find(chunk)
        if found is None:
            return ReplicaStatus(chunk, State.ABSENT, Epoch(0), 0)
        if isinstance(found, BrokenChunk):
            return ReplicaStatus(chunk, State.DAMAGED, Epoch(0), 0)
        sealed = isinstance(found, SealedChunk)
        length = found.length if isinstance(found, SealedChunk) else found.durable
        epoch = found.epoch if isinstance(found, OpenChunk) else found.header.epoch
        state = State.SEALED if sealed else State.OPEN
        bad = self.store.damage.blocks(chunk)
        if bad:
            state, length = State.DAMAGED, min(length, bad[0] * BLOCK_BYTES)
        return ReplicaStatus(chunk, state, epoch, length)

    async def verify(self, chunk: ChunkId) -> tuple[int, list[int]]:
        """Read every block back; the length, and the blocks that fail (remembered; others are cleared)."""
        found = self.store.find(chunk)
        if found is None:
            return 0, []
        if isinstance(found, BrokenChunk):
            return 0, [0]
        view = found.view()
        bad = await self.bad_blocks(chunk, view)
        if bad:
            self.store.report_bad(chunk, bad)
        else:
            self.store.damage.forget(chunk)
        return view.length, bad

    async def bad_blocks(self, chunk: ChunkId, view: View) -> list[int]:
        """The blocks of ``view`` that fail on disk, read a piece at a time in a thread."""
        bad: list[int] = []
        for start in range(0, view.length, VERIFY_BYTES):
            span = Span(start, min(VERIFY_BYTES, view.length - start))
            bad += await self._workers.run(self._bad_in, chunk, view, span)
        return bad

    def _bad_in(self, chunk: ChunkId, view: View, span: Span) -> list[int]:
        return bad_in_span(view, span, self.store.read_raw(chunk, span))

    # --- sealing ----------------------------------------------------------------------------------------

    async def seal(self, chunk: ChunkId, epoch: Epoch, length: int) -> ReplicaStatus:
        """Stop appends (``length`` < 0), or also make ``length`` the chunk's last word.

        Answers the length that verifies and is fsynced; a chunk shorter than the seal is left as it is.
        """
        async with self.alone_with(chunk):
            found = self.store.find(chunk)
            if found is None:
                self.store.fence_absent(chunk)
            elif isinstance(found, SealedChunk):
                _check_epoch(found.header.epoch, epoch, chunk)
            elif isinstance(found, OpenChunk):
                await self._stop(found, epoch)
                if 0 <= length <= found.length:
                    await self._publish_seal(found, length)
            return self.status(chunk)

    async def _stop(self, chunk: OpenChunk, epoch: Epoch) -> None:
        number = chunk.header.chunk
        _check_epoch(chunk.epoch, epoch, number)
        self.store.fence(chunk, epoch, "the metaserver is sealing it")
        try:
            await self._commits.durable(chunk, chunk.length, chunk.log_end)
        except CloudVergeError:
            return  # what was durable before is all there will ever be: ``status`` says so
        if not chunk.verified:
            chunk.verified = not (await self.verify(number))[1]

    async def _publish_seal(self, chunk: OpenChunk, length: int) -> None:
        number = chunk.header.chunk
        if length > chunk.durable:
            return
        crcs = await self._crcs_up_to(chunk, length)
        if crcs is None:
            return
        header = chunk.header
        table = Table(type(header)(number, header.space, chunk.epoch, header.limit), length, crcs)
        await self._workers.run(self._publish, table)
        surplus = chunk.length - length
        self.store.became_sealed(SealedChunk(table))
        await self._workers.run(self._tidy, table, surplus)
        self.store.capacity.stored_bytes -= surplus

    async def _crcs_up_to(self, chunk: OpenChunk, length: int) -> Crcs | None:
        """One CRC per block of [0, length); None if the block that is cut fails its own."""
        view = chunk.view()
        whole = view.all_crcs()
        last = length // BLOCK_BYTES
        if length == view.length or length % BLOCK_BYTES == 0:
            return whole[: -(-length // BLOCK_BYTES)]
        span = Span(last * BLOCK_BYTES, view.bytes_of(last))
        data = await self._workers.run(self.store.read_raw, chunk.header.chunk, span)
        bad = bad_in_span(view, span, data)
        if bad:
            self.store.report_bad(chunk.header.chunk, bad)
            return None
        return whole[:last] + array("I", [crc32c(data[: length - span.start])])

    def _publish(self, table: Table) -> None:
        try:
            self.store.disk.publish(table.header.chunk, Part.TABLE, encode_table(table))
        except OSError as error:
            raise fault_of(error, table.header.chunk) from None

    def _tidy(self, table: Table, surplus: int) -> None:
        """The seal holds already: what fails here is done at the next start, or never."""
        disk, chunk = self.store.disk, table.header.chunk
        try:
            disk.remove(chunk, Part.LOG)
            if surplus:
                disk.truncate(chunk, Part.DATA, table.length)
        except OSError:
            pass

    # --- deleting ---------------------------------------------------------------------------------------

    async def delete(self, chunk: ChunkId) -> None:
        """Remove the replica; sidecars first, so that it is gone at once and its data can prove nothing."""
        async with self.alone_with(chunk):
            found = self.store.find(chunk)
            self.store.fence_absent(chunk)
            if found is None:
                return
            if isinstance(found, OpenChunk):
                self.store.fence(found, found.epoch, "it has been deleted")
            try:
                for part in (
                    Part.TABLE,
                    Part.LOG,
                ):  # on the loop: nobody may find it again once it is forgotten
                    self.store.disk.remove(chunk, part)
                self.store.forget(chunk)
                self.store.capacity.stored_bytes -= await self._workers.run(self._remove_data, chunk)
            except OSError as error:
                raise fault_of(error, chunk) from None

    def _remove_data(self, chunk: ChunkId) -> int:
        disk = self.store.disk
        try:
            freed = disk.size(chunk, Part.DATA)
        except FileNotFoundError:
            freed = 0
        disk.remove(chunk, Part.DATA)
        disk.sync_names(chunk)
        return freed


def _check_epoch(held: Epoch, given: Epoch, chunk: ChunkId) -> None:
    if given < held:
        raise Denied(Code.FENCED, f"chunk {chunk} is at epoch {held} here, the request at {given}")
