"""The spill: closed bytes that are not committed yet, in append-only segment files of the cache folder.

It makes a kill of the mount lose nothing that was closed; it is not fsynced, so it is no promise against a
power cut (fsync is). Which ranges lie where stands in the journal (``Spilled`` records), not here.

Invariants: the bytes of a record stay until ``release`` says that what superseded it has been committed; a
segment is removed when none of its records is left, but not before a replay has told them all (``sweep``), and
its number is never used again while a record of it may live; bytes read back have passed their checksum; the
files together stay within ``limit_bytes``.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from cloudverge_mount.spillrecord import Spilled
from cloudverge_protocol.checksum import Buffer, crc32c
from cloudverge_protocol.errors import ChunkFault, Code, NoRoom
from cloudverge_protocol.ids import InodeId

SEGMENT_BYTES = 64 * 1024 * 1024
EMPTY_BYTES = 4 * 1024 * 1024  # a current segment this long is given up once nothing in it lives
IOV_MAX = 1000


class Spill:
    """The segment files under ``folder``. Records get numbers from ``first_number`` on."""

    def __init__(self, folder: Path, limit_bytes: int, first_number: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._limit = limit_bytes
        self._number = first_number
        self._records: dict[InodeId, list[Spilled]] = {}
        self._lives: dict[int, int] = {}  # records alive, by segment
        self._sizes = {_number_of(path): path.stat().st_size for path in folder.glob("*.spill")}
        self._current = max(self._sizes, default=0)  # none is open: the next write opens a new one
        self._fd = -1
        self._read_fds: dict[int, int] = {}
        self._position = 0
        self._old = max(self._sizes, default=0)  # up to here a replay may still bring records to light

    @property
    def size_bytes(self) -> int:
        """Bytes of all segment files."""
        return sum(self._sizes.values())

    def has_room(self, length: int) -> bool:
        """Whether ``length`` more bytes may be spilled."""
        return self.size_bytes + length <= self._limit

    @property
    def last_number(self) -> int:
        """Of all records so far."""
        return self._number

    def next_number(self) -> int:
        """A fresh record number."""
        self._number += 1
        return self._number

    def append(self, ino: InodeId, offset: int, buffers: Sequence[Buffer]) -> Spilled:
        """Write the bytes of ``ino`` at ``offset``. Raises NoRoom when the cache disk is full."""
        length, crc = 0, 0
        for buffer in buffers:
            length += len(buffer)
            crc = crc32c(buffer, crc)
        self._open_segment(length)
        position = self._position
        self._write(buffers, length)
        record = Spilled(ino, self._current, position, offset, length, crc, self.next_number())
        self._keep(record)
        return record

    def adopt(self, record: Spilled) -> None:
        """A record found in the journal at start."""
        self._number = max(self._number, record.number)
        if not record.forgets:
            self._keep(record)

    def read(self, record: Spilled) -> bytes:
        """The bytes of ``record``. Raises ChunkFault(DAMAGED) if they are missing or fail their checksum."""
        try:
            data = os.pread(self._reading(record.segment), record.length, record.position)
        except OSError as error:
            raise _lost(record, str(error)) from error
        if len(data) != record.length or crc32c(data) != record.crc:
            raise _lost(record, "the bytes fail their checksum")
        return data

    def release(self, ino: InodeId, through: int) -> None:
        """Records of ``ino`` numbered ``through`` or lower will never be replayed again."""
        records = self._records.get(ino)
        if not records:
            return
        kept = [record for record in records if record.number > through]
        if kept:
            self._records[ino] = kept
        else:
            del self._records[ino]
        for record in records:
            if record.number <= through:
                self._lives[record.segment] -= 1
                self._remove_if_dead(record.segment)

    def records(self, ino: InodeId) -> Sequence[Spilled]:
        """The records of ``ino`` that have not been released, oldest first."""
        return self._records.get(ino, ())

    def inodes(self) -> list[InodeId]:
        """Those that have records."""
        return list(self._records)

    def sweep(self) -> None:
        """After recovery: remove the segments that no record names."""
        self._old = 0
        for segment in list(self._sizes):
            self._remove_if_dead(segment)

    def close(self) -> None:
        """Close the files; they stay."""
        for fd in [self._fd, *self._read_fds.values()]:
            if fd >= 0:
                os.close(fd)
        self._fd = -1
        self._read_fds.clear()

    # --- inside ---------------------------------------------------------------------------------------

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:08d}.spill"

    def _keep(self, record: Spilled) -> None:
        self._records.setdefault(record.ino, []).append(record)
        self._lives[record.segment] = self._lives.get(record.segment, 0) + 1

    def _open_segment(self, length: int) -> None:
        if self._fd >= 0 and self._position + length <= SEGMENT_BYTES:
            return
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._remove_if_dead(self._current)
        self._current += 1
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self._path(self._current), flags, 0o600)
        except OSError as error:
            raise NoRoom(Code.NO_SPACE, f"cannot open a spill file in {self._folder}: {error}") from error
        self._position = self._sizes[self._current] = 0

    def _write(self, buffers: Sequence[Buffer], length: int) -> None:
        written = 0
        rest = [buffer for buffer in buffers if len(buffer)]
        try:
            while rest:
                count = os.writev(self._fd, rest[:IOV_MAX])
                written += count
                rest = list(_after(rest, count))
        except OSError as error:
            os.ftruncate(self._fd, self._position)
            raise NoRoom(Code.NO_SPACE, f"the cache disk under {self._folder} is full: {error}") from error
        self._position += length
        self._sizes[self._current] = self._position

    def _reading(self, segment: int) -> int:
        fd = self._read_fds.get(segment)
        if fd is None:
            while len(self._read_fds) >= 64:
                os.close(self._read_fds.pop(next(iter(self._read_fds))))
            fd = self._read_fds[segment] = os.open(self._path(segment), os.O_RDONLY | os.O_CLOEXEC)
        return fd

    def _remove_if_dead(self, segment: int) -> None:
        if self._lives.get(segment) or segment not in self._sizes or segment <= self._old:
            return
        if segment == self._current and self._fd >= 0:
            if self._position < EMPTY_BYTES:
                return
            os.close(self._fd)
            self._fd = -1
        fd = self._read_fds.pop(segment, None)
        if fd is not None:
            os.close(fd)
        self._lives.pop(segment, None)
        del self._sizes[segment]
        self._path(segment).unlink(missing_ok=True)


def _number_of(path: Path) -> int:
    return int(path.stem) if path.stem.isdigit() else 0


def _after(buffers: Iterable[Buffer], count: int) -> Iterable[Buffer]:
    """What is left of ``buffers`` after the first ``count`` bytes."""
    for buffer in buffers:
        if count >= len(buffer):
            count -= len(buffer)
        else:
            yield memoryview(buffer)[count:] if count else buffer
            count = 0


def _lost(record: Spilled, why: str) -> ChunkFault:
    return ChunkFault(
        Code.DAMAGED,
        f"bytes {record.offset}..{record.end} of inode {record.ino} are lost from spill segment "
        f"{record.segment}: {why}",
    )
