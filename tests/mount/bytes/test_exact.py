"""Reading within a sub-tree: the bytes of its files, by range tickets, and no others.

The played chunkservers refuse, and fail the test, when a READ leaves the ranges of its ticket.
"""

import os

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_mount import exactreader
from cloudverge_mount.content import Budgets
from cloudverge_mount.exactreader import PIECE_BYTES, _pieces
from cloudverge_protocol.errors import ChunkFault, Code, Denied, Unavailable, make_error
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.messages import FrameType

pytestmark = pytest.mark.trio

INO = 2000
CHUNK = 70
MIB = 1 << 20


@pytest.fixture
def open_confined(open_mount):
    def opened(**options):
        return open_mount(confined=True, **options)

    return opened


def store(mount, data, chunk=CHUNK, servers=(1, 2)):
    """``data`` as a chunk on two servers; what of it may be read say the files."""
    mount.cluster.grants[chunk] = servers
    for server in servers:
        mount.cluster.chunkservers[server].chunks[chunk] = bytearray(data)


def name_file(mount, *extents, ino=INO, committed=True):
    """A file with these extents (offset, length, chunk offset), and its right if it is committed."""
    made = tuple(Extent(offset, length, CHUNK, at) for offset, length, at in extents)
    mount.names.extents[ino] = made
    mount.names.size[ino] = max(each.end for each in made)
    if committed:
        mount.cluster.committed[ino] = made


def asked(mount):
    """(start, end) of every READ, in order of the chunk."""
    served = [each for server in mount.cluster.chunkservers.values() for each in server.served]
    return sorted((m.offset, m.offset + m.length) for kind, m in served if kind is FrameType.READ)


def ticket_requests(mount):
    served = mount.cluster.metaserver.served
    return [m for kind, m in served if kind is FrameType.TICKETS and m.spans]


async def test_extents_are_read_in_pieces_cut_at_borders_of_the_chunk(open_confined):
    async with open_confined() as mount:
        data = os.urandom(4 * MIB)
        store(mount, data)
        name_file(mount, (0, 2 * MIB, 300_000))
        assert await mount.names.read(INO) == data[300_000 : 300_000 + 2 * MIB]
        borders = [300_000, MIB, 2 * MIB, 300_000 + 2 * MIB]
        assert asked(mount) == [(borders[n], borders[n + 1]) for n in range(3)]
        assert await mount.names.read(INO, MIB, 100) == data[300_000 + MIB : 300_100 + MIB]
        assert len(asked(mount)) == 3


places = st.one_of(st.integers(0, 6 * MIB), st.integers(0, 6).map(lambda count: count * MIB))


@given(places, places.filter(bool), places, places, places)
async def test_the_pieces_of_a_read_are_those_of_the_extent_that_it_meets(offset, length, at, low, high):
    extent, shift = Extent(offset, length, CHUNK, at), at - offset
    borders = [at, *(n * MIB for n in range(13) if at < n * MIB < at + length), at + length]
    cut = [(start - shift, borders[n + 1] - shift) for n, start in enumerate(borders[:-1])]
    met = [(start, end) for start, end in cut if max(start, low) < min(end, high)]
    found = list(_pieces(INO, extent, low, high))
    assert [(piece.start - shift, piece.end - shift) for piece in found] == met
    assert all((p.chunk, p.ino, p.offset) == (CHUNK, INO, p.start - shift) for p in found)


async def test_extents_in_any_order_with_holes_read_as_one_file(open_confined):
    async with open_confined() as mount:
        data = os.urandom(MIB)
        store(mount, data)
        name_file(mount, (10, 1000, 900_000), (1010, 500, 5), (200_000, 70_000, 300_001))
        whole = bytes(10) + data[900_000:901_000] + data[5:505] + bytes(198_490) + data[300_001:370_001]
        assert await mount.names.read(INO) == whole
        for start, length in ((0, 5), (5, 10), (1005, 10), (1400, 200_000), (269_999, 1)):
            assert await mount.names.read(INO, start, length) == whole[start : start + length]


async def test_dirty_bytes_lie_over_what_is_stored(open_confined):
    async with open_confined() as mount:
        store(mount, b"x" * 1000)
        name_file(mount, (0, 1000, 0))
        await mount.names.write(INO, 990, b"newer and longer")
        assert await mount.names.read(INO) == b"x" * 990 + b"newer and longer"


