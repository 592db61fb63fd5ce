"""The journal file: append-only, checksummed segments; one write(2) for each record, before the answer.

A position is a number that grows: segment << 32 | offset. A start never appends to an old segment, it begins
a new one, whose header says up to where the old ones were whole; so a torn tail of a crash is told from
damage that came later, and a replay that meets such damage stops there: what follows was built on what is
lost. Segments are removed from the front only, and by the owner's word alone (``trim``): whether a segment
is still needed is not the journal's business.

A record that cannot be written whole (disk full) leaves no trace and raises NoRoom.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from cloudverge_mount.records import HEADER, HeaderRecord, encode, frame, unframe
from cloudverge_protocol.codec import decode
from cloudverge_protocol.errors import Code, NoRoom, ProtocolFault, Unavailable

SEGMENT_BYTES: Final = 8 * 1024 * 1024

_log = structlog.get_logger()


class Found(NamedTuple):
    """A record read back."""

    kind: int
    payload: memoryview
    position: int
    end: int


def segment_of(position: int) -> int:
    """The segment a position lies in."""
    return position >> 32


class Journal:
    """The segments in ``folder``; call ``replay`` before the first ``append``."""

    def __init__(self, folder: Path, header: Callable[[int], HeaderRecord]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._header = header
        self._fd = -1
        self._bytes = {segment: self._path(segment).stat().st_size for segment in self._segments_on_disk()}
        self.segment = max(self._bytes, default=0)
        self._offset = 0
        self.valid_end = 0  # up to where old segments are whole, known after a scan
        self.damaged = False  # a scan met damage inside: what followed was moved aside

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:08d}.log"

    def _segments_on_disk(self) -> list[int]:
        return sorted(int(path.stem) for path in self._folder.glob("*.log") if path.stem.isdigit())

    @property
    def end(self) -> int:
        """The position behind the last record."""
        return self.segment << 32 | self._offset if self._fd >= 0 else self.valid_end

    @property
    def first_segment(self) -> int:
        """The oldest segment there is (the next one to be, if there is none)."""
        return min(self._bytes, default=self.segment + 1)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return sum(self._bytes.values())

    # --- writing -----------------------------------------------------------------------------------------

    def append(self, kind: int, payload: bytes) -> int:
        """Write one record; the segment it went to."""
        if self._fd < 0 or self._offset >= SEGMENT_BYTES:
            self._begin()
        segment = self.segment
        self._write(frame(segment, kind, payload))
        return segment

    def _write(self, data: bytes) -> None:
        try:
            written = os.write(self._fd, data)
            if written != len(data):
                raise OSError(f"only {written} of {len(data)} bytes fitted")
        except OSError as error:
            self._take_back()
            raise NoRoom(Code.NO_SPACE, f"cannot write the journal in {self._folder}: {error}") from error
        self._offset += written
        self._bytes[self.segment] = self._offset

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._fd, self._offset)
        except OSError as error:  # nothing may follow a torn record
            self._close()
            self.valid_end = self.segment << 32 | self._offset
            raise Unavailable(Code.INTERNAL, f"the journal in {self._folder} is broken: {error}") from error

    def _begin(self) -> None:
        header = self._header(self.end)
        number = self.segment + 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            fd = os.open(self._path(number), flags, 0o600)
        except OSError as error:
            raise NoRoom(Code.NO_SPACE, f"cannot extend the journal in {self._folder}: {error}") from error
        self._close()
        self._fd, self.segment, self._offset = fd, number, 0
        self._write(frame(number, HEADER, encode(header)))

    def close(self) -> None:
        """Close the file; a later append would begin a new segment."""
        if self._fd >= 0:
            self.valid_end = self.end
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def trim(self, first_needed: int) -> None:
        """Remove the segments before ``first_needed``; never the one being written."""
        for segment in sorted(self._bytes):
            if segment >= min(first_needed, self.segment):
                return
            self._path(segment).unlink(missing_ok=True)
            del self._bytes[segment]

    # --- reading -----------------------------------------------------------------------------------------

    def replay(self) -> Iterator[Found]:
        """All records, for a recovery: finds ``valid_end`` and moves what cannot be trusted aside."""
        return self._scan(0, whole=True)

    def scan(self, position: int) -> Iterator[Found]:
        """The records from ``position`` on, in order."""
        return self._scan(position, whole=False)

    def _scan(self, position: int, whole: bool) -> Iterator[Found]:
        for segment in sorted(self._bytes):
            if segment < segment_of(position):
                continue
            start = position & 0xFFFFFFFF if segment == segment_of(position) else 0
            data = memoryview(self._path(segment).read_bytes())
            if whole and not self._follows(segment, data):
                self._move_aside(segment)
                return
            yield from self._records(segment, data, start)

    def _records(self, segment: int, data: memoryview, offset: int) -> Iterator[Found]:
        while (found := unframe(segment, data, offset)) is not None:
            kind, payload, end = found
            self.valid_end = max(self.valid_end, segment << 32 | end)
            yield Found(kind, payload, segment << 32 | offset, segment << 32 | end)
            offset = end

    def _follows(self, segment: int, data: memoryview) -> bool:
        """Whether this segment was begun on what the scan has found before it."""
        found = unframe(segment, data, 0)
        if found is None:
            return len(data) == 0 or segment == max(self._bytes)
        try:
            header = decode(HeaderRecord, found[1])
        except ProtocolFault:
            return False
        return self.valid_end == 0 or header.valid_end <= self.valid_end

    def _move_aside(self, first: int) -> None:
        self.damaged = True
        for segment in [number for number in self._bytes if number >= first]:
            path = self._path(segment)
            _log.error("the journal is damaged before this segment, it is set aside", segment=str(path))
            path.rename(path.with_suffix(".damaged"))
            del self._bytes[segment]
