"""Writing through to chunkservers: durability, packing, failures of replicas, sessions opened again."""

import os

import pytest
import trio

from cloudverge_mount.content import Budgets
from cloudverge_protocol.errors import Code, NoRoom, Unavailable
from cloudverge_protocol.ids import FILE_BYTES_MAX

pytestmark = pytest.mark.trio

INO = 2000


async def until(condition, within_s=5.0):
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def test_flushed_bytes_are_on_every_replica_and_entered(open_mount):
    async with open_mount() as mount:
        await mount.names.write(INO, 0, b"hello")
        await mount.content.flush(INO)
        assert mount.names.durable_bytes(INO) == b"hello"
        assert mount.names.settled == [INO]
        assert not mount.content.is_dirty(INO)
        assert mount.content.dirty_ram_bytes == 0


async def test_an_fsync_of_4_kib_is_one_append(open_mount):
    async with open_mount() as mount:
        await mount.names.write(INO, 0, bytes(4096))
        await mount.content.flush(INO)
        before = len(mount.cluster.appends())
        for number in range(5):
            await mount.names.write(INO, 4096 * number, os.urandom(4096))
            await mount.content.flush(INO)
        assert len(mount.cluster.appends()) == before + 5
        assert all(append.sync for append in mount.cluster.appends())


async def test_a_closed_file_goes_up_soon_without_being_asked(open_mount):
    async with open_mount() as mount:
        await mount.names.write(INO, 0, b"abc")
        mount.content.close(INO)
        await until(lambda: not mount.content.is_dirty(INO))
        assert mount.names.durable_bytes(INO) == b"abc"


async def test_an_open_file_goes_up_after_a_second(open_mount):
    async with open_mount() as mount:
        await mount.names.write(INO, 0, b"abc")
        await trio.sleep(0.3)
        assert mount.content.is_dirty(INO)
        await until(lambda: not mount.content.is_dirty(INO))


async def test_many_small_files_share_appends(open_mount):
    async with open_mount() as mount:
        files = {INO + n: os.urandom(100 + n) for n in range(500)}
        for ino, data in files.items():
            await mount.names.write(ino, 0, data)
            mount.content.close(ino)
        await mount.content.flush_all()
        assert len(mount.cluster.appends()) <= 8
        for ino, data in files.items():
            assert mount.names.durable_bytes(ino) == data


async def test_a_large_stream_crosses_chunks_and_stays_within_the_budget(open_mount):
    budgets = Budgets(dirty_bytes=6 << 20, disk_cache_bytes=0)
    async with open_mount(budgets) as mount:
        mount.cluster.metaserver.limit = 5 << 20
        data = os.urandom(1 << 20)
        for number in range(40):
            await mount.names.write(INO, number << 20, data)
            assert mount.content.dirty_ram_bytes <= 6 << 20
        mount.content.close(INO)
        await mount.content.flush(INO)
        assert mount.names.durable_bytes(INO) == data * 40
        used = {extent.chunk for extent in mount.names.extents[INO]}
        assert len(used) >= 8
        await until(lambda: len(mount.names.done) >= len(used) - 2)
        assert set(mount.names.done) <= set(mount.cluster.sealed)


async def test_scattered_writes_go_up_in_few_appends(open_mount):
    async with open_mount() as mount:
        offsets = [(number * 7919) % 4096 * 4096 for number in range(3000)]
        for number, offset in enumerate(offsets):
            await mount.names.write(INO, offset, bytes([number % 255 + 1]) * 4096)
        await mount.content.flush(INO)
        assert len(mount.cluster.appends()) < 40
        expected = bytearray(mount.names.size[INO])
        for number, offset in enumerate(offsets):
            expected[offset : offset + 4096] = bytes([number % 255 + 1]) * 4096
        assert mount.names.durable_bytes(INO) == bytes(expected)