async def test_small_files_side_by_side_come_together_without_those_of_others(open_confined):
    async with open_confined() as mount:
        data = os.urandom(200 * 100)
        store(mount, data)
        mine = [number for number in range(200) if number % 50 != 7]  # the rest belongs to somebody else
        for number in mine:
            name_file(mount, (0, 100, number * 100), ino=1024 + number)
        for number in mine:
            text = await mount.names.read(1024 + number)
            assert text == data[number * 100 : number * 100 + 100]
        others = [(number * 100, number * 100 + 100) for number in range(200) if number % 50 == 7]
        for start, end in asked(mount):
            assert not any(start < other_end and other_start < end for other_start, other_end in others)
        assert len(asked(mount)) <= 8, "one by one"
        assert len(ticket_requests(mount)) <= 3


async def test_a_right_that_is_not_there_yet_is_asked_for_again(open_confined, nursery):
    async with open_confined() as mount:
        store(mount, b"mine" * 100)
        name_file(mount, (0, 400, 0), committed=False)
        nursery.start_soon(commit_later, mount, 0.5)
        assert await mount.names.read(INO) == b"mine" * 100
        assert len(ticket_requests(mount)) > 1


async def commit_later(mount, pause_s):
    await trio.sleep(pause_s)
    mount.cluster.committed[INO] = mount.names.extents[INO]


async def test_a_right_that_never_comes_is_an_error_in_the_end(open_confined, monkeypatch):
    monkeypatch.setattr(exactreader, "PATIENCE_S", 0.5)
    async with open_confined() as mount:
        store(mount, b"not mine" * 100)
        name_file(mount, (0, 400, 0), committed=False)
        with pytest.raises(ChunkFault) as caught:
            await mount.names.read(INO)
        assert caught.value.code is Code.MOVED
        assert asked(mount) == []


async def test_a_ticket_that_is_not_believed_is_replaced_by_a_fresh_one(open_confined):
    async with open_confined() as mount:
        data = os.urandom(3 * MIB)
        store(mount, data)
        name_file(mount, (0, 3 * MIB, 0))
        assert await mount.names.read(INO, 0, 10) == data[:10]
        mount.cluster.serial += 1  # a right to the space was taken away from somebody
        mount.content._reader.clear()
        assert await mount.names.read(INO, 0, 10) == data[:10]
        assert await mount.names.read(INO, 2 * MIB, 10) == data[2 * MIB : 2 * MIB + 10]
        assert len(ticket_requests(mount)) <= 3  # a read ahead may ask for its own


async def test_so_is_the_one_that_introduces_us(open_confined):
    async with open_confined() as mount:
        store(mount, b"mine" * 100)
        name_file(mount, (0, 400, 0))
        assert await mount.names.read(INO) == b"mine" * 100
        mount.cluster.serial += 1
        mount.cluster.read_ticket = "read-2"
        for server in mount.cluster.chunkservers.values():
            server.unbelieved.add("read")
        mount.content._clients.close()
        mount.content._reader.clear()
        assert await mount.names.read(INO) == b"mine" * 100


async def test_a_right_that_has_ended_is_told_at_last(open_confined, monkeypatch):
    monkeypatch.setattr(exactreader, "PATIENCE_S", 0.5)
    async with open_confined() as mount:
        store(mount, b"mine" * 100)
        name_file(mount, (0, 400, 0))
        for server in mount.cluster.chunkservers.values():
            server.fail_reads = [make_error(Code.UNAUTHORIZED, "this is no valid ticket")] * 100
        with pytest.raises(Denied):
            await mount.names.read(INO)


async def test_the_cache_is_bounded(open_confined):
    limit = 4 * MIB
    async with open_confined(budgets=Budgets(cache_bytes=limit, disk_cache_bytes=0)) as mount:
        data = os.urandom(12 * MIB)
        store(mount, data)
        name_file(mount, (0, 12 * MIB, 0))
        for start in (0, 3 * MIB, 6 * MIB, 9 * MIB, 0):
            assert await mount.names.read(INO, start, 3 * MIB) == data[start : start + 3 * MIB]
            assert mount.content.cache_bytes <= limit
        mount.content._reader.clear()
        assert mount.content.cache_bytes == 0


async def test_many_readers_of_the_same_bytes_are_served_by_one_fetch(open_confined):
    async with open_confined() as mount:
        data = os.urandom(100_000)
        store(mount, data)
        name_file(mount, (0, 100_000, 0))
        slow_down(mount, 0.2)
        found = []

        async def read():
            found.append(await mount.names.read(INO) == data)

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(read)
        assert found == [True] * 30
        assert len(ticket_requests(mount)) == 1
        assert len(set(asked(mount))) == 1
        assert len(asked(mount)) <= 2  # the second one is a hedge


