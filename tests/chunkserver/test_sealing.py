"""Sealing, deleting, verifying: what the metaserver does, and a crash at each step of it."""

import asyncio
import os

import pytest

from cloudverge_chunkserver.commits import Commits, Workers
from cloudverge_chunkserver.disk import Part
from cloudverge_chunkserver.memdisk import MemDisk
from cloudverge_chunkserver.replicas import Replicas
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.ids import BLOCK_BYTES
from cloudverge_protocol.messages import FrameType, ReplicaDelete, ReplicaStat, ReplicaVerify
from cloudverge_protocol.receipts import receipt_is_genuine

pytestmark = pytest.mark.anyio

DATA = os.urandom(2 * BLOCK_BYTES + 1000)


async def code_of(call) -> Code:
    with pytest.raises(CloudVergeError) as caught:
        await call
    return caught.value.code


async def stat(client, chunk: int):
    ticket = client.cluster.ticket("control", space=0)
    return (await client.call(FrameType.REPLICA_STAT, ReplicaStat(ticket, (chunk,)))).states[0]


async def test_a_first_seal_stops_appends_and_answers_the_proven_length(cluster):
    server = await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, DATA)
    state = await client.seal(5)
    assert (state.state, state.epoch, state.length) == ("OPEN", 2, len(DATA))
    assert receipt_is_genuine(server.home.receipt_key, state.receipt)
    assert await code_of(client.append(5, len(DATA), b"late")) == Code.FENCED
    await cluster.stop(1)
    await cluster.start(1)
    client = await cluster.client(1)
    assert await code_of(client.append(5, len(DATA), b"late")) == Code.FENCED


@pytest.mark.parametrize("length", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 7, len(DATA) - 1, len(DATA)])
async def test_a_seal_makes_its_length_the_last_word(cluster, length):
    await cluster.start(1)
    client = await cluster.client(1)
    for offset in range(0, len(DATA), 999):
        await client.append(5, offset, DATA[offset : offset + 999])
    await client.seal(5)
    state = await client.seal(5, length)
    assert (state.state, state.epoch, state.length) == ("SEALED", 2, length)
    for _ in range(2):
        assert (await client.read(5, 0, 4 << 20))[1] == DATA[:length]
        assert await stat(client, 5) == state
        await cluster.stop(1)
        server = await cluster.start(1)
        client = await cluster.client(1)
    assert sorted(part for _, part, _ in server.store.disk.stored()) == ["crc", "data"]


async def test_a_seal_beyond_what_is_here_changes_nothing(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, DATA)
    state = await client.seal(5, len(DATA) + 1)
    assert (state.state, state.length) == ("OPEN", len(DATA))


async def test_sealing_twice_is_answered_alike_and_an_older_epoch_is_fenced(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, DATA)
    first = await client.seal(5, 1000)
    assert await client.seal(5, 1000) == first
    assert await client.seal(5) == first
    assert await code_of(client.seal(5, 1000, epoch=1)) == Code.FENCED


async def test_an_append_that_comes_after_the_seal_of_an_absent_chunk_makes_nothing(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    assert (await client.seal(5)).state == "ABSENT"
    assert await code_of(client.append(5, 0, DATA)) == Code.FENCED
    assert (await stat(client, 5)).state == "ABSENT"


async def test_a_deleted_chunk_is_gone_with_its_files_and_stays_gone(cluster):
    server = await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, DATA, sync=True)
    await client.append(6, 0, DATA, sync=True)
    await client.seal(6, len(DATA))
    before = server.store.free_bytes()
    ticket = cluster.ticket("control", space=0)
    await client.call(FrameType.REPLICA_DELETE, ReplicaDelete(ticket, (5, 6, 999)))
    assert list(server.store.disk.stored()) == []
    assert server.store.free_bytes() > before
    assert (server.store.chunks, server.store.capacity.stored_bytes) == (0, 0)
    for chunk in (5, 6):
        assert await code_of(client.read(chunk, 0, 1)) == Code.NO_CHUNK
        assert await code_of(client.append(chunk, 0, DATA)) == Code.FENCED


async def test_verify_names_the_blocks_that_fail(cluster):
    server = await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, DATA, sync=True)
    await client.seal(5, len(DATA))
    ticket = cluster.ticket("control", 5)
    reply = await client.call(FrameType.REPLICA_VERIFY, ReplicaVerify(ticket, 5))
    assert (reply.length, reply.bad) == (len(DATA), ())
    server.store.disk.write(5, Part.DATA, BLOCK_BYTES + 3, b"\x00\x00\x00\x00")
    reply = await client.call(FrameType.REPLICA_VERIFY, ReplicaVerify(ticket, 5))
    assert reply.bad == (1,)
    state = await stat(client, 5)
    assert (state.state, state.length) == ("DAMAGED", BLOCK_BYTES)


class Crash(Exception):
    """The power goes."""


@pytest.mark.parametrize("length", [BLOCK_BYTES + 7, len(DATA)])
async def test_a_crash_at_any_step_of_a_seal_leaves_the_chunk_whole(open_store, writer_of, length):
    step = 0
    while True:
        disk = MemDisk()
        store = open_store(disk)
        writer_of(store).append(DATA, 0)
        workers = Workers(1)
        commits = Commits(disk, workers)
        assert commits.durable_at_once(store.find(1), len(DATA))
        crashed = await seal_until(disk, Replicas(store, commits, workers), length, step)
        workers.close()
        disk.fail = lambda *_: None
        disk.crash()
        again = open_store(disk)
        view = again.view(1, 7)
        assert view.length in (length, len(DATA))
        span_data = again.disk.read(1, Part.DATA, 0, view.length)
        assert bytes(span_data) == DATA[: view.length]
        if not crashed:
            assert view.length == length
            return
        step += 1


async def seal_until(disk: MemDisk, replicas: Replicas, length: int, steps: int) -> bool:
    """Seal, with the power going at disk call number ``steps``; whether it went."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls > steps:
            raise Crash

    disk.fail = count
    try:
        await replicas.seal(1, 2, length)
    except Crash:
        return True
    return False


async def test_reads_go_on_while_a_chunk_is_sealed(cluster):
    server = await cluster.start(1)
    server.store.disk.in_memory = False
    client = await cluster.client(1)
    await client.append(5, 0, DATA, sync=True)
    reads = [client.read(5, 0, 1000) for _ in range(50)]
    *answers, state = await asyncio.gather(*reads, client.seal(5, 1000))
    assert state.state == "SEALED"
    assert all(body[:1000] == DATA[:1000] for _, body in answers)
