"""What every disk promises (cloudverge_chunkserver.disk.Disk), on files and in memory."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudverge_chunkserver.disk import Disk, Part
from cloudverge_chunkserver.memdisk import MemDisk
from cloudverge_chunkserver.posixdisk import PosixDisk

CHUNK = 0x1234


@pytest.fixture(params=["files", "few descriptors", "memory"])
def disk(request, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "memory":
        made: Disk = MemDisk()
    else:
        made = PosixDisk(tmp_path, 1 if request.param == "few descriptors" else 100)
    yield made
    made.close()


def test_written_bytes_are_read_back_at_once(disk):
    disk.write(CHUNK, Part.DATA, 0, b"hello")
    disk.write(CHUNK, Part.DATA, 5, memoryview(bytearray(b" world")))
    assert bytes(disk.read(CHUNK, Part.DATA, 0, 11)) == b"hello world"
    assert bytes(disk.read(CHUNK, Part.DATA, 4, 3)) == b"o w"
    assert disk.size(CHUNK, Part.DATA) == 11


def test_a_read_past_the_end_is_short(disk):
    disk.write(CHUNK, Part.DATA, 0, b"hello")
    assert bytes(disk.read(CHUNK, Part.DATA, 3, 100)) == b"lo"
    assert bytes(disk.read(CHUNK, Part.DATA, 99, 100)) == b""


def test_a_read_at_once_is_right_or_says_that_it_would_wait(disk):
    disk.write(CHUNK, Part.DATA, 0, bytes(range(256)))
    data = disk.read_at_once(CHUNK, Part.DATA, 10, 100)
    assert data is None or bytes(data) == bytes(range(10, 110))
    short = disk.read_at_once(CHUNK, Part.DATA, 200, 100)
    assert short is None or bytes(short) == bytes(range(200, 256))


def test_an_absent_file_is_said_to_be_absent(disk):
    for call in (
        lambda: disk.read(CHUNK, Part.DATA, 0, 1),
        lambda: disk.read_at_once(CHUNK, Part.DATA, 0, 1),
        lambda: disk.size(CHUNK, Part.DATA),
    ):
        with pytest.raises(FileNotFoundError):
            call()
    disk.sync(CHUNK, Part.DATA, Part.LOG)
    disk.remove(CHUNK, Part.DATA)


def test_parts_and_chunks_are_apart(disk):
    for chunk in (CHUNK, CHUNK + 256, CHUNK + 1):
        for part in (Part.DATA, Part.LOG):
            disk.write(chunk, part, 0, f"{chunk}.{part}".encode())
    for chunk in (CHUNK, CHUNK + 256, CHUNK + 1):
        for part in (Part.DATA, Part.LOG):
            assert bytes(disk.read(chunk, part, 0, 100)) == f"{chunk}.{part}".encode()


def test_stored_gives_every_file_those_of_one_chunk_together(disk):
    for chunk in (CHUNK + 256, CHUNK, 1):
        disk.write(chunk, Part.LOG, 0, b"12")
        disk.write(chunk, Part.DATA, 0, b"123")
    found = list(disk.stored())
    assert sorted(found) == sorted(
        (chunk, part, size)
        for chunk in (1, CHUNK, CHUNK + 256)
        for part, size in ((Part.DATA, 3), (Part.LOG, 2))
    )
    order = [file.chunk for file in found]
    assert all(order[at] == order[at + 1] for at in range(0, len(order), 2))


def test_truncate_cuts(disk):
    disk.write(CHUNK, Part.DATA, 0, b"hello world")
    disk.truncate(CHUNK, Part.DATA, 5)
    assert bytes(disk.read(CHUNK, Part.DATA, 0, 100)) == b"hello"
    disk.write(CHUNK, Part.DATA, 5, b"!")
    assert bytes(disk.read(CHUNK, Part.DATA, 0, 100)) == b"hello!"


def test_publish_replaces_the_whole_file(disk):
    disk.write(CHUNK, Part.TABLE, 0, b"a long table that was there before")
    disk.publish(CHUNK, Part.TABLE, b"short")
    assert bytes(disk.read(CHUNK, Part.TABLE, 0, 100)) == b"short"
    assert disk.size(CHUNK, Part.TABLE) == 5


def test_rename_gives_the_bytes_another_name(disk):
    disk.write(CHUNK, Part.DATA, 0, b"old")
    disk.read(CHUNK, Part.DATA, 0, 3)
    disk.write(CHUNK, Part.FETCHED, 0, b"fetched")
    disk.sync(CHUNK, Part.FETCHED)
    disk.rename(CHUNK, Part.FETCHED, Part.DATA)
    assert bytes(disk.read(CHUNK, Part.DATA, 0, 100)) == b"fetched"
    assert [file.part for file in disk.stored()] == [Part.DATA]


def test_a_removed_file_is_gone_and_may_come_again(disk):
    disk.write(CHUNK, Part.DATA, 0, b"hello")
    disk.remove(CHUNK, Part.DATA)
    assert list(disk.stored()) == []
    disk.write(CHUNK, Part.DATA, 0, b"x")
    assert bytes(disk.read(CHUNK, Part.DATA, 0, 100)) == b"x"


def test_a_file_set_aside_is_out_of_the_way_until_it_is_forgotten(disk):
    disk.write(CHUNK, Part.DATA, 0, b"hello")
    disk.set_aside(CHUNK, Part.DATA)
    assert list(disk.stored()) == []
    assert disk.forget_aside(3600.0) == 0
    assert disk.forget_aside(0.0) == 1


def test_room_shrinks_by_what_is_written(disk):
    before = disk.room()
    disk.write(CHUNK, Part.DATA, 0, os.urandom(1 << 20))
    disk.sync(CHUNK, Part.DATA)
    after = disk.room()
    assert after.total_bytes == before.total_bytes
    if isinstance(disk, MemDisk):
        assert after.free_bytes == before.free_bytes - (1 << 20)
    assert 0 < after.free_bytes <= after.total_bytes


def test_leftovers_of_an_interrupted_publish_are_removed_at_start(tmp_path):
    disk = PosixDisk(tmp_path)
    disk.write(CHUNK, Part.DATA, 0, b"hello")
    (path,) = tmp_path.rglob("*.data")
    path.with_suffix(".crc.tmp").write_bytes(b"half a tab")
    disk.remove_leftovers()
    assert list(tmp_path.rglob("*.tmp")) == []
    assert [file.part for file in disk.stored()] == [Part.DATA]
    disk.close()


@pytest.mark.parametrize("power", [True, False])
def test_memory_keeps_over_a_power_loss_what_was_synced_with_its_name(power):
    disk = MemDisk()
    disk.write(CHUNK, Part.DATA, 0, b"synced")
    disk.sync(CHUNK, Part.DATA)
    if power:
        disk.sync_names(CHUNK)
    disk.write(CHUNK, Part.DATA, 6, b" and not")
    disk.crash()
    assert disk.files == ({(CHUNK, Part.DATA): bytearray(b"synced")} if power else {})