async def test_a_dead_replica_costs_a_new_chunk_and_no_byte(open_mount):
    async with open_mount() as mount:
        data = os.urandom(1 << 20)
        for number in range(30):
            if number == 12:
                await mount.cluster.chunkservers[1].stop()
            await mount.names.write(INO, number << 20, data)
        await mount.content.flush(INO)
        expected = data * 30
        assert await mount.names.read(INO) == expected
        late = mount.names.extents[INO][-1]
        assert 1 not in mount.cluster.grants[late.chunk]


async def test_a_full_replica_is_avoided(open_mount):
    async with open_mount() as mount:
        mount.cluster.chunkservers[2].room = 100_000
        for number in range(20):
            await mount.names.write(INO + number, 0, os.urandom(50_000))
            await mount.content.flush(INO + number)
            assert len(mount.names.durable_bytes(INO + number)) == 50_000


async def test_no_room_anywhere_fails_the_flush_and_a_later_one_succeeds(open_mount):
    async with open_mount() as mount:
        mount.cluster.metaserver.refuse_allocate = Code.NO_SPACE
        await mount.names.write(INO, 0, b"precious")
        with pytest.raises(NoRoom):
            await mount.content.flush(INO)
        assert mount.content.is_dirty(INO)
        assert await mount.names.read(INO) == b"precious"
        mount.cluster.metaserver.refuse_allocate = None
        await mount.content.flush(INO)
        assert mount.names.durable_bytes(INO) == b"precious"


async def test_servers_away_fail_the_flush_in_time_and_lose_nothing(open_mount, monkeypatch):
    monkeypatch.setattr("cloudverge_mount.uploader.PATIENCE_S", 2.0)
    async with open_mount() as mount:
        await mount.names.write(INO, 0, b"before")
        await mount.content.flush(INO)
        for server in mount.cluster.chunkservers.values():
            await server.stop()
        await mount.names.write(INO, 0, b"behind")
        started = trio.current_time()
        with pytest.raises(Unavailable):
            await mount.content.flush(INO)
        assert trio.current_time() - started < 8
        assert mount.content.is_dirty(INO)
        for server in mount.cluster.chunkservers.values():
            await server.start(server._nursery)
        await mount.content.flush(INO)
        assert mount.names.durable_bytes(INO) == b"behind"


async def test_a_journal_that_cannot_take_a_write_leaves_the_bytes_dirty(open_mount):
    async with open_mount() as mount:
        mount.names.fail = OSError("disk full")
        await mount.names.write(INO, 0, b"kept")
        with trio.move_on_after(0.5):
            await mount.content.flush(INO)
        assert mount.content.is_dirty(INO)
        mount.names.fail = None
        await mount.content.flush(INO)
        assert mount.names.durable_bytes(INO) == b"kept"


async def test_a_session_opened_again_drops_its_chunks(open_mount):
    async with open_mount() as mount:
        await mount.names.write(INO, 0, b"one")
        await mount.content.flush(INO)
        old = set(mount.cluster.grants)
        mount.rights.incarnation = 2
        mount.content.reopened()
        await mount.names.write(INO, 3, b"two")
        await mount.content.flush(INO)
        assert mount.names.extents[INO][-1].chunk not in old
        assert mount.names.durable_bytes(INO) == b"onetwo"


async def test_what_was_overwritten_cut_or_dropped_under_way_is_never_entered(open_mount):
    async with open_mount() as mount:
        for server in mount.cluster.chunkservers.values():
            server.delay_s = 0.2
        await mount.names.write(INO, 0, b"a" * 100)
        await mount.names.write(INO + 1, 0, b"gone")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.content.flush, INO)
            nursery.start_soon(mount.content.flush, INO + 1)
            await trio.sleep(0.1)
            await mount.names.write(INO, 10, b"b" * 10)
            mount.names.truncate(INO, 50)
            mount.content.drop(INO + 1)
        await mount.content.flush(INO)
        assert mount.names.durable_bytes(INO) == b"a" * 10 + b"b" * 10 + b"a" * 30
        assert INO + 1 not in mount.names.extents
        assert INO + 1 in mount.names.settled


