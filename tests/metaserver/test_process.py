"""A running metaserver with its sockets and its background work, and real chunkserver processes beside it."""

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.messages import (
    ChunkGrant,
    ChunkLocate,
    ChunkSealed,
    Damage,
    FrameType,
    SessionRef,
    Tickets,
    Tree,
)
from cloudverge_protocol.operations import ChunkDone, Unlink
from tests.fixtures.metamachine import JOIN_TOKEN, Machine, Running, running_machine, until

pytestmark = [pytest.mark.anyio, pytest.mark.faults]


@pytest.fixture(scope="module")
async def machine(meta_database, make_world_on, tmp_path_factory, anyio_backend) -> AsyncIterator[Machine]:
    """A metaserver in this process and three chunkservers beside it."""
    world = await make_world_on(meta_database)
    try:
        async with running_machine(meta_database, world, tmp_path_factory.mktemp("machine")) as made:
            yield made
    finally:
        await world.database.close()


_spaces = itertools.count(1)


@pytest.fixture
async def running(machine: Machine, make_identity) -> AsyncIterator[Running]:
    """One user's mount, with every server up."""
    await machine.all_up()
    space = next(_spaces)
    made = Running(machine, make_identity(space=space, user=space))
    await made.connect()
    await made.open()
    yield made
    made.client.close()


def third_server(running: Running, grant: ChunkGrant) -> int:
    (other,) = set(running.servers) - {place.server for place in grant.places}
    return other


async def test_a_sealed_chunk_is_good_on_all_its_servers(running):
    data = os.urandom(200_000)
    grant, _ = await running.stored_file(data)
    assert await running.seal(grant) == ChunkSealed(200_000, False)
    assert await running.seal(grant) == ChunkSealed(200_000, False)
    assert set((await running.states(grant)).values()) == {2}
    for place in grant.places:
        assert await running.read_at(place.server, grant, 200_000) == data


async def test_after_a_seal_nothing_can_be_appended_and_no_ticket_is_given(running):
    grant, _ = await running.stored_file(b"x" * 1000)
    await running.seal(grant)
    with pytest.raises(CloudVergeError) as caught:
        await running.append(grant, b"y", 1000)
    assert caught.value.code in (Code.SEALED, Code.FENCED)
    assert (
        await running.ask(FrameType.TICKETS, Tickets(running.space, *running.ref, (grant.chunk,)))
    ).append == ()


async def test_a_writer_is_told_only_what_all_servers_have_when_one_has_died(running):
    data = os.urandom(100_000)
    grant, _ = await running.stored_file(data)
    lonely = await running.append(grant, b"z" * 5000, 100_000, onward=False)
    dead = grant.places[1].server
    running.servers[dead].kill()
    assert await running.seal(grant, lonely.receipts) == ChunkSealed(100_000, False)
    states = await running.states(grant)
    assert (states[grant.places[0].server], states[dead]) == (2, 5)
    located = await running.ask(FrameType.CHUNK_LOCATE, ChunkLocate(running.space, (grant.chunk,)))
    assert [place.server for place in located.chunks[0].places] == [grant.places[0].server]
    third = third_server(running, grant)
    await until(lambda: has_state(running, grant, third, 2), "a third server has a copy")
    assert (await running.read_at(third, grant, 105_000)) == data + b"z" * 5000
    assert await running.sql(
        "select durable_length, sealed_length from meta.chunks where chunk = $1", grant.chunk
    ) == [(105_000, 105_000)]


async def has_state(running: Running, grant: ChunkGrant, server: int, state: int | None) -> bool:
    return (await running.states(grant)).get(server) == state


async def test_a_replica_left_out_is_removed_when_its_server_is_back_and_others_are_verified(running):
    grant, _ = await running.stored_file(os.urandom(50_000))
    dead = grant.places[1].server
    running.servers[dead].kill()
    await running.seal(grant)
    third = third_server(running, grant)
    await until(lambda: has_state(running, grant, third, 2), "a third server has a copy")
    await running.servers[dead].start()
    await until(lambda: has_state(running, grant, dead, None), "the stale replica is gone", 40)
    assert running.servers[dead].files(grant.chunk) == []


async def test_with_no_server_reachable_a_chunk_waits_damaged_and_recovers(running):
    grant, _ = await running.stored_file(os.urandom(50_000))
    for place in grant.places:
        running.servers[place.server].kill()
    assert await running.seal(grant) == ChunkSealed(50_000, True)
    for place in grant.places:
        await running.servers[place.server].start()
    await until(lambda: has_state(running, grant, grant.places[0].server, 2), "sealed after all", 40)
    assert await running.seal(grant) == ChunkSealed(50_000, False)


