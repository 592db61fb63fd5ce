"""The disk cache of chunk bytes: records in append-only segment files of the cache folder.

What a record is stands in ``blockrecords``. The index lives in RAM, block by block, and is rebuilt from the records'
headers at start. Segments are evicted whole, least recently used first.

It never slows the path that feeds it: runs are queued by reference within ``QUEUE_BYTES``, what does not fit is
not cached, and a thread writes. Streams are admitted at a bounded rate, so that one big read over a fast line
neither wears the disk nor flushes everything else out. Bytes read back have passed their checksum; a block
that does not is forgotten. A full or failing disk only switches the cache off.

Who reads a little here and there (``part``) need not read and check whole blocks each time: the first to come to a
block does, and keeps a checksum of each of its pages in RAM.
"""

import errno
import os
from array import array
from collections import deque
from collections.abc import Callable
from pathlib import Path

import structlog
import trio

from cloudverge_mount.blockcache import Run, key_of
from cloudverge_mount.blockrecords import HEADER_BYTES, RECORD_BYTES, Block, Record, header_of, records_in
from cloudverge_protocol.checksum import crc32c, piece_crcs
from cloudverge_protocol.ids import BLOCK_BYTES

log = structlog.get_logger(__name__)

SEGMENT_BYTES = 32 * 1024 * 1024
READ_BLOCKS = 16  # at most, in one read of the disk
PAGE_BYTES = 4096
QUEUE_BYTES = 16 * 1024 * 1024
GATHER_S = 0.02  # for one write to take several runs
STREAM_BYTES_PER_S = 48 * 1024 * 1024
STREAM_BURST_BYTES = 96 * 1024 * 1024


