"""What a metaserver remembers between batches saves round trips and never changes an answer."""

import pytest

from cloudverge_metaserver.kept import ROWS_MAX, SPACES_MAX, KeptSpaces
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.ids import REGION_BYTES
from cloudverge_protocol.operations import XATTR_REPLACE, ChunkDone, Setxattr, Unlink

pytestmark = pytest.mark.anyio
NOW_NS = 1_700_000_000_000_000_000


@pytest.fixture
async def file(mount):
    """A file in space 1, and a chunk to write to."""
    create = mount.create(1, b"f")
    (grant,) = await mount.allocate()
    await mount.do(create)
    return create.ino, grant


@pytest.fixture
def no_locks(world, monkeypatch):
    """From when it is called, a transaction of several round trips on the space fails the test."""

    def forbid():
        def refuse(space):
            pytest.fail("the space was locked by a statement of its own")

        monkeypatch.setattr(world.database, "on_space", refuse)

    return forbid


async def append(mount, file, start, length):
    ino, grant = file
    op = mount.write(ino, grant, length, start, start)
    return await mount.do(op, receipts=mount.receipts(grant, start + length))


async def test_a_write_after_a_write_of_the_same_file_is_one_statement(mount, file, no_locks, world):
    await append(mount, file, 0, 100)
    no_locks()
    for number in range(1, 5):
        reply = await append(mount, file, number * 100, 100)
        assert reply.used_bytes == (number + 1) * 100
    assert await world.value("select size from meta.inodes where ino = $1", file[0]) == 500
    assert await world.value("select used_bytes from meta.spaces") == 500
    assert await world.value("select durable_length from meta.chunks") == 500
    assert (
        await world.value("select max(seq) from meta.oplog")
        == 6
        == await world.value("select seq from meta.spaces")
    )


async def test_files_made_here_and_removed_again_are_remembered_too(mount, file, no_locks):
    folder = mount.create(1, b"d", 0o40755)
    made = mount.create(folder.ino, b"a")
    await mount.do(folder, made)
    no_locks()
    await mount.do(Setxattr(folder.ino, b"user.x", b"1", 0, NOW_NS))
    await mount.do(Unlink(folder.ino, b"a", made.ino, False, NOW_NS))
    again = await mount.do(Unlink(folder.ino, b"a", made.ino, False, NOW_NS))
    assert again.refused_code == Code.NOT_FOUND


async def test_what_another_metaserver_committed_is_seen(mount, file, world):
    await append(mount, file, 0, 100)
    here, world.kept = world.kept, KeptSpaces()
    await mount.do(Unlink(1, b"f", file[0], False, NOW_NS), mount.create(1, b"g"))
    world.kept = here
    reply = await append(mount, file, 100, 100)
    assert reply.refused_code == Code.STALE
    assert (await mount.do(mount.create(1, b"g"))).refused_code == Code.EXISTS
    assert await world.value("select used_bytes from meta.spaces") == 0


async def test_a_session_that_was_replaced_is_fenced_whatever_is_remembered(mount, file, world):
    await append(mount, file, 0, 100)
    await world.open(mount.who, mount.cache_id)
    with pytest.raises(CloudVergeError) as caught:
        await append(mount, file, 100, 100)
    assert caught.value.code == Code.FENCED


async def test_another_user_with_the_numbers_of_a_session_is_fenced(mount, file, world, make_identity):
    await append(mount, file, 0, 100)
    mount.who = make_identity(user=2)
    with pytest.raises(CloudVergeError) as caught:
        await append(mount, file, 100, 100)
    assert caught.value.code == Code.FENCED


async def test_a_quota_that_was_lowered_holds_at_once(mount, file, world, make_identity):
    await append(mount, file, 0, 100)
    await world.sessions.renew(make_identity(quota_bytes=150), mount.ref)
    assert (await append(mount, file, 100, 100)).refused_code == Code.QUOTA


async def test_a_chunk_that_was_sealed_meanwhile_takes_no_more(mount, file, world):
    await append(mount, file, 0, 100)
    async with world.database.on_space(1) as connection:
        await connection.execute("update meta.chunks set state = 2, sealed_length = 100")
    assert (await append(mount, file, 100, 100)).refused_code == Code.NOT_DURABLE


async def test_receipts_under_a_new_key_of_a_server_are_looked_at_with_it(mount, file, world):
    await append(mount, file, 0, 100)
    for server in world.keys:
        world.keys[server] = bytes(32)
    await world.sql("update meta.servers set receipt_key = $1 returning 1", bytes(32))
    assert (await append(mount, file, 100, 100)).used_bytes == 200


async def test_a_batch_sent_twice_is_applied_once(mount, file, no_locks):
    ino, grant = file
    await append(mount, file, 0, 100)
    no_locks()
    entries = mount.entries([mount.write(ino, grant, 50, 100, 100)])
    receipts = mount.receipts(grant, 150)
    assert (await mount.send(entries, receipts)).used_bytes == 150
    again = await mount.send(entries, receipts)
    assert (again.seqs, again.used_bytes) == ((0,), 150)


async def test_a_refused_entry_leaves_nothing_behind_in_memory(mount, file, world, no_locks):
    ino, grant = file
    await append(mount, file, 0, 100)
    no_locks()
    reply = await mount.do(
        mount.write(ino, grant, 50, 0, 200), Setxattr(ino, b"user.x", b"1", XATTR_REPLACE, NOW_NS)
    )
    assert (len(reply.seqs), reply.refused_code) == (1, Code.NO_ATTR)
    assert (await append(mount, file, 100, 20)).used_bytes == 120
    assert await world.value("select size from meta.inodes where ino = $1", ino) == 120


async def test_the_end_of_a_pin_is_remembered(mount, file, world):
    await append(mount, file, 0, 100)
    await mount.do(ChunkDone(file[1].chunk))
    assert await world.value("select pinned_by from meta.chunks") is None


async def test_rows_that_are_large_are_not_remembered(mount, world):
    files = [mount.create(1, b"%d" % number) for number in range(40)]
    await mount.do(*files)
    for file in files:
        reply = await mount.do(Setxattr(file.ino, b"user.x", b"x" * 60_000, 0, NOW_NS))
        assert not reply.refused_number
        kept = world.kept.take(1)
        if kept is None:
            break
        world.kept.put(1, kept)
    else:
        pytest.fail("everything was remembered")


async def test_regions_of_one_file_are_not_remembered_without_end(mount, file, world):
    ino, grant = file
    receipts = mount.receipts(grant, 1)
    for number in range(20):
        writes = [
            mount.write(ino, grant, 1, 0, region * REGION_BYTES)
            for region in range(number * 60, number * 60 + 60)
        ]
        await mount.do(*writes, receipts=receipts)
        kept = world.kept.take(1)
        if kept is None:
            break
        assert kept.ws.rows <= ROWS_MAX
        world.kept.put(1, kept)
    else:
        pytest.fail("everything was remembered")


async def test_few_spaces_are_remembered(world, make_identity):
    for space in range(1, SPACES_MAX + 3):
        mount = await world.open(make_identity(space=space))
        await mount.do(mount.create(1, b"f"))
    assert world.kept.take(1) is None
    assert world.kept.take(SPACES_MAX + 2) is not None
