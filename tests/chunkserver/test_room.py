"""A full disk: a clear error, nothing lost, nothing promised that cannot be kept."""

import errno
import os

import pytest

from cloudverge_chunkserver.capacity import Capacity
from cloudverge_chunkserver.disk import Part, Room
from cloudverge_chunkserver.memdisk import MemDisk
from cloudverge_protocol.errors import CloudVergeError, Code, NoRoom
from cloudverge_protocol.ids import CHUNK_BYTES
from cloudverge_protocol.messages import FrameType, ReplicaDelete

MIB = 1 << 20


def code_of(call, *arguments, **options) -> Code:
    with pytest.raises(CloudVergeError) as caught:
        call(*arguments, **options)
    return caught.value.code


@pytest.mark.parametrize(
    ("cap", "stored", "claimed", "reserve", "free"),
    [
        (0, 0, 0, 0, 1000 * MIB),
        (0, 0, 64 * MIB, 0, 936 * MIB),
        (0, 999, 0, -1, 872 * MIB),
        (100 * MIB, 60 * MIB, 30 * MIB, 0, 10 * MIB),
        (100 * MIB, 60 * MIB, 60 * MIB, 0, 0),
        (80 * MIB, 0, 0, -1, 70 * MIB),
        (9000 * MIB, 0, 0, 0, 1000 * MIB),
    ],
)
def test_free_room_is_what_may_still_be_promised(cap, stored, claimed, reserve, free):
    capacity = Capacity(cap, stored, reserve)
    assert capacity.free_bytes(Room(2000 * MIB, 1000 * MIB), claimed) == free


def test_a_chunk_that_might_not_fit_is_refused_before_a_byte_is_taken(open_store, writer_of):
    store = open_store(MemDisk(), cap_bytes=100 * MIB)
    writer = writer_of(store)
    writer.append(b"x", 0, writer.right(1))
    assert code_of(writer.append, b"x", 0, writer.right(2)) == Code.NO_SPACE
    assert store.find(2) is None
    writer.append(b"x", 0, writer.right(3, limit=30 * MIB))


def test_a_promise_is_kept_to_the_last_byte(open_store, writer_of):
    store = open_store(MemDisk(), cap_bytes=3 * MIB)
    writer = writer_of(store)
    small = writer.right(1, limit=2 * MIB)
    writer.append(b"x", 0, small)
    assert code_of(writer.append, b"x", 0, writer.right(2, limit=2 * MIB)) == Code.NO_SPACE
    assert writer.append(bytes(2 * MIB - 1), 1, small) == 2 * MIB
    assert store.claimed_bytes() == 0


def test_a_larger_limit_in_a_later_ticket_does_not_pass_what_room_was_kept_for(open_store, writer_of):
    writer = writer_of(open_store(MemDisk()))
    writer.append(b"x", 0, writer.right(1, limit=100))
    assert code_of(writer.append, bytes(200), 1, writer.right(1)) == Code.CHUNK_FULL


def test_an_append_that_meets_a_full_disk_changes_nothing_and_succeeds_later(open_store, writer_of):
    disk = MemDisk(total_bytes=1 << 40)
    store = open_store(disk)
    writer = writer_of(store)
    data = os.urandom(200_000)
    writer.append(data[:100_000], 0)
    for part in (Part.DATA, Part.LOG):
        disk.fail = full(part)
        assert code_of(writer.append, data[100_000:], 100_000) == Code.NO_SPACE
        disk.fail = lambda *_: None
        assert store.find(1).length == 100_000
        assert disk.size(1, Part.DATA) == 100_000
    assert writer.append(data[100_000:], 100_000) == 200_000
    again = open_store(disk)
    assert again.find(1).length == 200_000
    assert not again.find(1).closed


def full(part: Part):
    """A disk on which writes to ``part`` find no room."""

    def fail(call: str, _chunk: int, name: Part) -> None:
        if call == "write" and name is part:
            raise OSError(errno.ENOSPC, "full")

    return fail


def test_a_disk_that_fails_to_write_closes_the_chunk_at_what_was_acknowledged(open_store, writer_of):
    disk = MemDisk()
    store = open_store(disk)
    writer = writer_of(store)
    writer.append(b"good", 0)

    def broken(call: str, *_: object) -> None:
        if call == "write":
            raise OSError(errno.EIO, "broken")

    disk.fail = broken
    assert code_of(writer.append, b"more", 4) == Code.DAMAGED
    disk.fail = lambda *_: None
    assert code_of(writer.append, b"more", 4) == Code.SEALED
    assert store.view(1, 7).length == 4


@pytest.mark.anyio
async def test_room_returns_when_chunks_are_sealed_short_or_deleted(cluster):
    server = await cluster.start(1, capacity_bytes=70 * MIB, reserve_bytes=0)
    client = await cluster.client(1)
    await client.append(5, 0, bytes(MIB))
    with pytest.raises(NoRoom):
        await client.append(6, 0, b"x")
    assert server.report().full
    await client.seal(5, MIB)
    assert server.store.free_bytes() == 69 * MIB
    await client.append(6, 0, bytes(MIB))
    await client.call(FrameType.REPLICA_DELETE, ReplicaDelete(cluster.ticket("control", space=0), (5, 6)))
    assert server.store.free_bytes() == 70 * MIB
    await client.append(7, 0, b"x")
    assert server.store.claimed_bytes() == CHUNK_BYTES - 1


@pytest.mark.anyio
async def test_a_failed_sync_is_never_answered_by_a_receipt_later(cluster):
    server = await cluster.start(1)
    disk = server.store.disk
    disk.in_memory = False
    client = await cluster.client(1)
    await client.append(5, 0, b"durable", sync=True)
    await client.append(5, 7, b" and not")
    sync = disk.sync

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    disk.sync = broken
    for _ in range(2):
        with pytest.raises(CloudVergeError) as caught:
            await client.append(5, 15, b"", sync=True)
        assert caught.value.code == Code.DAMAGED
        disk.sync = sync
    state = await client.seal(5)
    assert (state.state, state.length) == ("OPEN", 7)
    assert (await client.seal(5, 7)).state == "SEALED"
    assert (await client.read(5, 0, 100))[1] == b"durable"