async def test_a_takeover_seals_what_the_incarnation_before_had_open(running):
    grant, _ = await running.stored_file(b"x" * 3000)
    spare = await running.allocate()
    await running.open()
    await until(lambda: has_state(running, grant, grant.places[0].server, 2), "sealed")
    rows = await running.sql(
        "select chunk, state, sealed_length, pinned_by is null from meta.chunks where space = $1 order by chunk",
        running.space,
    )
    assert rows == [(grant.chunk, 2, 3000, False), (spare.chunk, 2, 0, False)]


async def test_chunks_that_nothing_refers_to_are_deleted_from_their_servers(running):
    data = os.urandom(30_000)
    grant, ino = await running.stored_file(data)
    await running.do(Unlink(1, b"f%d" % ino, ino, False, 1))
    await running.seal(grant)
    await asyncio.sleep(1)
    assert set((await running.states(grant)).values()) == {2}  # still pinned by the journal
    await running.do(ChunkDone(grant.chunk))
    away = running.servers[grant.places[0].server]
    await until(lambda: gone(running, grant), "the replicas are removed")
    assert away.files(grant.chunk) == []
    assert (
        await running.ask(FrameType.CHUNK_LOCATE, ChunkLocate(running.space, (grant.chunk,)))
    ).chunks == ()


async def gone(running: Running, grant: ChunkGrant) -> bool:
    return await running.states(grant) == {}


async def test_a_replica_on_a_server_that_is_away_is_deleted_when_it_is_back(running):
    grant, ino = await running.stored_file(os.urandom(30_000))
    await running.seal(grant)
    dead = grant.places[0].server
    running.servers[dead].kill()
    await running.do(Unlink(1, b"f%d" % ino, ino, False, 1), ChunkDone(grant.chunk))
    await until(lambda: has_state(running, grant, grant.places[1].server, None), "removed where it can be")
    assert await running.states(grant) == {dead: 6}
    await running.servers[dead].start()
    await until(lambda: gone(running, grant), "removed there too")


async def test_a_flipped_byte_is_found_by_a_readers_report_and_mended(running):
    data = os.urandom(200_000)
    grant, _ = await running.stored_file(data)
    await running.seal(grant)
    hurt = grant.places[0].server
    largest = max(running.servers[hurt].files(grant.chunk), key=lambda path: path.stat().st_size)
    flip_byte(largest, 70_000)
    with pytest.raises(CloudVergeError):
        await running.read_at(hurt, grant, 200_000)
    await running.ask(FrameType.DAMAGE, Damage(running.space, grant.chunk, hurt))

    async def mended() -> bool:
        with contextlib.suppress(CloudVergeError):
            return await running.read_at(hurt, grant, 200_000) == data
        return False

    await until(mended, "the replica is whole again", 40)


def flip_byte(path: Path, position: int) -> None:
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))


async def test_reports_about_foreign_and_absent_chunks_are_answered_alike(running):
    grant, _ = await running.stored_file(b"x" * 100)
    replies = [
        await running.ask(FrameType.DAMAGE, Damage(running.space, chunk, server))
        for chunk, server in ((grant.chunk, grant.places[0].server), (10**12, 1), (2**63, 2**63), (1, 10**9))
    ]
    assert len({msgspec.msgpack.encode(reply) for reply in replies}) == 1


async def test_a_database_that_is_restarted_costs_an_error_and_nothing_else(running, postgres):
    grant, _ = await running.stored_file(b"x" * 100)
    postgres.kill()
    try:
        started_at = time.monotonic()
        with pytest.raises(CloudVergeError) as caught:
            await running.ask(FrameType.TREE, Tree(running.space, 1))
        assert caught.value.code == Code.UNAVAILABLE
        assert time.monotonic() - started_at < 15
    finally:
        postgres.start()

    async def answers() -> bool:
        with contextlib.suppress(CloudVergeError):
            return bool((await running.ask(FrameType.TREE, Tree(running.space, 1))).folders)
        return False

    await until(answers, "the metaserver serves again")
    await running.ask(FrameType.SESSION_RENEW, SessionRef(*running.ref))
    assert (await running.seal(grant)).length == 100


async def test_metrics_and_status_show_servers_without_secrets(running):
    async with httpx.AsyncClient(base_url=running.machine.endpoints.http, trust_env=False) as client:
        token = running.hello().token
        status = await client.get("/v1/status", headers={"Authorization": f"Bearer {token}"})
        assert [server["state"] for server in status.json()["servers"]] == ["up"] * 3
        assert "key" not in status.text
        metrics = await client.get("/metrics", headers={"Authorization": f"Bearer {JOIN_TOKEN}"})
        assert "cloudverge_server_free_bytes" in metrics.text
        assert (await client.get("/v1/status")).status_code == 401
