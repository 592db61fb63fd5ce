"""The journal file: what was written comes back, whatever a crash or a bad disk left of its end."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_mount import journal as journals
from cloudverge_mount.journal import Journal
from cloudverge_mount.records import ENTRY, FORMAT, HEADER, HeaderRecord, frame, unframe
from cloudverge_protocol.errors import NoRoom


def header(valid_end: int) -> HeaderRecord:
    return HeaderRecord(FORMAT, "c", "h", 1, 1, valid_end)


def payloads(journal: Journal) -> list[bytes]:
    return [bytes(found.payload) for found in journal.replay() if found.kind != HEADER]


@pytest.fixture
def journal(tmp_path):
    held = Journal(tmp_path, header)
    yield held
    held.close()


def again(journal: Journal, tmp_path) -> Journal:
    journal.close()
    return Journal(tmp_path, header)


def test_records_come_back_in_order_from_the_same_positions(journal, tmp_path) -> None:
    for number in range(10):
        journal.append(ENTRY, b"%d" % number)
    end = journal.end
    later = again(journal, tmp_path)
    assert payloads(later) == [b"%d" % number for number in range(10)]
    assert later.end == end
    positions = [found.position for found in later.scan(0)]
    assert positions == sorted(set(positions))
    assert next(bytes(found.payload) for found in later.scan(positions[5])) == b"4"


def test_a_start_begins_a_new_segment(journal, tmp_path) -> None:
    journal.append(ENTRY, b"one")
    later = again(journal, tmp_path)
    assert payloads(later) == [b"one"]
    later.append(ENTRY, b"two")
    assert later.segment == 2
    last = again(later, tmp_path)
    assert payloads(last) == [b"one", b"two"]


def test_a_torn_last_record_is_left_out_and_what_a_later_start_wrote_is_read(journal, tmp_path) -> None:
    journal.append(ENTRY, b"kept")
    journal.append(ENTRY, b"torn")
    journal.close()
    path = tmp_path / "00000001.log"
    path.write_bytes(path.read_bytes()[:-2])
    later = Journal(tmp_path, header)
    assert payloads(later) == [b"kept"]
    later.append(ENTRY, b"after")
    last = again(later, tmp_path)
    assert payloads(last) == [b"kept", b"after"]
    assert not last.damaged
    last.close()


def test_damage_inside_ends_the_journal_there_and_moves_the_rest_aside(journal, tmp_path) -> None:
    journal.append(ENTRY, b"kept")
    middle = journal.end & 0xFFFFFFFF
    journal.append(ENTRY, b"rotten")
    journal.append(ENTRY, b"built on it")
    later = again(journal, tmp_path)
    assert len(payloads(later)) == 3
    later.append(ENTRY, b"built on it too")
    later.close()
    path = tmp_path / "00000001.log"
    data = bytearray(path.read_bytes())
    data[middle + 10] ^= 1
    path.write_bytes(data)
    last = Journal(tmp_path, header)
    assert payloads(last) == [b"kept"]
    assert last.damaged
    assert [path.name for path in tmp_path.glob("*.damaged")] == ["00000002.damaged"]


def test_trimming_removes_old_segments_and_never_the_one_being_written(
    journal, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 64)
    for number in range(20):
        journal.append(ENTRY, b"record %d" % number)
    assert journal.segment > 5
    journal.trim(4)
    assert journal.first_segment == 4
    journal.trim(1 << 30)
    assert journal.first_segment == journal.segment
    assert journal.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.log"))
    first = payloads(again(journal, tmp_path))
    assert first[-1] == b"record 19"


def test_a_full_disk_leaves_no_trace_of_the_record(journal, tmp_path, monkeypatch) -> None:
    journal.append(ENTRY, b"kept")
    end, write = journal.end, os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
    with pytest.raises(NoRoom):
        journal.append(ENTRY, b"lost")
    monkeypatch.undo()
    assert journal.end == end
    journal.append(ENTRY, b"next")
    assert payloads(again(journal, tmp_path)) == [b"kept", b"next"]


@given(st.binary(max_size=200), st.integers(0, 250), st.integers(0, 7), st.integers(1, 9))
def test_no_flipped_bit_and_no_other_segment_passes_for_a_record(payload, at, bit, segment) -> None:
    data = bytearray(frame(3, ENTRY, payload))
    assert unframe(3, memoryview(data), 0) == (ENTRY, memoryview(payload), len(data))
    if segment != 3:
        assert unframe(segment, memoryview(data), 0) is None
    data[at % len(data)] ^= 1 << bit
    assert unframe(3, memoryview(data), 0) is None


@given(st.binary(max_size=100))
def test_garbage_is_no_record(data) -> None:
    assert unframe(1, memoryview(data), 0) is None or len(data) >= 9
