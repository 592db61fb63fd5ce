"""Reading: dirty over clean over holes, good bytes or an error, failover, hedging, caches."""

import os
import random

import pytest
import trio

from cloudverge_mount.content import Budgets
from cloudverge_mount.readahead import FIRST_TRAIL
from cloudverge_protocol.errors import ChunkFault, Code, Unavailable
from cloudverge_protocol.ids import BLOCK_BYTES
from cloudverge_protocol.messages import FrameType

pytestmark = pytest.mark.trio

INO = 2000
CACHES = Budgets(disk_cache_bytes=256 << 20)


def reads(mount, server=None):
    servers = mount.cluster.chunkservers.values() if server is None else [mount.cluster.chunkservers[server]]
    return [m for s in servers for kind, m in s.served if kind is FrameType.READ]


async def stored(mount, data, ino=INO):
    await mount.names.write(ino, 0, data)
    await mount.content.flush(ino)


async def test_what_was_written_is_read_back_in_every_state(open_mount):
    async with open_mount() as mount:
        data = os.urandom(300_000)
        await mount.names.write(INO, 0, data)
        assert await mount.names.read(INO) == data
        mount.content.close(INO)
        assert await mount.names.read(INO) == data
        await mount.content.flush(INO)
        assert await mount.names.read(INO) == data
        await mount.names.write(INO, 1000, b"newer")
        assert await mount.names.read(INO, 990, 30) == data[990:1000] + b"newer" + data[1005:1020]


async def test_holes_read_as_zeroes(open_mount):
    async with open_mount() as mount:
        await mount.names.write(INO, 0, b"start")
        await mount.names.write(INO, 200_000, b"end")
        await mount.content.flush(INO)
        await mount.names.write(INO, 100_000, b"middle")
        data = await mount.names.read(INO)
        assert data == b"start" + bytes(99_995) + b"middle" + bytes(99_994) + b"end"


async def test_a_rotten_replica_is_passed_over_reported_and_shown(open_mount):
    async with open_mount() as mount:
        data = os.urandom(200_000)
        await stored(mount, data)
        rotten, good = [s for s in mount.cluster.chunkservers.values() if s.chunks]
        rotten.rotten = set(rotten.chunks)
        mount.content._clients.standing(good.server).answered(1e4, trio.current_time())
        for offset in range(0, 200_000, 50_000):
            mount.content._cache.clear()
            assert await mount.names.read(INO, offset, 50_000) == data[offset : offset + 50_000]
        assert {seen.server for seen in mount.content.damage} == {rotten.server}
        await trio.sleep(0.1)
        assert mount.cluster.metaserver.damage_reports[0].server == rotten.server


async def test_two_rotten_replicas_give_an_error_and_never_wrong_bytes(open_mount):
    async with open_mount() as mount:
        await stored(mount, os.urandom(100_000))
        for server in mount.cluster.chunkservers.values():
            server.rotten = set(server.chunks)
        with pytest.raises(ChunkFault) as caught:
            await mount.names.read(INO)
        assert caught.value.code == Code.DAMAGED
        assert len({seen.server for seen in mount.content.damage}) == 2


@pytest.mark.parametrize("step", [4096, 65536, 131072], ids=["pages", "blocks", "more"])
@pytest.mark.parametrize("order", ["forward", "scattered"])
async def test_bytes_beside_bad_ones_are_given(open_mount, step, order):
    async with open_mount() as mount:
        data = os.urandom(2 << 20)
        await stored(mount, data)
        bad = (1 << 20) + 70_000
        for server in mount.cluster.chunkservers.values():
            server.bad_bytes = {(chunk, bad) for chunk in server.chunks}
        starts = list(range(0, len(data), step))
        if order == "scattered":
            random.Random(3).shuffle(starts)
        refused = []
        for start in starts:
            mount.content._cache.clear()
            try:
                assert await mount.names.read(INO, start, step) == data[start : start + step]
            except ChunkFault as fault:
                refused.append((start, fault.code))
        block = bad - bad % BLOCK_BYTES
        assert {code for _, code in refused} == {Code.DAMAGED}
        assert sorted(start for start, _ in refused) == [
            s for s in sorted(starts) if s < block + BLOCK_BYTES and s + step > block
        ]


async def test_a_replica_without_the_chunk_is_passed_over_and_shown(open_mount):
    async with open_mount() as mount:
        data = os.urandom(100_000)
        await stored(mount, data)
        holders = [s for s in mount.cluster.chunkservers.values() if s.chunks]
        holders[0].chunks.clear()
        mount.content._clients.standing(holders[1].server).answered(1e4, trio.current_time())
        for _ in range(4):
            mount.content._cache.clear()
            assert await mount.names.read(INO) == data
        assert {seen.server for seen in mount.content.damage} == {holders[0].server}


async def test_a_short_replica_is_passed_over(open_mount):
    async with open_mount() as mount:
        data = os.urandom(100_000)
        await stored(mount, data)
        holders = [s for s in mount.cluster.chunkservers.values() if s.chunks]
        for chunk in holders[1].chunks.values():
            del chunk[70_000:]
        for _ in range(4):
            mount.content._cache.clear()
            assert await mount.names.read(INO) == data