class DiskCache:
    """Records under ``folder`` within ``limit_bytes``; used from the loop, but for ``_write_all``."""

    def __init__(
        self, folder: Path, limit_bytes: int, clock: Callable[[], float] = trio.current_time
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._limit = limit_bytes
        self._clock = clock
        self._index: dict[int, Block] = {}
        self._pages: dict[int, array[int]] = {}  # CRCs of the pages of blocks that were read in parts
        self._members: dict[int, list[int]] = {}  # keys by segment, least recently used segment first
        self._sizes: dict[int, int] = {}
        self._fds: dict[int, int] = {}
        self._current = 0
        self._queue: deque[Run] = deque()
        self._queued_bytes = 0
        self._wake = trio.Event()
        self._tokens = float(STREAM_BURST_BYTES)
        self._tokens_at = 0.0
        self._can_tell = True  # whether the file system knows what it has in memory
        self._off = limit_bytes < 2 * SEGMENT_BYTES

    @property
    def held_bytes(self) -> int:
        """Bytes of all segment files."""
        return sum(self._sizes.values())

    # --- lookups ----------------------------------------------------------------------------------------

    def has(self, chunk: int, offset: int) -> bool:
        """Whether the byte at ``offset`` is here."""
        block = self._index.get(key_of(chunk, offset))
        return block is not None and offset % BLOCK_BYTES < block.length

    async def get(self, chunk: int, offset: int, end: int) -> Run | None:
        """A run that holds the byte at ``offset``, verified, and what follows it up to ``end`` if at hand."""
        if not self.has(chunk, offset):
            return None
        blocks = self._neighbours(key_of(chunk, offset), -(-(end - offset) // BLOCK_BYTES))
        length = sum(block.length for block in blocks)
        view = await self._read(blocks[0].segment, blocks[0].position, length)
        if _matches(view, blocks):
            return Run(chunk, offset - offset % BLOCK_BYTES, view)
        self._forget(chunk, offset, blocks)
        return None

    async def part(self, chunk: int, offset: int, end: int) -> memoryview | None:
        """The bytes from ``offset`` to ``end``, or to where its block ends; verified."""
        key, low = key_of(chunk, offset), offset % BLOCK_BYTES
        block = self._index.get(key)
        if block is None or low >= block.length:
            return None
        high = min(block.length, low + end - offset)
        sums = self._pages.get(key)
        if sums is None:
            run = await self.get(chunk, offset, offset + 1)
            if run is None:
                return None
            if self._index.get(key) is block:
                self._pages[key] = _page_crcs(run.data[: block.length])
            return run.data[low:high]
        first, start = low // PAGE_BYTES, low - low % PAGE_BYTES
        stop = min(block.length, high + -high % PAGE_BYTES)
        view = await self._read(block.segment, block.position + start, stop - start)
        crcs = _page_crcs(view)
        if len(view) == stop - start and crcs == sums[first : first + len(crcs)]:
            return view[low - start : high - start]
        self._forget(chunk, offset, [block])
        return None

    async def _read(self, segment: int, position: int, length: int) -> memoryview:
        """So many bytes of a segment file, fewer if they cannot be had."""
        self._members[segment] = self._members.pop(segment)  # used now
        data: bytes | bytearray | None
        try:
            fd = self._reading(segment)
            data = self._read_at_hand(fd, position, length)
            if data is None:
                data = await trio.to_thread.run_sync(os.pread, fd, length, position)
        except OSError as error:
            log.info("disk cache unreadable", error=str(error))
            data = b""
        return memoryview(data)

    def _read_at_hand(self, fd: int, position: int, length: int) -> bytes | bytearray | None:
        """The bytes if the kernel has them in memory; None if the disk would have to be waited for.

        File systems that cannot tell (those in memory among them) are simply read.
        """
        if self._can_tell:
            data = bytearray(length)
            try:
                count = os.preadv(fd, [data], position, os.RWF_NOWAIT)
                return data if count == length else None
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._can_tell = False
        return os.pread(fd, length, position)

    def _neighbours(self, key: int, count: int) -> list[Block]:
        """The block of ``key`` and those after it that lie right behind it in its file, at most ``count``."""
        blocks = [self._index[key]]
        while len(blocks) < min(count, READ_BLOCKS) and blocks[-1].length == BLOCK_BYTES:
            last, following = blocks[-1], self._index.get(key + len(blocks))
            if following is None or following[:2] != (last.segment, last.position + BLOCK_BYTES):
                break
            blocks.append(following)
        return blocks

    def offer(self, run: Run, *, is_stream: bool) -> None:
        """Verified bytes that may be kept; cheap, and refused whenever that is better."""
        length = len(run.data)
        if self._off or self._queued_bytes + length > QUEUE_BYTES or not length:
            return
        if is_stream and not self._admits(length):
            return
        self._queue.append(run)
        self._queued_bytes += length
        self._wake.set()

    def _admits(self, length: int) -> bool:
        now = self._clock()
        gained = (now - self._tokens_at) * STREAM_BYTES_PER_S
        self._tokens = min(STREAM_BURST_BYTES, self._tokens + gained)
        self._tokens_at = now
        if self._tokens < length:
            return False
        self._tokens -= length
        return True

    # --- writing ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Rebuild the index, then write what is offered, for ever."""
        try:
            for record in await trio.to_thread.run_sync(self._scan):
                self._add(record)
            while not self._off:
                await self._wake.wait()
                self._wake = trio.Event()
                await trio.sleep(GATHER_S)
                await self._write_queued()
        except OSError as error:
            log.warning("the disk cache is off", folder=str(self._folder), error=str(error))
            self._off = True
            self._queue.clear()

    async def _write_queued(self) -> None:
        while self._queue:
            runs = list(self._queue)
            self._queue.clear()
            if not self._current or self._sizes.get(self._current, 0) >= SEGMENT_BYTES:
                self._current = max([self._current, *self._sizes]) + 1
                self._sizes[self._current] = 0
                self._members[self._current] = []
                self._make_room()
            segment, position = self._current, self._sizes[self._current]
            records = await trio.to_thread.run_sync(self._write_all, segment, position, runs)
            self._queued_bytes -= sum(len(run.data) for run in runs)
            for record in records:
                self._add(record)

    def _write_all(self, segment: int, position: int, runs: list[Run]) -> list[Record]:
        """In a thread: append the runs to the segment."""
        records = []
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(self._path(segment), flags, 0o600)
        try:
            for run in runs:
                for at in range(0, len(run.data), RECORD_BYTES):
                    part = run.data[at : at + RECORD_BYTES]
                    start = run.start + at
                    crcs = tuple(piece_crcs(part, start))
                    record = Record(segment, position + HEADER_BYTES, run.chunk, start, len(part), crcs)
                    os.pwritev(fd, [header_of(record), part], position)
                    position = record.position + record.length
                    records.append(record)
        finally:
            os.close(fd)
        return records

    def _add(self, record: Record) -> None:
        members = self._members.setdefault(record.segment, [])
        for key, block in record.blocks():
            self._index[key] = block
            self._pages.pop(key, None)
            members.append(key)
        end = record.position + record.length
        self._sizes[record.segment] = max(end, self._sizes.get(record.segment, 0))

    def _make_room(self) -> None:
        while self.held_bytes + SEGMENT_BYTES > self._limit and len(self._members) > 1:
            segment = next(number for number in self._members if number != self._current)
            for key in self._members.pop(segment):
                block = self._index.get(key)
                if block is not None and block.segment == segment:
                    del self._index[key]
                    self._pages.pop(key, None)
            del self._sizes[segment]
            fd = self._fds.pop(segment, None)
            if fd is not None:
                os.close(fd)
            self._path(segment).unlink(missing_ok=True)

    def _forget(self, chunk: int, offset: int, blocks: list[Block]) -> None:
        log.warning("bytes of the disk cache fail their checksum", chunk=chunk, offset=offset)
        first = key_of(chunk, offset)
        for index, block in enumerate(blocks):
            if self._index.get(first + index) == block:
                del self._index[first + index]
                self._pages.pop(first + index, None)

    # --- files ------------------------------------------------------------------------------------------

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:08d}.blocks"

    def _reading(self, segment: int) -> int:
        fd = self._fds.get(segment)
        if fd is None:
            fd = self._fds[segment] = os.open(self._path(segment), os.O_RDONLY | os.O_CLOEXEC)
        return fd

    def _scan(self) -> list[Record]:
        """In a thread, before anything else: the records of the files there are, oldest file first."""
        records: list[Record] = []
        for path in sorted(self._folder.glob("*.blocks")):
            if path.stem.isdigit():
                records += records_in(path, int(path.stem))
        return records

    def close(self) -> None:
        """Close the files; they stay for the next mount."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


def _page_crcs(data: memoryview) -> "array[int]":
    return array("I", [crc32c(data[at : at + PAGE_BYTES]) for at in range(0, len(data), PAGE_BYTES)])


def _matches(data: memoryview, blocks: list[Block]) -> bool:
    at = 0
    for block in blocks:
        if crc32c(data[at : at + block.length]) != block.crc:
            return False
        at += block.length
    return at == len(data)
