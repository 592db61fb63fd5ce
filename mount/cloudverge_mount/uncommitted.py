"""Bytes whose Write has entered but is not committed: kept for their author, should the right to the space end first.

They are durable on the servers and named by the journal, so a crash loses none of them; but when the right ends before
the Write is committed, they are in nobody's file, and cannot be had back from the servers either. ``salvage`` finds
them here. Bytes that lie in the spill stay there until then anyway; these are of files that were not closed.

The names side counts entries: a Write is tagged with how many there were once it had its place, and may be forgotten
when as many are settled. One that waits for other operations has no place yet; it gets its tag when nothing waits any
more.

A commit follows within a fraction of a second, and ``crowded`` asks for it sooner; only when the metaserver is slow or
away comes more than RAM_BYTES together. That goes to a file without a name. What does not fit there is lost to salvage.
"""

import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from cloudverge_mount.pieces import Piece
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.ids import InodeId

CROWDED_BYTES: Final = 8 << 20
RAM_BYTES: Final = 24 << 20
OVERHEAD_BYTES: Final = 256  # of a piece, about

_log = structlog.get_logger(__name__)


class _Kept(NamedTuple):
    after: int  # number of the last spill record before it
    offset: int
    length: int
    data: Buffer | None  # None: in the file
    position: int = 0


class _Batch(NamedTuple):
    tag: int
    ino: InodeId
    weight: int  # in RAM
    kept: list[_Kept]


class Uncommitted:
    """Its file, if there must be one, lies in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._batches: deque[_Batch] = deque()
        self._placeless: list[_Batch] = []
        self._fd = -1
        self._position = 0
        self.ram_bytes = 0

    @property
    def crowded(self) -> bool:
        """Whether a commit would be welcome now."""
        return self.ram_bytes > CROWDED_BYTES

    def keep(self, ino: InodeId, pieces: Iterable[Piece], tag: int, after: int) -> None:
        """These pieces have entered, as one of the first ``tag`` entries (0: it has no place yet).

        Spill records of the file numbered ``after`` or lower are older than they are, others younger.
        """
        kept: list[_Kept] = []
        weight = 0
        for piece in pieces:
            if piece.record is None:
                length = piece.end - piece.start
                data = piece.view(piece.start, piece.end)
                if self.ram_bytes + weight + length + OVERHEAD_BYTES <= RAM_BYTES:
                    weight += length + OVERHEAD_BYTES
                    kept.append(_Kept(after, piece.start, length, data))
                elif (position := self._store(data)) is not None:
                    kept.append(_Kept(after, piece.start, length, None, position))
        if kept:
            self.ram_bytes += weight
            (self._batches if tag else self._placeless).append(_Batch(tag, ino, weight, kept))

    def _store(self, data: Buffer) -> int | None:
        """Where in the file these bytes are now; None if it cannot take them."""
        try:
            if self._fd < 0:
                with tempfile.TemporaryFile(dir=self._folder, buffering=0) as file:
                    self._fd = os.dup(file.fileno())
            if os.pwrite(self._fd, data, self._position) < len(data):
                raise OSError("short write")
        except OSError as error:
            _log.warning("bytes that wait for their commit cannot be kept aside", reason=str(error))
            return None
        self._position += len(data)
        return self._position - len(data)

    def settled(self, settled: int, given: int, waiting: bool) -> None:
        """So many entries are settled, of so many that have a place; ``waiting``: operations wait for theirs."""
        if self._placeless and not waiting:
            self._batches.extend(batch._replace(tag=given) for batch in self._placeless)
            self._placeless.clear()
        batches = self._batches
        while batches and batches[0].tag <= settled:
            self.ram_bytes -= batches.popleft().weight
        if self._position and not batches and not self._placeless:
            os.ftruncate(self._fd, 0)
            self._position = 0

    def inodes(self) -> set[InodeId]:
        """The files that have such bytes."""
        return {batch.ino for batch in self._all()}

    def pieces(self, ino: InodeId) -> Iterator[tuple[int, int, bytes]]:
        """Those of a file, older ones first: number of the last spill record before them, offset, bytes."""
        for batch in self._all():
            if batch.ino == ino:
                for kept in batch.kept:
                    yield kept.after, kept.offset, self._bytes_of(kept)

    def _all(self) -> Iterator[_Batch]:
        yield from self._batches
        yield from self._placeless

    def _bytes_of(self, kept: _Kept) -> bytes:
        return os.pread(self._fd, kept.length, kept.position) if kept.data is None else bytes(kept.data)

    def close(self) -> None:
        """Let go of everything."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._batches.clear()
        self._placeless.clear()