async def test_a_dead_replica_is_passed_over(open_mount):
    async with open_mount() as mount:
        data = os.urandom(100_000)
        await stored(mount, data)
        holders = [s for s in mount.cluster.chunkservers.values() if s.chunks]
        await holders[0].stop()
        started = trio.current_time()
        for _ in range(4):
            mount.content._cache.clear()
            assert await mount.names.read(INO) == data
        assert trio.current_time() - started < 2


async def test_a_late_replica_is_raced_by_another(open_mount):
    async with open_mount() as mount:
        data = os.urandom(100_000)
        await stored(mount, data)
        holders = [s for s in mount.cluster.chunkservers.values() if s.chunks]
        holders[0].delay_s = 3.0
        started = trio.current_time()
        for _ in range(4):
            mount.content._cache.clear()
            assert await mount.names.read(INO) == data
        assert trio.current_time() - started < 1.5


async def test_all_replicas_away_fail_the_read_in_time(open_mount, monkeypatch):
    monkeypatch.setattr("cloudverge_mount.sources.PATIENCE_S", 1.0)
    async with open_mount() as mount:
        await stored(mount, b"x" * 1000)
        for server in mount.cluster.chunkservers.values():
            await server.stop()
        mount.content._cache.clear()
        with trio.fail_after(6), pytest.raises(Unavailable):
            await mount.names.read(INO)


async def test_a_second_read_needs_no_server(open_mount):
    async with open_mount() as mount:
        data = os.urandom(100_000)
        await stored(mount, data)
        await mount.names.read(INO)
        before = len(reads(mount))
        assert await mount.names.read(INO) == data
        assert len(reads(mount)) == before


async def test_the_disk_cache_serves_the_next_mount(open_mount, tmp_path):
    data = os.urandom(3 << 20)
    async with open_mount(CACHES) as mount:
        await stored(mount, data)
        assert await mount.names.read(INO) == data
        await trio.sleep(0.2)
        mount.content._cache.clear()
        before = len(reads(mount))
        assert await mount.names.read(INO) == data
        assert len(reads(mount)) == before
        cluster, names = mount.cluster, mount.names
        for path in (tmp_path / "cache" / "blocks").iterdir():
            assert path.stat().st_size > len(data)
        assert cluster is not None
        assert names is not None


async def test_a_flipped_byte_in_the_disk_cache_is_not_served(open_mount, tmp_path):
    data = os.urandom(200_000)
    async with open_mount(CACHES) as mount:
        await stored(mount, data)
        assert await mount.names.read(INO) == data
        await trio.sleep(0.2)
        path = next((tmp_path / "cache" / "blocks").iterdir())
        content = bytearray(path.read_bytes())
        content[5000] ^= 0xFF
        path.write_bytes(content)
        mount.content._cache.clear()
        assert await mount.names.read(INO) == data


async def stored_large(mount, size_mib):
    data = os.urandom(size_mib << 20)
    for at in range(0, len(data), 1 << 20):
        await mount.names.write(INO, at, data[at : at + (1 << 20)])
    await mount.content.flush(INO)
    return data


async def test_a_stream_is_read_ahead_and_never_twice(open_mount):
    async with open_mount() as mount:
        data = await stored_large(mount, 24)
        for at in range(0, len(data), 128 << 10):
            assert await mount.names.read(INO, at, 128 << 10) == data[at : at + (128 << 10)]
        asked = sum(message.length for message in reads(mount))
        assert asked <= len(data) + (1 << 20)
        assert len(reads(mount)) <= 40


async def test_a_random_read_fetches_little(open_mount):
    async with open_mount() as mount:
        data = await stored_large(mount, 16)
        for at in (9 << 20, 3 << 20, 13 << 20, 6 << 20):
            assert await mount.names.read(INO, at + 5, 4096) == data[at + 5 : at + 5 + 4096]
        assert all(message.length <= 128 << 10 for message in reads(mount))


async def test_a_look_at_the_start_of_a_large_file_does_not_fetch_much_of_it(open_mount):
    async with open_mount() as mount:
        data = await stored_large(mount, 8)
        assert await mount.names.read(INO, 0, 4096) == data[:4096]
        await trio.sleep(0.05)
        assert sum(message.length for message in reads(mount)) <= FIRST_TRAIL + BLOCK_BYTES


async def test_small_files_packed_together_come_together(open_mount):
    async with open_mount() as mount:
        files = {INO + n: os.urandom(8000) for n in range(300)}
        for ino, data in files.items():
            await mount.names.write(ino, 0, data)
            mount.content.close(ino)
        await mount.content.flush_all()
        for ino, data in files.items():
            assert await mount.names.read(ino) == data
        assert len(reads(mount)) <= 12


async def test_concurrent_reads_of_a_block_fetch_it_once(open_mount):
    async with open_mount() as mount:
        await stored(mount, os.urandom(50_000))
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(mount.names.read, INO)
        assert len(reads(mount)) == 1