def slow_down(mount, delay_s):
    for server in mount.cluster.chunkservers.values():
        server.delay_s = delay_s


async def test_a_fetch_that_fails_harms_only_who_began_it_at_worst(open_confined):
    async with open_confined() as mount:
        data = os.urandom(1000)
        store(mount, data)
        name_file(mount, (0, 1000, 0))
        slow_down(mount, 0.1)
        for server in (1, 2):
            mount.cluster.chunkservers[server].fail_reads = [make_error(Code.DAMAGED, "bad bytes")]
        outcomes = []

        async def read():
            try:
                outcomes.append(await mount.names.read(INO) == data)
            except ChunkFault:
                outcomes.append(None)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(read)
        assert outcomes.count(True) >= 9
        assert False not in outcomes


async def test_a_reader_that_is_cancelled_leaves_nothing_behind(open_confined):
    async with open_confined() as mount:
        data = os.urandom(1000)
        store(mount, data)
        name_file(mount, (0, 1000, 0))
        slow_down(mount, 0.3)
        found = []

        async def read():
            found.append(await mount.names.read(INO))

        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0.15) as gave_up:
                nursery.start_soon(wait_then, 0.05, read)
                await mount.names.read(INO)  # the first: it fetches for both
            assert gave_up.cancelled_caught
        assert found == [data]
        assert not mount.content._reader._under_way


async def wait_then(pause_s, action):
    await trio.sleep(pause_s)
    await action()


async def test_bad_bytes_are_passed_over_and_when_all_are_bad_it_is_told(open_confined):
    async with open_confined() as mount:
        data = os.urandom(1000)
        store(mount, data)
        name_file(mount, (0, 1000, 0))
        mount.cluster.chunkservers[1].rotten = {CHUNK}
        for _ in range(4):
            mount.content._reader.clear()
            assert await mount.names.read(INO) == data
        mount.cluster.chunkservers[2].rotten = {CHUNK}
        mount.content._reader.clear()
        with pytest.raises(ChunkFault) as caught:
            await mount.names.read(INO)
        assert caught.value.code is Code.DAMAGED


async def test_servers_that_are_away_for_a_moment_are_waited_for(open_confined, nursery):
    async with open_confined() as mount:
        store(mount, b"mine" * 100)
        name_file(mount, (0, 400, 0))
        servers = [mount.cluster.chunkservers[number] for number in (1, 2)]
        for server in servers:
            await server.stop()

        async def come_back():
            await trio.sleep(0.7)
            for server in servers:
                await server.start(nursery)

        nursery.start_soon(come_back)
        assert await mount.names.read(INO) == b"mine" * 100


async def test_without_any_server_a_read_fails_in_time(open_confined, monkeypatch):
    monkeypatch.setattr(exactreader, "PATIENCE_S", 0.5)
    async with open_confined() as mount:
        store(mount, b"mine" * 100)
        name_file(mount, (0, 400, 0))
        for number in (1, 2):
            await mount.cluster.chunkservers[number].stop()
        with pytest.raises(Unavailable):
            await mount.names.read(INO)


async def test_a_chunk_that_went_elsewhere_is_found_there(open_confined):
    async with open_confined() as mount:
        data = os.urandom(3 * MIB)
        store(mount, data)
        name_file(mount, (0, 3 * MIB, 0))
        assert await mount.names.read(INO, 0, 10) == data[:10]
        for number in (1, 2):
            del mount.cluster.chunkservers[number].chunks[CHUNK]
        store(mount, data, servers=(3,))
        assert await mount.names.read(INO, 2 * MIB, 10) == data[2 * MIB : 2 * MIB + 10]


async def test_a_long_read_fetches_ahead_of_need_and_not_beyond_the_file(open_confined):
    async with open_confined() as mount:
        data = os.urandom(8 * MIB)
        store(mount, data)
        name_file(mount, (0, 5 * MIB, MIB))
        for start in range(0, 4 * MIB, 128 * 1024):
            await mount.names.read(INO, start, 128 * 1024)
        await trio.sleep(0.2)
        assert max(end for _, end in asked(mount)) == 6 * MIB
        assert all(end - start <= PIECE_BYTES for start, end in asked(mount))
        assert sum(end - start for start, end in set(asked(mount))) < 5.5 * MIB, "fetched twice"
