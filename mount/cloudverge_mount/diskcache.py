"""The disk cache of chunk bytes: records in append-only segment files of the cache folder.

A record is a header (magic, chunk, offset, length, CRC of the data, CRC of the header) and up to
``RECORD_BYTES`` of verified bytes, whole blocks from a block's start. The index lives in RAM and is rebuilt from
the headers at start. Segments are evicted whole, least recently used first.

It never slows the path that feeds it: runs are queued by reference within ``QUEUE_BYTES``, what does not fit is
not cached, and a thread writes. Streams are admitted at a bounded rate, so that one big read over a fast line
neither wears the disk nor flushes everything else out. Bytes read back have passed their checksum; a record
that does not is forgotten. A full or failing disk only switches the cache off.
"""

import errno
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import structlog
import trio

from cloudverge_mount.blockcache import Run, key_of
from cloudverge_protocol.checksum import crc32c
from cloudverge_protocol.ids import BLOCK_BYTES

log = structlog.get_logger(__name__)

SEGMENT_BYTES = 32 * 1024 * 1024
RECORD_BYTES = 256 * 1024
QUEUE_BYTES = 8 * 1024 * 1024
STREAM_BYTES_PER_S = 48 * 1024 * 1024
STREAM_BURST_BYTES = 96 * 1024 * 1024
MAGIC = 0x43564243
_HEADER = struct.Struct("<IQIII")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size


class Record(NamedTuple):
    """Where ``length`` bytes from ``start`` of ``chunk`` lie."""

    segment: int
    position: int
    chunk: int
    start: int
    length: int
    crc: int

    def blocks(self) -> range:
        """The keys of its blocks."""
        first = key_of(self.chunk, self.start)
        return range(first, first + -(-self.length // BLOCK_BYTES))


class DiskCache:
    """Records under ``folder`` within ``limit_bytes``; used from the loop, but for ``_write_all``."""

    def __init__(
        self, folder: Path, limit_bytes: int, clock: Callable[[], float] = trio.current_time
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._limit = limit_bytes
        self._clock = clock
        self._index: dict[int, Record] = {}
        self._members: dict[int, list[Record]] = {}  # by segment, least recently used segment first
        self._sizes: dict[int, int] = {}
        self._fds: dict[int, int] = {}
        self._current = 0
        self._queue: deque[Run] = deque()
        self._queued_bytes = 0
        self._wake = trio.Event()
        self._tokens = float(STREAM_BURST_BYTES)
        self._tokens_at = 0.0
        self._off = limit_bytes < 2 * SEGMENT_BYTES

    @property
    def held_bytes(self) -> int:
        """Bytes of all segment files."""
        return sum(self._sizes.values())

    # --- lookups ----------------------------------------------------------------------------------------

    def has(self, chunk: int, offset: int) -> bool:
        """Whether a record holds the byte at ``offset``."""
        record = self._index.get(key_of(chunk, offset))
        return record is not None and offset < record.start + record.length

    async def get(self, chunk: int, offset: int) -> Run | None:
        """A run that holds the byte at ``offset``, verified."""
        record = self._index.get(key_of(chunk, offset))
        if record is None or offset >= record.start + record.length:
            return None
        self._members[record.segment] = self._members.pop(record.segment)  # used now
        try:
            fd = self._reading(record.segment)
            data = _read_if_cached(fd, record)
            if data is None:
                data = await trio.to_thread.run_sync(os.pread, fd, record.length, record.position)
        except OSError as error:
            log.info("disk cache record unreadable", error=str(error))
            data = b""
        if len(data) == record.length and crc32c(data) == record.crc:
            return Run(chunk, record.start, memoryview(data))
        self._forget(record)
        return None

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
                    record = Record(
                        segment, position + HEADER_BYTES, run.chunk, run.start + at, len(part), crc32c(part)
                    )
                    os.pwritev(fd, [_header_of(record), part], position)
                    position = record.position + record.length
                    records.append(record)
        finally:
            os.close(fd)
        return records

    def _add(self, record: Record) -> None:
        for key in record.blocks():
            self._index[key] = record
        self._members.setdefault(record.segment, []).append(record)
        end = record.position + record.length
        self._sizes[record.segment] = max(end, self._sizes.get(record.segment, 0))

    def _make_room(self) -> None:
        while self.held_bytes + SEGMENT_BYTES > self._limit and len(self._members) > 1:
            segment = next(number for number in self._members if number != self._current)
            for record in self._members.pop(segment):
                self._unindex(record)
            del self._sizes[segment]
            fd = self._fds.pop(segment, None)
            if fd is not None:
                os.close(fd)
            self._path(segment).unlink(missing_ok=True)

    def _forget(self, record: Record) -> None:
        log.warning("a record of the disk cache fails its checksum", chunk=record.chunk, offset=record.start)
        self._unindex(record)

    def _unindex(self, record: Record) -> None:
        for key in record.blocks():
            if self._index.get(key) is record:
                del self._index[key]

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
                records += _records_in(path, int(path.stem))
        return records

    def close(self) -> None:
        """Close the files; they stay for the next mount."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


def _header_of(record: Record) -> bytes:
    fields = _HEADER.pack(MAGIC, record.chunk, record.start, record.length, record.crc)
    return fields + _CRC.pack(crc32c(fields))


def _records_in(path: Path, segment: int) -> Iterator[Record]:
    """The records of one file, up to the first header that is not whole and right."""
    with path.open("rb") as file:
        position, size = 0, path.stat().st_size
        while position + HEADER_BYTES <= size:
            file.seek(position)
            header = file.read(HEADER_BYTES)
            magic, chunk, start, length, crc = _HEADER.unpack_from(header)
            if magic != MAGIC or _CRC.unpack_from(header, _HEADER.size)[0] != crc32c(header[: _HEADER.size]):
                return
            position += HEADER_BYTES + length
            if length > RECORD_BYTES or position > size:
                return
            yield Record(segment, position - length, chunk, start, length, crc)


def _read_if_cached(fd: int, record: Record) -> bytes | bytearray | None:
    """The record's bytes if the kernel has them at hand; None if the disk would have to be waited for."""
    data = bytearray(record.length)
    try:
        count = os.preadv(fd, [data], record.position, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
            return None
        raise
    return data if count == record.length else None
