"""The disk cache: bounded, rebuilt at start, never wrong, never in the way."""

import os

import pytest
import trio

from cloudverge_mount import blockrecords, diskcache
from cloudverge_mount.blockcache import Run
from cloudverge_mount.diskcache import DiskCache
from cloudverge_protocol.ids import BLOCK_BYTES

pytestmark = pytest.mark.trio

MIB = 1 << 20


def run(chunk, blocks=16, seed=0):
    data = bytes([chunk % 251, seed]) + os.urandom(blocks * BLOCK_BYTES - 2)
    return Run(chunk, 0, memoryview(data))


async def stored(cache, *runs):
    for each in runs:
        cache.offer(each, is_stream=False)
    with trio.fail_after(5):
        while not all(cache.has(each.chunk, each.end - 1) for each in runs):  # noqa: ASYNC110
            await trio.sleep(0.005)


@pytest.fixture
async def cache(tmp_path, nursery):
    made = DiskCache(tmp_path, 4 * diskcache.SEGMENT_BYTES)
    nursery.start_soon(made.run)
    await trio.sleep(0.01)
    yield made
    made.close()


async def test_bytes_come_back_block_by_block_or_many_at_once(cache):
    kept = run(7)
    await stored(cache, kept)
    one = await cache.get(7, 5 * BLOCK_BYTES + 17, 5 * BLOCK_BYTES + 18)
    assert one is not None
    assert (one.start, one.end) == (5 * BLOCK_BYTES, 6 * BLOCK_BYTES)
    assert one.data == kept.data[one.start : one.end]
    many = await cache.get(7, 0, MIB)
    assert many is not None
    assert many.data == kept.data[: many.end]
    assert many.end >= 4 * BLOCK_BYTES


async def test_a_short_last_block_ends_where_it_ends(cache):
    short = Run(3, 0, memoryview(os.urandom(BLOCK_BYTES + 100)))
    await stored(cache, short)
    assert cache.has(3, BLOCK_BYTES + 99)
    assert not cache.has(3, BLOCK_BYTES + 100)
    found = await cache.get(3, BLOCK_BYTES, 2 * BLOCK_BYTES)
    assert found is not None
    assert found.end == BLOCK_BYTES + 100


async def parts(cache, chunk, offset, end):
    found = b""
    while offset + len(found) < end and (part := await cache.part(chunk, offset + len(found), end)):
        found += part
    return found


async def test_parts_are_what_was_kept_whichever_bytes_are_asked_for(cache):
    kept = Run(3, 0, memoryview(os.urandom(3 * BLOCK_BYTES + 5000)))
    await stored(cache, kept)
    size, page = len(kept.data), diskcache.PAGE_BYTES
    for offset in (0, 1, page - 1, page, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 4095, size - 1):
        for length in (1, 2, page, page + 1, 3 * page):
            expected = kept.data[offset : min(size, offset + length)]
            assert await parts(cache, 3, offset, offset + length) == expected, (offset, length)
    assert await cache.part(3, size, size + 1) is None
    assert await cache.part(4, 0, 1) is None


async def test_a_part_of_a_block_is_read_alone_once_the_block_is_known(cache, monkeypatch):
    await stored(cache, run(3))
    await cache.part(3, 70_000, 70_010)
    lengths, read = [], cache._read_at_hand
    monkeypatch.setattr(
        cache, "_read_at_hand", lambda fd, at, length: lengths.append(length) or read(fd, at, length)
    )
    await cache.part(3, 90_000, 90_010)
    await cache.part(3, 1 * BLOCK_BYTES + 4000, 1 * BLOCK_BYTES + 5000)
    await cache.part(3, 3 * BLOCK_BYTES, 3 * BLOCK_BYTES + 10)
    assert lengths == [4096, 8192, BLOCK_BYTES]


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_part_that_rots_on_the_disk_is_not_given(cache, tmp_path, is_known):
    kept = run(3)
    await stored(cache, kept)
    if is_known:
        assert await cache.part(3, 0, 10) == kept.data[:10]
    path = next(iter(tmp_path.iterdir()))
    content = bytearray(path.read_bytes())
    content[blockrecords.HEADER_BYTES + 9000] ^= 1
    path.write_bytes(content)
    if is_known:
        assert await cache.part(3, 0, 10) == kept.data[:10], "another page of it is good"
    assert await cache.part(3, 9000, 9010) is None
    assert not cache.has(3, 0), "what is known to be bad is forgotten"
    assert cache.has(3, BLOCK_BYTES)


async def test_it_stays_within_its_budget_and_keeps_what_is_used(tmp_path, nursery, monkeypatch):
    monkeypatch.setattr(diskcache, "SEGMENT_BYTES", 4 * MIB)
    cache = DiskCache(tmp_path, 16 * MIB)
    nursery.start_soon(cache.run)
    await stored(cache, run(1))
    for chunk in range(2, 40):
        await stored(cache, run(chunk))
        assert await cache.get(1, 0, 100) is not None
        assert cache.held_bytes <= 16 * MIB
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 16 * MIB
    assert sum(cache.has(chunk, 0) for chunk in range(1, 40)) <= 16
    assert cache.has(39, 0)
    cache.close()


async def test_it_is_found_again_at_the_next_start_up_to_a_torn_record(tmp_path, nursery):
    first = DiskCache(tmp_path, 4 * diskcache.SEGMENT_BYTES)
    nursery.start_soon(first.run)
    kept, torn = run(1), run(2)
    await stored(first, kept)
    await stored(first, torn)
    first.close()
    path = max(tmp_path.iterdir())
    os.truncate(path, path.stat().st_size - 1000)
    second = DiskCache(tmp_path, 4 * diskcache.SEGMENT_BYTES)
    nursery.start_soon(second.run)
    await trio.sleep(0.1)
    found = await second.get(1, 0, MIB)
    assert found is not None
    assert found.data == kept.data[: found.end]
    assert not second.has(2, torn.end - 1)
    second.close()


async def test_a_fast_stream_is_admitted_only_in_part(tmp_path, nursery):
    cache = DiskCache(tmp_path, 64 * diskcache.SEGMENT_BYTES, clock=lambda: 1.0)
    nursery.start_soon(cache.run)
    cache._tokens_at = 1.0
    for chunk in range(200):
        cache.offer(run(chunk), is_stream=True)
        await trio.sleep(0.003)
    assert cache.held_bytes <= diskcache.STREAM_BURST_BYTES + MIB
    cache.close()


async def test_a_broken_disk_switches_it_off_and_nothing_else(tmp_path, nursery, monkeypatch):
    def broken(*_):
        raise OSError("no disk")

    cache = DiskCache(tmp_path, 4 * diskcache.SEGMENT_BYTES)
    monkeypatch.setattr(cache, "_write_all", broken)
    nursery.start_soon(cache.run)
    for chunk in range(20):
        cache.offer(run(chunk), is_stream=False)
        await trio.sleep(0.01)
    assert not cache.has(1, 0)
    assert len(cache._queue) == 0
