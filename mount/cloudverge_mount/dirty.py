"""The dirty map of one file: its bytes that no Write of the journal names yet. Pure: no I/O, no clock.

A file's dirty bytes are *pieces*: sorted, never overlapping, each the bytes of one write call or a part of
them. A piece is in one of these states:

- *unsent*: nobody is uploading it;
- *flying*: it went out in the parcel numbered ``flight``;
- *stuck*: a flying piece whose spilled bytes turned out to be lost; it can only be overwritten or forgotten;
- *landed*: it is fsynced on every replica of ``chunk`` (at ``at``), but not entered as a Write yet.

Overwriting, cutting and dropping act on the map at once, whatever flies. A parcel that comes home settles
only pieces that still carry its flight number, so bytes overwritten under way are never entered in place of
the newer ones. Trimming a piece gives new pieces of the same state; numbers of flights are never reused.

*Reporting* takes landed pieces out as extents. A piece that lies beyond the journaled size may be reported
only when all dirty bytes below it have landed (and go in this report or an earlier one): a committed size
never passes the end of data below which all is durable.

*Spill*. A piece that was closed carries its spill ``record``; its RAM may be given back (``data`` is None).
``floor`` is the lowest record number that must stay replayable while this piece is not entered: its own once
it is spilled; for younger bytes over a spilled piece, that of the piece they hide, because a crash now must
find the older bytes. Records below every floor are superseded.

Accounting: ``size`` counts dirty bytes, ``unsent`` those in the first state, ``weight`` the RAM held (a trimmed
piece may keep a buffer of up to twice its length; beyond that the rest is copied out).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from cloudverge_mount.pieces import STUCK, Landing, Piece, Report, Taken
from cloudverge_mount.spillrecord import Spilled
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.ids import FILE_BYTES_MAX, ChunkId, InodeId
from cloudverge_protocol.inodes import Extent


class DirtyFile:
    """The dirty map of ``ino``."""

    __slots__ = (
        "_hint", "_pieces", "_starts", "_stuck", "ino", "landed_count", "last_record", "size", "unsent",
        "unspilled", "weight",
    )  # fmt: skip

    def __init__(self, ino: InodeId) -> None:
        self.ino = ino
        self.size = 0
        self.unsent = 0
        self.unspilled = 0  # pieces without a record
        self.weight = 0
        self.landed_count = 0  # pieces landed and not reported
        self.last_record = 0  # highest record number given to this file
        self._pieces: list[Piece] = []
        self._starts: list[int] = []
        self._stuck = False
        self._hint = 0  # no unsent byte lies below this offset

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    # --- what programs do -----------------------------------------------------------------------------

    def write(self, offset: int, data: Buffer, seq: int) -> None:
        """The bytes at ``offset`` are now ``data``; ``seq`` numbers the write and grows."""
        end = offset + len(data)
        piece = Piece(offset, end, data, offset, seq, len(data))
        if not self._pieces or offset >= self._pieces[-1].end:
            self._pieces.append(piece)
            self._starts.append(offset)
        else:
            piece.floor = self._replace(offset, end, [piece])
        self._count(piece)
        self._hint = min(self._hint, offset)

    def forget(self, start: int, end: int = FILE_BYTES_MAX) -> bool:
        """Forget the bytes [start, end). True if a spill record could bring some of them back at a replay."""
        if not self._pieces or start >= self._pieces[-1].end:
            return False
        return self._replace(start, end, []) > 0

    def overlapping(self, start: int, end: int) -> list[Piece]:
        """The pieces that hold some of [start, end), in order."""
        low, high = self._span(start, end)
        return self._pieces[low:high]

    def settled_through(self, seq: int) -> bool:
        """Whether no byte written at or before ``seq`` is dirty any more."""
        return all(piece.seq > seq for piece in self._pieces)

    # --- upload ---------------------------------------------------------------------------------------

    def take(self, limit: int, flight: int) -> list[Taken]:
        """Let up to ``limit`` unsent bytes fly, lowest offsets first."""
        taken: list[Taken] = []
        index = self._span(self._hint, FILE_BYTES_MAX)[0]
        while limit > 0 and index < len(self._pieces) and self.unsent:
            piece = self._pieces[index]
            if not piece.flight and not piece.chunk:
                if piece.end - piece.start > limit:
                    self._split(index, piece.start + limit)
                    piece = self._pieces[index]
                length = piece.end - piece.start
                piece.flight = flight
                self.unsent -= length
                limit -= length
                taken.append(Taken(piece.start, piece.end, piece))
            self._hint = piece.end
            index += 1
        return taken

    def land(self, flight: int, chunk: ChunkId, landings: Iterable[Landing]) -> None:
        """What still is current of these ranges has landed in ``chunk``."""
        for start, end, at in landings:
            for piece in self.overlapping(start, end):
                if piece.flight == flight:
                    piece.flight = 0
                    piece.chunk, piece.at = chunk, at + piece.start - start
                    self.landed_count += 1

    def ground(self, flight: int, taken: Iterable[tuple[int, int]]) -> None:
        """The parcel is lost: what still is current of these ranges is unsent again."""
        for start, end in taken:
            for piece in self.overlapping(start, end):
                if piece.flight == flight:
                    piece.flight = 0
                    self._unsend(piece)

    def strand(self, flight: int, start: int, end: int) -> None:
        """The bytes of this part of a parcel are lost from the spill: they will never land."""
        for piece in self.overlapping(start, end):
            if piece.flight == flight:
                piece.flight = STUCK
                self._stuck = True

    def is_stuck(self) -> bool:
        """Whether there are bytes that can never be entered."""
        return self._stuck and any(piece.flight == STUCK for piece in self._pieces)

    def lift(self) -> None:
        """Landed pieces may no longer be named (their chunk's incarnation has ended): unsent again."""
        for piece in self._pieces:
            if piece.chunk:
                piece.chunk = 0
                self.landed_count -= 1
                self._unsend(piece)

    def lands_in(self, chunk: int) -> bool:
        """Whether a piece that landed in ``chunk`` waits to be reported."""
        return self.landed_count > 0 and any(piece.chunk == chunk for piece in self._pieces)

    def report(self, journaled_size: int, limit: int) -> Report | None:
        """Take out what may be entered now, at most ``limit`` extents; None if there is nothing."""
        if not self.landed_count:
            return None
        chosen, rest, extents = self._choose(journaled_size, limit)
        if not chosen:
            return None
        self._pieces, self._starts = rest, [piece.start for piece in rest]
        for piece in chosen:
            self._uncount(piece)
        below = rest[0].start if rest else FILE_BYTES_MAX
        return Report(tuple(extents), below, self.spilled_through(), chosen)

    def unreport(self, report: Report) -> None:
        """The report could not be entered: as if it had not been taken. Nothing may have happened between."""
        for piece in report.pieces:
            index = bisect_left(self._starts, piece.start)
            self._pieces.insert(index, piece)
            self._starts.insert(index, piece.start)
            self._count(piece)

    # --- spill ----------------------------------------------------------------------------------------

    def to_spill(self) -> list[Piece]:
        """The pieces without a record, in order."""
        return [piece for piece in self._pieces if piece.record is None] if self.unspilled else []

    def spilled(self, pieces: Iterable[Piece], record: Spilled) -> None:
        """These pieces of the map (together the range of ``record``) lie in the spill now."""
        for piece in pieces:
            assert piece.record is None
            piece.record, piece.floor = record, record.number
            self.unspilled -= 1
        self.last_record = record.number

    def release(self) -> int:
        """Give back the RAM of unsent and landed pieces that lie in the spill; how many bytes that was."""
        before = self.weight
        for piece in self._pieces:
            if piece.record is not None and not piece.flight and piece.data is not None:
                self.weight -= piece.weight
                piece.data, piece.weight = None, 0
        return before - self.weight

    def restore(self, record: Spilled) -> None:
        """Replay a record: its range is dirty, its bytes in the spill; or forget what it takes back."""
        self.last_record = max(self.last_record, record.number)
        self.forget(record.offset, record.end)
        if record.forgets:
            return
        piece = Piece(record.offset, record.end, None, record.offset, 0, 0)
        piece.record, piece.floor = record, record.number
        index = bisect_left(self._starts, piece.start)
        self._pieces.insert(index, piece)
        self._starts.insert(index, piece.start)
        self._count(piece)
        self._hint = min(self._hint, piece.start)

    def spilled_through(self) -> int:
        """Records of this file numbered this or lower are superseded by what has been entered or forgotten."""
        if not self.last_record:
            return 0
        floors = [piece.floor for piece in self._pieces if piece.floor]
        return min(floors) - 1 if floors else self.last_record

    # --- inside ---------------------------------------------------------------------------------------

    def _span(self, start: int, end: int) -> tuple[int, int]:
        """Indices [low, high) of the pieces that overlap [start, end)."""
        low = bisect_right(self._starts, start) - 1
        if low < 0 or self._pieces[low].end <= start:
            low += 1
        return low, max(low, bisect_left(self._starts, end, low))

    def _replace(self, start: int, end: int, new: list[Piece]) -> int:
        """Put ``new`` in the place of [start, end); the lowest floor of what went (0: none)."""
        low, high = self._span(start, end)
        gone = self._pieces[low:high]
        if not gone:
            self._pieces[low:low] = new
            self._starts[low:low] = [piece.start for piece in new]
            return 0
        kept_left, kept_right = [], []
        if gone[0].start < start:
            kept_left.append(gone[0].trimmed(gone[0].start, start))
        if gone[-1].end > end:
            kept_right.append(gone[-1].trimmed(end, gone[-1].end))
        for piece in gone:
            self._uncount(piece)
        for piece in kept_left + kept_right:
            self._count(piece)
        now = kept_left + new + kept_right
        self._pieces[low:high] = now
        self._starts[low:high] = [piece.start for piece in now]
        return min((piece.floor for piece in gone if piece.floor), default=0)

    def _split(self, index: int, at: int) -> None:
        """Cut the piece at ``index`` in two at offset ``at``; nothing is lost."""
        piece = self._pieces[index]
        left_weight = min(piece.weight, at - piece.start)
        halves = [
            piece.part(piece.start, at, left_weight),
            piece.part(at, piece.end, piece.weight - left_weight),
        ]
        self._uncount(piece)
        for half in halves:
            self._count(half)
        self._pieces[index : index + 1] = halves
        self._starts[index : index + 1] = [half.start for half in halves]

    def _count(self, piece: Piece) -> None:
        length = piece.end - piece.start
        self.size += length
        self.weight += piece.weight
        if piece.chunk:
            self.landed_count += 1
        elif not piece.flight:
            self.unsent += length
        if piece.record is None:
            self.unspilled += 1

    def _uncount(self, piece: Piece) -> None:
        length = piece.end - piece.start
        self.size -= length
        self.weight -= piece.weight
        if piece.chunk:
            self.landed_count -= 1
        elif not piece.flight:
            self.unsent -= length
        if piece.record is None:
            self.unspilled -= 1

    def _unsend(self, piece: Piece) -> None:
        self.unsent += piece.end - piece.start
        self._hint = min(self._hint, piece.start)

    def _choose(self, journaled_size: int, limit: int) -> tuple[list[Piece], list[Piece], list[Extent]]:
        """Which landed pieces may be reported (as merged extents), and what stays."""
        chosen: list[Piece] = []
        rest: list[Piece] = []
        runs: list[list[int]] = []  # start, end, chunk, at
        clear = True  # nothing that stays lies below
        for piece in self._pieces:
            if not piece.chunk or not (clear or piece.end <= journaled_size):
                rest.append(piece)
                clear = False
                continue
            run = runs[-1] if runs else None
            if (
                run is not None
                and run[1] == piece.start
                and run[2] == piece.chunk
                and run[3] + run[1] - run[0] == piece.at
            ):
                run[1] = piece.end
            elif len(runs) < limit:
                runs.append([piece.start, piece.end, piece.chunk, piece.at])
            else:
                rest.append(piece)
                clear = False
                continue
            chosen.append(piece)
        return chosen, rest, [Extent(s, e - s, ChunkId(chunk), at) for s, e, chunk, at in runs]
