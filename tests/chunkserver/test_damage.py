"""Flipped, missing and truncated bytes: never sent, always named, and repaired from good copies."""

import os

import pytest

from cloudverge_chunkserver.disk import Part
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.ids import BLOCK_BYTES
from cloudverge_protocol.messages import FrameType, ReplicaFetch

pytestmark = pytest.mark.anyio

DATA = os.urandom(20 * BLOCK_BYTES + 1000)


async def sealed_on(cluster, *numbers: int) -> None:
    """Chunk 5 with DATA, sealed, on these servers."""
    for number in numbers:
        if number not in cluster.servers:
            await cluster.start(number)
        client = await cluster.client(number)
        await client.append(5, 0, DATA, sync=True)
        await client.seal(5, len(DATA))


def flip(cluster, number: int, *blocks: int) -> None:
    disk = cluster.servers[number].store.disk
    for block in blocks:
        at = block * BLOCK_BYTES + 99
        disk.write(5, Part.DATA, at, bytes([DATA[at] ^ 0x40]))


async def error_of(call) -> CloudVergeError:
    with pytest.raises(CloudVergeError) as caught:
        await call
    return caught.value


async def fetch(cluster, number: int, *sources: int, epoch: int = 2, length: int = len(DATA)):
    client = await cluster.client(number)
    message = ReplicaFetch(
        cluster.ticket("control", 5), 5, 7, epoch, length,
        tuple(cluster.place(source) for source in sources), cluster.ticket("read", 5),
    )  # fmt: skip
    return await client.call(FrameType.REPLICA_FETCH, message)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("in_memory", [True, False])
async def test_a_flipped_byte_costs_its_block_alone(cluster, sealed, in_memory):
    server = await cluster.start(1)
    server.store.disk.in_memory = in_memory
    client = await cluster.client(1)
    await client.append(5, 0, DATA, sync=True)
    if sealed:
        await client.seal(5, len(DATA))
    flip(cluster, 1, 3)
    error = await error_of(client.read(5, 3 * BLOCK_BYTES + 7, 1))
    assert error.code == Code.DAMAGED
    assert "block 3" in error.message
    assert (await client.read(5, 0, 3 * BLOCK_BYTES))[1] == DATA[: 3 * BLOCK_BYTES]
    assert (await client.read(5, 4 * BLOCK_BYTES, 4 << 20))[1] == DATA[4 * BLOCK_BYTES :]
    assert server.report().damaged == [5]


async def test_damage_is_still_known_after_a_restart(cluster):
    await sealed_on(cluster, 1)
    flip(cluster, 1, 3)
    await error_of((await cluster.client(1)).read(5, 3 * BLOCK_BYTES, 1))
    await cluster.stop(1)
    server = await cluster.start(1)
    assert server.report().damaged == [5]


@pytest.mark.parametrize("size", [0, 1, 7 * BLOCK_BYTES, 7 * BLOCK_BYTES + 5])
async def test_a_truncated_file_gives_what_is_left_of_it(cluster, size):
    await sealed_on(cluster, 1)
    cluster.servers[1].store.disk.truncate(5, Part.DATA, size)
    client = await cluster.client(1)
    whole = size // BLOCK_BYTES
    if whole:
        assert (await client.read(5, 0, whole * BLOCK_BYTES))[1] == DATA[: whole * BLOCK_BYTES]
    assert (await error_of(client.read(5, whole * BLOCK_BYTES, 4 << 20))).code == Code.DAMAGED


@pytest.mark.parametrize("part", [Part.DATA, Part.TABLE])
async def test_a_deleted_file_is_an_error_and_is_repaired_from_another_server(cluster, part):
    await sealed_on(cluster, 1, 2)
    await cluster.stop(1)
    for path in (cluster.folder / "chunkserver-1").rglob(f"*.{part}"):
        path.unlink()
    await cluster.start(1)
    client = await cluster.client(1)
    assert (await error_of(client.read(5, 0, 10))).code in (Code.DAMAGED, Code.NO_CHUNK)
    assert (await fetch(cluster, 1, 2)).state == "SEALED"
    assert (await client.read(5, 0, 4 << 20))[1] == DATA


