"""A deleted space leaves nothing behind, and cannot come back by a ticket that is still about."""

import stat
from pathlib import Path

import pytest

from cloudverge_metaserver import purge as module
from cloudverge_metaserver.audit import Auditor
from cloudverge_metaserver.authority import Authority
from cloudverge_metaserver.purge import Purger
from cloudverge_metaserver.revocations import Revocations
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.messages import ChunkGrant
from cloudverge_protocol.operations import Setxattr, Unlink
from tests.fixtures.metamachine import JOIN_TOKEN, Chunkserver, Running, running_machine, until
from tests.fixtures.standinauth import stand_in_auth
from tests.metaserver.conftest import NOW_NS, Mount, World

pytestmark = pytest.mark.anyio


async def fill(world: World, mount: Mount) -> None:
    """Something in every table."""
    (grant, _) = await mount.allocate(2)
    folder = mount.create(1, b"folder", stat.S_IFDIR | 0o755)
    made = mount.create(folder.ino, b"file")
    open_file = mount.create(1, b"open")
    await mount.do(
        folder, made, open_file, mount.write(made.ino, grant, 500),
        Setxattr(made.ino, b"user.a", b"x", 0, NOW_NS), Unlink(1, b"open", open_file.ino, True, NOW_NS),
        *(mount.create(folder.ino, b"f%d" % n) for n in range(30)), receipts=mount.receipts(grant, 500),
    )  # fmt: skip
    await world.sql(
        "insert into meta.trash values ($1, 1, 1, 1, '', now(), now()) returning 1", mount.who.space
    )
    await Auditor(world.database).tell(mount.who.space)


async def left_of(world: World, space: int) -> dict[str, int]:
    """Rows of a space by table; a table that is new is counted as well."""
    tables = await world.sql(
        "select table_name from information_schema.columns where table_schema = 'meta' and column_name = 'space'"
    )
    counts = {
        name: await world.value(f'select count(*) from meta."{name}" where space = $1', space)
        for (name,) in tables
    }
    ranges = "select count(*) from meta.id_ranges g where g.session = any($1::bigint[])"
    sessions = [
        row[0] for row in await world.sql("select session from meta.sessions where space = $1", space)
    ]
    return {name: count for name, count in counts.items() if count} | {
        "id_ranges": await world.value(ranges, sessions)
    }


@pytest.fixture
def purger(world) -> Purger:
    return Purger(world.database, Authority("http://127.0.0.1:9", JOIN_TOKEN), lambda: [])


async def test_nothing_is_left_but_the_closed_space_and_chunks_that_are_being_deleted(
    world, mount, purger, make_identity, monkeypatch
):
    monkeypatch.setattr(module, "AT_ONCE", 7)
    monkeypatch.setattr(module, "CHUNKS_AT_ONCE", 1)
    other = await world.open(make_identity(space=2, user=2))
    for each in (other, mount):
        await fill(world, each)
    before = await left_of(world, 2)
    assert {"inodes", "dentries", "extents", "xattrs", "orphans", "oplog", "trash", "audit"} <= set(before)
    await purger.purge(1)
    assert set(await left_of(world, 1)) == {"spaces", "chunks", "id_ranges"}
    assert (await left_of(world, 1))["id_ranges"] == 0
    rows = await world.sql(
        "select space, state, live_bytes, pinned_by is null from meta.chunks order by 1, 2"
    )
    assert {tuple(row) for row in rows if row[0] == 1} == {(1, 4, 0, True)}
    assert {row[1] for row in rows if row[0] == 2} == {1}
    states = "select c.space, r.state from meta.replicas r join meta.chunks c using (chunk)"
    assert {tuple(row) for row in await world.sql(states)} == {(1, 6), (2, 1)}
    assert await left_of(world, 2) == before
    assert await world.value("select count(*) from meta.id_ranges") == 1


async def test_a_late_ticket_can_neither_write_nor_open_the_space_again(world, mount, purger):
    await fill(world, mount)
    await purger.purge(1)
    with pytest.raises(CloudVergeError):
        await mount.do(mount.create(1, b"late"))
    with pytest.raises(CloudVergeError) as caught:
        await world.open(mount.who)
    assert caught.value.code == Code.UNAUTHORIZED
    assert "inodes" not in await left_of(world, 1)


async def test_a_purge_can_be_repeated_and_the_closed_row_goes_after_a_day(world, mount, purger):
    await fill(world, mount)
    for _ in range(2):
        await purger.purge(1)
    await purger.run()
    assert await world.value("select count(*) from meta.spaces") == 1
    await world.sql("update meta.spaces set created_at = created_at - interval '25 hours' returning 1")
    await purger.run()
    assert await world.value("select count(*) from meta.spaces") == 0


async def test_a_space_that_nobody_ever_opened_is_purged(world, purger):
    await purger.purge(77)


async def test_auth_is_told_when_it_is_done_and_asked_again_if_it_could_not_be(world, mount):
    await fill(world, mount)
    async with stand_in_auth(JOIN_TOKEN) as auth:
        authority = Authority(auth.url, JOIN_TOKEN)
        revocations = Revocations(authority)
        purger = Purger(world.database, authority, lambda: revocations.deleted)
        kicked = []
        revocations.on_deleted = lambda: kicked.append(1)
        auth.deleted = [1]
        await revocations.poll()
        assert kicked == [1]
        auth.away = True
        await purger.run()
        assert auth.purged == []
        auth.away = False
        await purger.run()
        assert auth.purged == [1]
        await revocations.poll()
        assert revocations.deleted == frozenset()
        await authority.close()


def replicas(server: Chunkserver, grant: ChunkGrant) -> list[Path]:
    """The files of one chunk."""
    return [path for path in server.files(grant.chunk) if path.stem == f"{grant.chunk:016x}"]


@pytest.mark.faults
async def test_the_replicas_of_a_deleted_space_are_removed_from_their_servers(
    meta_database, make_world_on, tmp_path, make_identity
):
    world = await make_world_on(meta_database)
    async with (
        stand_in_auth(JOIN_TOKEN) as auth,
        running_machine(meta_database, world, tmp_path, auth_url=auth.url, servers=2) as machine,
    ):
        running = Running(machine, make_identity(space=5))
        await running.connect()
        await running.open()
        grant, _ = await running.stored_file(b"x" * 100_000)
        assert all(server.files(grant.chunk) for server in machine.servers.values())
        auth.deleted = [5]
        await until(lambda: auth.purged == [5], "auth is told")
        await until(
            lambda: not any(replicas(server, grant) for server in machine.servers.values()),
            "the replicas are gone",
        )
        running.client.close()
    await world.database.close()
