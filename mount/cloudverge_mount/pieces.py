"""The values a dirty map is made of: pieces, and what goes in and out of the map. See ``dirty`` for their life."""

from typing import NamedTuple

from cloudverge_mount.spillrecord import Spilled
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.inodes import Extents

STUCK = -1  # the flight of a stuck piece


class Piece:
    """Dirty bytes [start, end) of a file; see the module's text for the states."""

    __slots__ = ("at", "base", "chunk", "data", "end", "flight", "floor", "record", "seq", "start", "weight")

    def __init__(self, start: int, end: int, data: Buffer | None, base: int, seq: int, weight: int) -> None:
        self.start = start
        self.end = end
        self.data = data  # the byte at file offset ``base`` is data[0]; None: only in the spill
        self.base = base
        self.seq = seq
        self.weight = weight
        self.flight = 0
        self.chunk = 0
        self.at = 0
        self.floor = 0
        self.record: Spilled | None = None

    def view(self, start: int, end: int) -> Buffer:
        """The bytes [start, end) of this piece; its data must be in RAM."""
        data, base = self.data, self.base
        assert data is not None
        if start == base and end - start == len(data):
            return data
        return memoryview(data)[start - base : end - base]

    def part(self, start: int, end: int, weight: int) -> "Piece":
        """A piece of the same state for [start, end) of this one, sharing its data."""
        part = Piece(start, end, self.data, self.base, self.seq, weight)
        part.flight, part.chunk, part.floor, part.record = self.flight, self.chunk, self.floor, self.record
        if self.chunk:
            part.at = self.at + start - self.start
        return part

    def trimmed(self, start: int, end: int) -> "Piece":
        """What stays of this piece when the rest of it goes: copied out of a buffer that is mostly waste."""
        if self.data is None or (end - start) * 2 >= self.weight:
            return self.part(start, end, self.weight)
        part = self.part(start, end, end - start)
        part.data, part.base = bytes(self.view(start, end)), start
        return part


class Taken(NamedTuple):
    """A range that goes into a parcel; ``piece`` was the piece at that moment (for its bytes)."""

    start: int
    end: int
    piece: Piece


class Landing(NamedTuple):
    """A taken range and where it came to lie in the chunk."""

    start: int
    end: int
    at: int


class Report(NamedTuple):
    """Landed ranges taken out of the map, as ``Sink.enter_write`` wants them; ``pieces`` puts them back."""

    extents: Extents
    durable_below: int
    spilled_through: int
    pieces: list[Piece]