async def test_a_damaged_sidecar_proves_nothing_and_is_repaired(cluster):
    await sealed_on(cluster, 1, 2)
    await cluster.stop(1)
    (path,) = (cluster.folder / "chunkserver-1").rglob("*.crc")
    table = bytearray(path.read_bytes())
    table[70] ^= 1
    path.write_bytes(table)
    server = await cluster.start(1)
    client = await cluster.client(1)
    assert (await error_of(client.read(5, 0, 10))).code == Code.NO_CHUNK
    assert server.report().damaged == [5]
    assert (await fetch(cluster, 1, 2)).state == "SEALED"
    assert (await client.read(5, 0, 4 << 20))[1] == DATA
    assert server.report().damaged == []


async def test_repair_takes_each_block_where_it_is_good(cluster):
    await sealed_on(cluster, 1, 2, 3)
    flip(cluster, 1, 0, 1, 2)
    flip(cluster, 2, 2, 3)
    flip(cluster, 3, 0, 19)
    server = cluster.servers[1]
    state = await fetch(cluster, 1, 2, 3)
    assert (state.state, state.length) == ("SEALED", len(DATA))
    assert (await (await cluster.client(1)).read(5, 0, 4 << 20))[1] == DATA
    assert server.report().damaged == []


async def test_a_block_that_is_nowhere_good_fails_the_repair_and_changes_nothing(cluster):
    await sealed_on(cluster, 1, 2)
    flip(cluster, 1, 4)
    flip(cluster, 2, 4)
    assert (await error_of(fetch(cluster, 1, 2))).code == Code.DAMAGED
    client = await cluster.client(1)
    assert (await client.read(5, 0, 4 * BLOCK_BYTES))[1] == DATA[: 4 * BLOCK_BYTES]
    assert (await client.read(5, 5 * BLOCK_BYTES, 4 << 20))[1] == DATA[5 * BLOCK_BYTES :]
    assert {file.part for file in cluster.servers[1].store.disk.stored()} == {Part.DATA, Part.TABLE}


async def test_a_new_replica_is_copied_past_a_source_that_is_away(cluster):
    await sealed_on(cluster, 1, 2)
    await cluster.start(3)
    places = cluster.place(1), cluster.place(2)
    await cluster.stop(1)
    client = await cluster.client(3)
    message = ReplicaFetch(
        cluster.ticket("control", 5), 5, 7, 2, len(DATA), places, cluster.ticket("read", 5)
    )
    assert (await client.call(FrameType.REPLICA_FETCH, message)).state == "SEALED"
    assert (await client.read(5, 0, 4 << 20))[1] == DATA
    assert cluster.servers[3].store.chunks == 1
    assert cluster.servers[3].store.capacity.stored_bytes == len(DATA)


async def test_a_copy_is_cut_at_the_seal_of_a_longer_source(cluster):
    await sealed_on(cluster, 1)
    await cluster.start(2)
    length = 3 * BLOCK_BYTES + 11
    state = await fetch(cluster, 2, 1, length=length)
    assert (state.state, state.length) == ("SEALED", length)
    assert (await (await cluster.client(2)).read(5, 0, 4 << 20))[1] == DATA[:length]


async def test_a_short_open_replica_is_replaced_by_the_sealed_chunk(cluster):
    await sealed_on(cluster, 1)
    await cluster.start(2)
    client = await cluster.client(2)
    await client.append(5, 0, DATA[:1000], sync=True)
    assert (await fetch(cluster, 2, 1)).state == "SEALED"
    assert (await client.read(5, 0, 4 << 20))[1] == DATA
    await cluster.stop(2)
    server = await cluster.start(2)
    assert (server.store.chunks, server.store.open_chunks()) == (1, [])


async def test_a_whole_replica_is_left_as_it_is(cluster):
    await sealed_on(cluster, 1)
    state = await fetch(cluster, 1)
    assert (state.state, state.length) == ("SEALED", len(DATA))


async def test_sealing_a_chunk_with_a_bad_block_keeps_its_other_blocks_readable(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, DATA, sync=True)
    await cluster.stop(1)
    await cluster.start(1)
    flip(cluster, 1, 3)
    client = await cluster.client(1)
    state = await client.seal(5, len(DATA))
    assert (state.state, state.length) == ("DAMAGED", 3 * BLOCK_BYTES)
    assert (await client.read(5, 4 * BLOCK_BYTES, 4 << 20))[1] == DATA[4 * BLOCK_BYTES :]