async def test_what_became_a_hole_under_way_is_never_entered_and_what_lies_above_it_is(open_mount):
    async with open_mount() as mount:
        for server in mount.cluster.chunkservers.values():
            server.delay_s = 0.2
        await mount.names.write(INO, 0, b"a" * 100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.content.flush, INO)
            await trio.sleep(0.1)
            mount.names.punch(INO, 20, 60)
            assert mount.content.dirty_ranges(INO, 0, 1000) == [(0, 20), (60, 100)]
            await mount.names.write(INO, 30, b"b" * 5)
        await mount.content.flush(INO)
        expected = b"a" * 20 + bytes(10) + b"b" * 5 + bytes(25) + b"a" * 40
        assert mount.names.durable_bytes(INO) == expected
        assert sum(extent.length for extent in mount.names.extents[INO]) == 65
        assert mount.content.dirty_ranges(INO, 0, 1000) == []


async def test_a_stalled_upload_spills_open_files_and_writing_goes_on(open_mount):
    budgets = Budgets(dirty_bytes=2 << 20, disk_cache_bytes=0)
    async with open_mount(budgets) as mount:
        for server in mount.cluster.chunkservers.values():
            server.refuse = Code.UNAVAILABLE
        data = os.urandom(1 << 20)
        for number in range(4):
            await mount.names.write(INO, number << 20, data)
        assert mount.content.dirty_ram_bytes <= 2 << 20
        assert await mount.names.read(INO) == data * 4
        for server in mount.cluster.chunkservers.values():
            server.refuse = None
        await mount.content.flush(INO)
        assert mount.names.durable_bytes(INO) == data * 4


async def test_a_stalled_upload_without_room_to_spill_fails_the_write(open_mount):
    budgets = Budgets(dirty_bytes=1 << 20, spill_bytes=0, disk_cache_bytes=0)
    async with open_mount(budgets) as mount:
        mount.cluster.metaserver.refuse_allocate = Code.NO_SPACE
        await mount.names.write(INO, 0, bytes(1 << 20))
        with pytest.raises(NoRoom):
            await mount.names.write(INO, 1 << 20, bytes(4096))


async def test_reports_carry_what_is_durable_below(open_mount):
    async with open_mount() as mount:
        seen = []
        enter = mount.names.enter_write

        def recording(ino, extents, receipts, durable_below, spilled_through):
            seen.append(durable_below)
            enter(ino, extents, receipts, durable_below, spilled_through)

        mount.names.enter_write = recording
        await mount.names.write(INO, 0, b"x")
        await mount.content.flush(INO)
        assert seen == [FILE_BYTES_MAX]


async def test_a_file_may_use_the_other_lane_s_chunk_when_none_can_be_had(open_mount):
    async with open_mount() as mount:
        await mount.names.write(INO, 0, b"small")
        await mount.content.flush(INO)
        mount.cluster.metaserver.refuse_allocate = Code.NO_SPACE
        first = mount.content._uploader._yard
        first._spares.clear()
        data = os.urandom(3 << 20)
        await mount.names.write(INO + 1, 0, data)
        await mount.content.flush(INO + 1)
        assert mount.names.durable_bytes(INO + 1) == data
        assert {e.chunk for e in mount.names.extents[INO + 1]} == {e.chunk for e in mount.names.extents[INO]}


async def test_tiny_chunks_are_filled_too(open_mount):
    async with open_mount() as mount:
        mount.cluster.metaserver.limit = 64 << 10
        data = os.urandom(1 << 20)
        await mount.names.write(INO, 0, data)
        await mount.content.flush(INO)
        assert mount.names.durable_bytes(INO) == data


async def test_parcels_under_way_in_a_full_chunk_survive_a_session_opened_again(open_mount):
    async with open_mount() as mount:
        mount.cluster.metaserver.limit = 2 << 20
        for server in mount.cluster.chunkservers.values():
            server.delay_s = 0.1
        data = os.urandom(1 << 20)
        for number in range(6):
            await mount.names.write(INO, number << 20, data)
        mount.content.close(INO)
        await trio.sleep(0.15)
        mount.rights.incarnation = 2
        mount.content.reopened()
        await mount.content.flush(INO)
        assert mount.names.durable_bytes(INO) == data * 6
