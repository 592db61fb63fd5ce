"""The dirty map against a naive model of bytes: writes, cuts, parcels that land late or are lost, spill, crash."""

from typing import NamedTuple

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from cloudverge_mount.dirty import DirtyFile
from cloudverge_mount.pieces import Landing
from cloudverge_mount.spillrecord import Spilled, forgotten
from cloudverge_protocol.ids import FILE_BYTES_MAX, ChunkId, InodeId

SPAN = 96
INO = InodeId(7)


class Flight(NamedTuple):
    number: int
    ranges: tuple[tuple[int, int], ...]
    chunk: int
    at: int


class Journal:
    """What a crash leaves: spill records with their bytes, Writes and cuts, in order."""

    def __init__(self):
        self.lines = []
        self.bytes_of = {}


class DirtyMachine(RuleBasedStateMachine):
    flights = Bundle("flights")

    def __init__(self):
        super().__init__()
        self.file = DirtyFile(INO)
        self.seq = 0
        self.flight = 0
        self.record = 0
        self.model = {}  # offset -> value as programs see it
        self.allowed = {}  # offset -> values a crash may show
        self.committed = {}
        self.size = 0
        self.journaled_size = 0
        self.chunk = bytearray()
        self.journal = Journal()

    # --- programs

    @rule(offset=st.integers(0, SPAN), length=st.integers(1, 40))
    def write(self, offset, length):
        self.seq += 1
        value = self.seq % 250 + 1
        self.file.write(offset, bytes([value]) * length, self.seq)
        for at in range(offset, offset + length):
            self.model[at] = value
            self.allowed.setdefault(at, {0}).add(value)
        self.size = max(self.size, offset + length)

    @rule(size=st.integers(0, SPAN))
    def cut(self, size):
        if self.file.forget(size):
            self.record += 1
            self.file.last_record = self.record
            self.journal.lines.append(("spill", forgotten(INO, size, FILE_BYTES_MAX, self.record)))
        if size < self.journaled_size:
            self.journal.lines.append(("cut", size))
            self.journaled_size = size
        for held in (self.model, self.committed, self.allowed):
            for at in [at for at in held if at >= size]:
                del held[at]
        self.size = min(self.size, size)

    @rule(start=st.integers(0, SPAN), length=st.integers(1, 40))
    def punch(self, start, length):
        end = start + length
        self.journal.lines.append(("hole", start, end))
        if self.file.forget(start, end):
            self.record += 1
            self.file.last_record = self.record
            self.journal.lines.append(("spill", forgotten(INO, start, end, self.record)))
        for held in (self.model, self.committed, self.allowed):
            for at in [at for at in held if start <= at < end]:
                del held[at]

    @rule()
    def close(self):
        group = []
        for piece in [*self.file.to_spill(), None]:
            if group and (piece is None or piece.start != group[-1].end):
                data = b"".join(bytes(p.view(p.start, p.end)) for p in group)
                self.record += 1
                record = Spilled(INO, 1, 0, group[0].start, len(data), 0, self.record)
                self.journal.bytes_of[self.record] = data
                self.file.spilled(group, record)
                self.journal.lines.append(("spill", record))
                group = []
            if piece is not None:
                group.append(piece)
        self.allowed = {at: {value} for at, value in self.model.items()}

    @rule()
    def release(self):
        self.file.release()

    # --- uploads

    @rule(target=flights, limit=st.integers(1, 60))
    def take(self, limit):
        self.flight += 1
        taken = self.file.take(limit, self.flight)
        assert sum(t.end - t.start for t in taken) <= limit
        at = len(self.chunk)
        for start, end, piece in taken:
            self.chunk += self.bytes_in(piece, start, end)
        return Flight(self.flight, tuple((t.start, t.end) for t in taken), 3, at)

    @rule(flight=consumes(flights))
    def land(self, flight):
        at, landings = flight.at, []
        for start, end in flight.ranges:
            landings.append(Landing(start, end, at))
            at += end - start
        self.file.land(flight.number, ChunkId(flight.chunk), landings)

    @rule(flight=consumes(flights))
    def lose(self, flight):
        self.file.ground(flight.number, flight.ranges)

    @rule(limit=st.integers(1, 60))
    def upload(self, limit):
        self.land(self.take(limit))
        self.report(5, False)

    @rule()
    def lift(self):
        self.file.lift()

    @rule(limit=st.integers(1, 5), refused=st.booleans())
    def report(self, limit, refused):
        report = self.file.report(self.journaled_size, limit)
        if report is None:
            return
        assert len(report.extents) <= limit
        ends = 0
        for extent in report.extents:
            assert extent.offset >= ends
            ends = extent.end
            assert extent.end <= max(self.journaled_size, report.durable_below)
        if refused:
            self.file.unreport(report)
            return
        assert all(piece.start >= report.durable_below for piece in self.file)
        for extent in report.extents:
            data = self.chunk[extent.chunk_offset : extent.chunk_offset + extent.length]
            for index, value in enumerate(data):
                self.committed[extent.offset + index] = value
        self.journaled_size = max(self.journaled_size, min(self.size, report.durable_below))
        self.journal.lines.append(("write", report, dict(self.committed)))

    # --- checks

    def bytes_in(self, piece, start, end):
        if piece.data is not None:
            return bytes(piece.view(start, end))
        data = self.journal.bytes_of[piece.record.number]
        return data[start - piece.record.offset : end - piece.record.offset]

    @invariant()
    def dirty_over_committed_is_what_was_written(self):
        seen = dict(self.committed)
        previous = 0
        for piece in self.file:
            assert previous <= piece.start < piece.end
            previous = piece.end
            for index, value in enumerate(self.bytes_in(piece, piece.start, piece.end)):
                seen[piece.start + index] = value
        assert {at: value for at, value in seen.items() if value} == self.model

    @invariant()
    def counters_agree_with_the_pieces(self):
        pieces = list(self.file)
        assert self.file.size == sum(p.end - p.start for p in pieces)
        unsent = [p for p in pieces if not p.flight and not p.chunk]
        assert self.file.unsent == sum(p.end - p.start for p in unsent)
        assert self.file.landed_count == sum(1 for p in pieces if p.chunk)
        assert self.file.unspilled == sum(1 for p in pieces if p.record is None)
        assert self.file.weight == sum(p.weight for p in pieces)
        assert all(p.weight == 0 for p in pieces if p.data is None)

    @invariant()
    def a_crash_shows_nothing_older_than_the_last_close(self):
        file, committed = DirtyFile(INO), {}
        through = max([0, *(line[1].spilled_through for line in self.journal.lines if line[0] == "write")])
        for line in self.journal.lines:
            if line[0] == "spill" and line[1].number > through:
                file.restore(line[1])
            elif line[0] == "cut":
                file.forget(line[1])
                committed = {at: value for at, value in committed.items() if at < line[1]}
            elif line[0] == "hole":
                file.forget(line[1], line[2])
                committed = {at: value for at, value in committed.items() if not line[1] <= at < line[2]}
            elif line[0] == "write":
                committed = dict(line[2])
                for extent in line[1].extents:
                    file.forget(extent.offset, extent.end)
        seen = dict(committed)
        for piece in file:
            for index, value in enumerate(self.bytes_in(piece, piece.start, piece.end)):
                seen[piece.start + index] = value
        for at, values in self.allowed.items():
            assert seen.get(at, 0) in values, at
        assert set(at for at, value in seen.items() if value) <= set(self.allowed)

    @precondition(lambda self: self.file.unsent)
    @invariant()
    def what_is_unsent_can_be_taken(self):
        assert self.file.unsent > 0


