"""The spill: what was closed survives a kill of the mount, and its space comes back."""

import os

import pytest
import trio

from cloudverge_mount.content import Budgets
from cloudverge_mount.spill import Spill
from cloudverge_mount.spillrecord import Spilled
from cloudverge_protocol.errors import ChunkFault, Code, NoRoom

pytestmark = pytest.mark.trio

INO = 2000


def spilled(mount):
    return [line for line in mount.names.journal if isinstance(line, Spilled)]


async def test_closed_bytes_survive_a_kill_and_go_up_afterwards(open_mount, tmp_path):
    data = os.urandom(2_500_000)
    async with open_mount() as mount:
        mount.cluster.metaserver.refuse_allocate = Code.UNAVAILABLE
        await mount.names.write(INO, 0, data)
        mount.content.close(INO)
        journal = spilled(mount)
    async with open_mount(journal=journal) as mount:
        assert mount.lost == {}
        mount.names.size[INO] = len(data)
        assert await mount.names.read(INO) == data
        await mount.content.flush(INO)
        assert mount.names.durable_bytes(INO) == data


async def test_lost_spill_bytes_are_named_and_do_not_stop_the_rest(open_mount, tmp_path):
    async with open_mount() as mount:
        mount.cluster.metaserver.refuse_allocate = Code.UNAVAILABLE
        await mount.names.write(INO, 0, b"a" * 1000)
        await mount.names.write(INO + 1, 0, b"b" * 1000)
        mount.content.close(INO)
        mount.content.close(INO + 1)
        journal = spilled(mount)
    path = next((tmp_path / "cache" / "spill").iterdir())
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    async with open_mount(journal=journal) as mount:
        assert set(mount.lost) == {INO}
        mount.names.size = {INO: 1000, INO + 1: 1000}
        await mount.content.flush(INO + 1)
        assert mount.names.durable_bytes(INO + 1) == b"b" * 1000
        with pytest.raises(ChunkFault):
            await mount.content.flush(INO)
        with pytest.raises(ChunkFault):
            await mount.names.read(INO)
        mount.content.drop(INO)
        assert not mount.content.is_dirty(INO)


async def test_a_cut_after_a_close_is_not_undone_by_a_kill(open_mount):
    async with open_mount() as mount:
        mount.cluster.metaserver.refuse_allocate = Code.UNAVAILABLE
        await mount.names.write(INO, 0, b"a" * 1000)
        mount.content.close(INO)
        mount.names.truncate(INO, 100)
        journal = spilled(mount)
        assert journal[-1].forgets
    async with open_mount(journal=journal) as mount:
        mount.names.size[INO] = 1000
        assert await mount.names.read(INO) == b"a" * 100 + bytes(900)


async def test_a_hole_after_a_close_is_not_undone_by_a_kill(open_mount):
    async with open_mount() as mount:
        mount.cluster.metaserver.refuse_allocate = Code.UNAVAILABLE
        await mount.names.write(INO, 0, b"a" * 1000)
        mount.content.close(INO)
        mount.names.punch(INO, 100, 900)
        journal = spilled(mount)
        assert (journal[-1].forgets, journal[-1].offset, journal[-1].end) == (True, 100, 900)
    async with open_mount(journal=journal) as mount:
        mount.names.size[INO] = 1000
        assert await mount.names.read(INO) == b"a" * 100 + bytes(800) + b"a" * 100


async def test_spill_space_returns_only_when_the_write_is_committed(open_mount, tmp_path):
    async with open_mount() as mount:
        await mount.names.write(INO, 0, os.urandom(5 << 20))
        mount.content.close(INO)
        await mount.content.flush(INO)
        _, _, through = [line for line in mount.names.journal if isinstance(line, tuple)][-1]
        assert through == spilled(mount)[-1].number
        files = list((tmp_path / "cache" / "spill").iterdir())
        assert files
        mount.content.spill_committed(INO, through)
        assert not [path for path in files if path.exists()]


async def test_closed_files_give_their_ram_back_under_pressure(open_mount):
    budgets = Budgets(dirty_bytes=1 << 20, disk_cache_bytes=0)
    async with open_mount(budgets) as mount:
        mount.cluster.metaserver.refuse_allocate = Code.UNAVAILABLE
        files = {INO + n: os.urandom(100_000) for n in range(40)}
        with trio.fail_after(3):
            for ino, data in files.items():
                await mount.names.write(ino, 0, data)
                mount.content.close(ino)
                assert mount.content.dirty_ram_bytes <= 1 << 20
        for ino, data in files.items():
            assert await mount.names.read(ino) == data
        mount.cluster.metaserver.refuse_allocate = None
        await mount.content.flush_all()
        for ino, data in files.items():
            assert mount.names.durable_bytes(ino) == data


async def test_a_full_cache_disk_does_not_fail_the_close(open_mount, monkeypatch):
    def full(*_):
        raise NoRoom(Code.NO_SPACE, "the cache disk is full")

    async with open_mount() as mount:
        monkeypatch.setattr(Spill, "append", full)
        await mount.names.write(INO, 0, b"abc")
        mount.content.close(INO)
        assert mount.content.notes == ["the cache disk is full"]
        await mount.content.flush(INO)
        assert mount.names.durable_bytes(INO) == b"abc"


async def test_segments_go_when_nothing_in_them_lives(tmp_path):
    spill = Spill(tmp_path, 1 << 40, 0)
    records = [spill.append(number, 0, [os.urandom(1 << 20)]) for number in range(100)]
    assert {record.segment for record in records} == {1, 2}
    for record in records[:64]:
        spill.release(record.ino, record.number)
    assert [path.name for path in tmp_path.iterdir()] == ["00000002.spill"]
    assert spill.read(records[70])
    spill.close()


async def test_a_replay_removes_no_segment_of_which_later_records_may_be(tmp_path):
    spill = Spill(tmp_path, 1 << 40, 0)
    first = spill.append(INO, 0, [b"committed before the kill"])
    second = spill.append(INO + 1, 0, [b"closed, not committed"])
    spill.close()
    again = Spill(tmp_path, 1 << 40, 0)
    again.adopt(first)
    again.release(INO, first.number)
    again.adopt(second)
    again.sweep()
    assert again.read(second) == b"closed, not committed"
    again.release(INO + 1, second.number)
    assert not list(tmp_path.glob("*.spill")), "once all is known, what is dead goes"


async def test_a_new_start_never_reuses_a_segment_number(tmp_path):
    spill = Spill(tmp_path, 1 << 40, 0)
    first = spill.append(1, 0, [b"abc"])
    spill.close()
    again = Spill(tmp_path, 1 << 40, 0)
    again.adopt(first)
    second = again.append(1, 0, [b"def"])
    assert second.segment > first.segment
    assert second.number > first.number
    assert again.read(first) == b"abc"
    again.close()
