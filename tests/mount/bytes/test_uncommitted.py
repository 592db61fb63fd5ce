"""Bytes whose Write is not committed can be had until it is, however many they are."""

import os

import pytest

from cloudverge_mount import uncommitted
from cloudverge_mount.pieces import Piece
from cloudverge_mount.spillrecord import Spilled
from cloudverge_mount.uncommitted import Uncommitted
from cloudverge_protocol.ids import InodeId

INO, OTHER = InodeId(7), InodeId(8)


@pytest.fixture
def kept(tmp_path):
    made = Uncommitted(tmp_path)
    yield made
    made.close()


def piece(offset: int, data: bytes) -> Piece:
    return Piece(offset, offset + len(data), data, offset, 1, len(data))


def told(kept: Uncommitted, ino: InodeId = INO) -> list[tuple[int, bytes]]:
    return [(offset, data) for _, offset, data in kept.pieces(ino)]


def test_they_are_there_until_their_entry_is_settled_and_not_longer(kept):
    kept.keep(INO, [piece(0, b"one")], 4, 0)
    kept.keep(OTHER, [piece(9, b"two")], 5, 0)
    kept.settled(3, 5, False)
    assert kept.inodes() == {INO, OTHER}
    kept.settled(4, 5, False)
    assert told(kept) == []
    assert told(kept, OTHER) == [(9, b"two")]
    kept.settled(5, 5, False)
    assert kept.inodes() == set()
    assert kept.ram_bytes == 0


def test_what_waits_for_its_place_stays_until_all_that_had_one_by_then_is_settled(kept):
    kept.keep(INO, [piece(0, b"held")], 0, 0)
    kept.settled(100, 100, True)
    kept.settled(100, 103, False)  # it is one of these three, nobody knows which
    assert told(kept) == [(0, b"held")]
    kept.settled(102, 103, False)
    assert told(kept) == [(0, b"held")]
    kept.settled(103, 104, False)
    assert told(kept) == []


def test_bytes_in_the_spill_are_not_kept_twice(kept):
    spilled, fresh = piece(0, b"spilled"), piece(7, b"fresh")
    spilled.record = Spilled(INO, 1, 0, 0, 7, 0, 1)
    kept.keep(INO, [spilled, fresh], 1, 1)
    assert told(kept) == [(7, b"fresh")]


def test_what_does_not_fit_in_ram_lies_in_a_file_that_nobody_sees(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(uncommitted, "RAM_BYTES", 4000)
    bodies = [os.urandom(1000) for _ in range(20)]
    for number, body in enumerate(bodies):
        kept.keep(INO, [piece(number * 1000, body)], number + 1, 0)
    assert kept.ram_bytes <= 4000
    assert list(tmp_path.iterdir()) == []
    assert told(kept) == [(number * 1000, body) for number, body in enumerate(bodies)]
    kept.settled(20, 20, False)
    kept.keep(INO, [piece(0, b"again")], 21, 0)
    assert told(kept) == [(0, b"again")]


def test_a_full_disk_costs_no_more_than_what_does_not_fit(kept, monkeypatch):
    monkeypatch.setattr(uncommitted, "RAM_BYTES", 1500)
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    kept.keep(INO, [piece(0, b"a" * 1000), piece(1000, b"b" * 1000)], 1, 0)
    assert told(kept) == [(0, b"a" * 1000)]