TestDirtyFile = DirtyMachine.TestCase
TestDirtyFile.settings = settings(max_examples=150, stateful_step_count=40)


def test_everything_unsent_is_found_by_taking():
    file = DirtyFile(INO)
    for seq, offset in enumerate((500, 100, 300, 100, 0), 1):
        file.write(offset, bytes(50), seq)
    taken = file.take(10_000, 1)
    assert [(t.start, t.end) for t in taken] == [(0, 50), (100, 150), (300, 350), (500, 550)]
    assert file.unsent == 0
    file.ground(1, [(300, 350)])
    assert [(t.start, t.end) for t in file.take(10_000, 2)] == [(300, 350)]


def test_bytes_overwritten_under_way_are_not_entered_in_place_of_the_newer_ones():
    file = DirtyFile(INO)
    file.write(0, b"a" * 100, 1)
    file.take(1000, 1)
    file.write(40, b"b" * 20, 2)
    file.land(1, ChunkId(9), [Landing(0, 100, 1000)])
    report = file.report(100, 10)
    assert report is not None
    assert [(e.offset, e.length, e.chunk_offset) for e in report.extents] == [(0, 40, 1000), (60, 40, 1060)]
    assert report.durable_below == 40
    assert [(p.start, p.end) for p in file] == [(40, 60)]


def test_bytes_beyond_the_journaled_size_wait_for_those_below():
    file = DirtyFile(INO)
    file.write(0, b"a" * 100, 1)
    file.write(100, b"b" * 100, 2)
    file.take(100, 1)
    file.take(100, 2)
    file.land(2, ChunkId(9), [Landing(100, 200, 0)])
    assert file.report(0, 10) is None
    file.land(1, ChunkId(9), [Landing(0, 100, 100)])
    report = file.report(0, 10)
    assert report is not None
    assert report.durable_below == FILE_BYTES_MAX
    assert len(report.extents) == 2


def test_a_small_rest_of_a_large_buffer_does_not_keep_it_alive():
    file = DirtyFile(INO)
    file.write(0, bytes(1 << 20), 1)
    file.write(4096, bytes((1 << 20) - 8192), 2)
    assert [p.end - p.start for p in file] == [4096, (1 << 20) - 8192, 4096]
    assert file.weight == 1 << 20
