"""BATCH on real PostgreSQL: order, once each, refusals by name, fences, receipts, ids, quota."""

import msgspec
import pytest

from cloudverge_metaserver.batches import commit_batch
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.messages import Batch, Feed, Ids, IncarnationClose, Load, Tree
from cloudverge_protocol.operations import (
    ChunkDone,
    CloneRange,
    Entry,
    Link,
    PunchHole,
    Reap,
    Rename,
    Setxattr,
    Truncate,
    Unlink,
    Write,
)

pytestmark = pytest.mark.anyio
NOW_NS = 1_700_000_000_000_000_000


async def names_in(mount, ino=1):
    reply = await mount.world.reading.tree(mount.who, Tree(mount.who.space, ino))
    return [dentry.name for dentry in reply.folders[0].dentries]


async def test_entries_are_applied_in_order_and_numbered_by_seq(mount):
    folder = mount.create(1, b"d", 0o40755)
    reply = await mount.do(folder, mount.create(folder.ino, b"a"), mount.create(folder.ino, b"b"))
    assert reply.seqs == (1, 2, 3)
    assert (reply.seq, reply.refused_number, reply.used_inodes) == (3, 0, 4)
    assert await names_in(mount, folder.ino) == [b"a", b"b"]


async def test_the_oplog_repeats_what_was_committed(mount):
    ops = [mount.create(1, b"d", 0o40755), mount.create(1, b"f")]
    await mount.do(*ops)
    feed = await mount.world.feeding.feed(
        mount.who,
        Feed(1, 0),
    )
    assert [entry.op for entry in feed.entries] == ops
    assert [entry.seq for entry in feed.entries] == [1, 2]
    assert {entry.incarnation for entry in feed.entries} == {mount.opened.incarnation}


async def test_a_refused_entry_is_named_and_those_before_it_are_committed(mount):
    twice = mount.create(1, b"a")
    entries = mount.entries([mount.create(1, b"a"), twice, mount.create(1, b"c")])
    reply = await mount.send(entries)
    assert reply.seqs == (1,)
    assert (reply.refused_incarnation, reply.refused_number) == (entries[1].incarnation, entries[1].number)
    assert reply.refused_code == Code.EXISTS
    assert "'a'" in reply.refused_message
    assert await names_in(mount) == [b"a"]


async def test_after_a_refusal_the_rest_can_be_sent_without_the_refused_one(mount):
    entries = mount.entries([mount.create(1, b"a"), mount.create(1, b"a"), mount.create(1, b"c")])
    await mount.send(entries)
    reply = await mount.send(entries[2:])
    assert reply.seqs == (2,)
    assert await names_in(mount) == [b"a", b"c"]


async def test_a_batch_sent_again_with_other_boundaries_changes_nothing_twice(mount):
    entries = mount.entries(mount.create(1, b"f%d" % n) for n in range(10))
    await mount.send(entries[:6])
    reply = await mount.send(entries[2:])
    assert reply.seqs == (0, 0, 0, 0, 7, 8, 9, 10)
    assert (await mount.send(entries)).seqs == (0,) * 10
    assert len(await names_in(mount)) == 10
    assert await mount.world.value("select used_inodes from meta.spaces") == 11


async def test_entries_out_of_their_order_are_refused_whole(mount):
    first, second = mount.entries([mount.create(1, b"a"), mount.create(1, b"b")])
    with pytest.raises(CloudVergeError) as caught:
        await mount.send([second, first])
    assert caught.value.code == Code.BAD_REQUEST
    assert await names_in(mount) == []


async def test_entries_keep_the_incarnation_they_were_born_in(mount, world):
    entries = mount.entries([mount.create(1, b"a"), mount.create(1, b"b")])
    await mount.send(entries[:1])
    again = await world.open(mount.who, mount.cache_id)
    assert dict(again.opened.high_water) == {mount.opened.incarnation: 1, again.opened.incarnation: 0}
    reply = await again.send([*entries, *again.entries([again.create(1, b"c")])])
    assert reply.seqs == (0, 2, 3)


async def test_an_old_incarnation_is_fenced(mount, world):
    await world.open(mount.who, mount.cache_id)
    with pytest.raises(CloudVergeError) as caught:
        await mount.do(mount.create(1, b"a"))
    assert caught.value.code == Code.FENCED


async def test_an_old_lease_epoch_is_fenced(mount):
    batch = Batch(mount.opened.session, mount.opened.incarnation, mount.opened.lease_epoch - 1, (), ())
    with pytest.raises(CloudVergeError) as caught:
        await commit_batch(mount.world.database, mount.world.kept, mount.who, batch)
    assert caught.value.code == Code.FENCED


async def test_sessions_that_are_absent_or_of_others_get_one_answer(mount, world, make_identity):
    other = await world.open(make_identity(space=2, user=2))
    answers = set()
    for who, session, incarnation in (
        (mount.who, 10**9, 10**9),
        (mount.who, other.opened.session, other.opened.incarnation),
        (make_identity(space=3, user=3), mount.opened.session, mount.opened.incarnation),
    ):
        with pytest.raises(CloudVergeError) as caught:
            await commit_batch(world.database, world.kept, who, Batch(session, incarnation, 1, (), ()))
        answers.add((caught.value.code, caught.value.message))
    assert len(answers) == 1


async def test_a_reader_changes_nothing(mount, make_identity):
    mount.who = make_identity(role="reader")
    with pytest.raises(CloudVergeError) as caught:
        await mount.do(mount.create(1, b"a"))
    assert caught.value.code == Code.READ_ONLY


async def test_an_older_membership_is_not_accepted(mount, world, make_identity):
    await world.open(make_identity(mep=2), mount.cache_id)
    with pytest.raises(CloudVergeError) as caught:
        await world.open(make_identity(mep=1), mount.cache_id)
    assert caught.value.code == Code.UNAUTHORIZED


# --- chunks -----------------------------------------------------------------------------------------------


async def test_a_write_of_receipted_bytes_is_committed(mount, world):
    (grant,) = await mount.allocate()
    file = mount.create(1, b"f")
    reply = await mount.do(file, mount.write(file.ino, grant, 1000), receipts=mount.receipts(grant, 1000))
    assert (reply.refused_code, reply.used_bytes) == (0, 1000)
    loaded = await world.reading.load(mount.who, Load(1, (file.ino,), (), ((file.ino, 0),)))
    assert loaded.inodes[0].size == 1000
    assert loaded.regions == ((file.ino, 0, (Extent(0, 1000, grant.chunk, 0),)),)
    row = (await world.sql("select live_bytes, committed_end, durable_length from meta.chunks"))[0]
    assert tuple(row) == (1000, 1000, 1000)


async def test_a_write_needs_the_receipts_of_all_replicas(mount):
    (grant,) = await mount.allocate()
    file = mount.create(1, b"f")
    one = mount.receipts(grant, 1000)[:1]
    reply = await mount.do(file, mount.write(file.ino, grant, 1000), receipts=one)
    assert reply.refused_code == Code.NOT_DURABLE
    assert reply.seqs == (1,)
    later = await mount.do(mount.write(file.ino, grant, 1000), receipts=mount.receipts(grant, 1000)[1:])
    assert later.refused_code == 0


async def test_a_write_never_reaches_beyond_the_receipts(mount):
    (grant,) = await mount.allocate()
    file = mount.create(1, b"f")
    reply = await mount.do(file, mount.write(file.ino, grant, 1001), receipts=mount.receipts(grant, 1000))
    assert reply.refused_code == Code.NOT_DURABLE


@pytest.mark.parametrize("change", ["mac", "length", "epoch", "server"])
async def test_forged_receipts_count_for_nothing(mount, world, change):
    (grant,) = await mount.allocate()
    first, second = mount.receipts(grant, 1000)
    forged = {
        "mac": msgspec.structs.replace(second, mac=bytes(16)),
        "length": msgspec.structs.replace(second, length=2000),
        "epoch": world.receipt(second.server, grant, 1000, epoch=grant.epoch + 1),
        "server": msgspec.structs.replace(first, server=second.server),
    }[change]
    file = mount.create(1, b"f")
    reply = await mount.do(file, mount.write(file.ino, grant, 1000), receipts=(first, forged))
    assert reply.refused_code == Code.NOT_DURABLE


async def test_foreign_and_absent_chunks_are_refused_in_the_same_words(mount, world, make_identity):
    other = await world.open(make_identity(space=2, user=2))
    (foreign,) = await other.allocate()
    await other.do(receipts=other.receipts(foreign, 1000))
    file = mount.create(1, b"f")
    await mount.do(file)
    answers = set()
    for chunk in (foreign.chunk, 10**12):
        write = Write(file.ino, (Extent(0, 10, chunk, 0),), 10, NOW_NS, NOW_NS)
        reply = await mount.do(write)
        answers.add((reply.refused_code, reply.refused_message))
    assert len(answers) == 1
    assert answers.pop()[0] == Code.NOT_YOURS


async def test_chunks_of_an_older_incarnation_of_the_session_may_still_be_named(mount, world):
    (grant,) = await mount.allocate()
    file = mount.create(1, b"f")
    await mount.do(file, receipts=mount.receipts(grant, 500))
    again = await world.open(mount.who, mount.cache_id)
    assert (await again.do(again.write(file.ino, grant, 500))).refused_code == 0


async def test_clone_range_refers_to_bytes_without_their_chunk_being_named(mount, world):
    (grant,) = await mount.allocate()
    source, copy = mount.create(1, b"a"), mount.create(1, b"b")
    await mount.do(source, copy, mount.write(source.ino, grant, 1000), receipts=mount.receipts(grant, 1000))
    reply = await mount.do(CloneRange(source.ino, 200, 500, copy.ino, 0, NOW_NS))
    assert (reply.refused_code, reply.used_bytes) == (0, 1500)
    loaded = await world.reading.load(mount.who, Load(1, (), (), ((copy.ino, 0),)))
    assert loaded.regions[0][2] == (Extent(0, 500, grant.chunk, 200),)
    assert await world.value("select live_bytes from meta.chunks") == 1500


async def test_live_bytes_follow_overwrites_truncation_and_unlink(mount, world):
    (grant,) = await mount.allocate()
    file = mount.create(1, b"f")
    await mount.do(file, mount.write(file.ino, grant, 1000), receipts=mount.receipts(grant, 3000))
    await mount.do(mount.write(file.ino, grant, 400, start=1000))
    assert await world.value("select live_bytes from meta.chunks") == 400
    reply = await mount.do(PunchHole(file.ino, 50, 250, NOW_NS))
    assert (await world.value("select live_bytes from meta.chunks"), reply.used_bytes) == (150, 150)
    await mount.do(Truncate(file.ino, 320, NOW_NS))
    assert await world.value("select live_bytes from meta.chunks") == 70
    reply = await mount.do(Unlink(1, b"f", file.ino, False, NOW_NS))
    assert (await world.value("select live_bytes from meta.chunks"), reply.used_bytes) == (0, 0)
    assert await world.value("select count(*) from meta.extents") == 0


async def test_chunk_done_ends_the_pin(mount, world):
    (grant,) = await mount.allocate()
    assert await world.value("select pinned_by from meta.chunks") == mount.opened.incarnation
    await mount.do(ChunkDone(grant.chunk))
    assert await world.value("select pinned_by from meta.chunks") is None


async def test_chunk_done_of_a_foreign_chunk_does_nothing(mount, world, make_identity):
    other = await world.open(make_identity(space=2, user=2))
    (grant,) = await other.allocate()
    assert (await mount.do(ChunkDone(grant.chunk))).refused_code == 0
    assert await world.value("select pinned_by from meta.chunks") == other.opened.incarnation


# --- ids, orphans, quota, xattrs ---------------------------------------------------------------------------


async def test_ids_that_were_not_given_to_the_session_are_refused(mount):
    op = mount.create(1, b"a")
    outside = mount.opened.first_id + mount.opened.ids
    for wrong in (
        msgspec.structs.replace(op, ino=outside),
        msgspec.structs.replace(op, dentry=outside),
        msgspec.structs.replace(op, ino=5_000_000_000),
    ):
        assert (await mount.do(wrong)).refused_code == Code.INVALID
    assert (await mount.do(op)).refused_code == 0
    link = Link(op.ino, 1, b"b", outside, NOW_NS)
    assert (await mount.do(link)).refused_code == Code.INVALID
    rename = Rename(1, b"a", 1, b"c", op.ino, 0, 0, False, outside, 0, NOW_NS)
    assert (await mount.do(rename)).refused_code == Code.INVALID


async def test_more_ids_can_be_had(mount, world):
    more = await world.sessions.ids(mount.who, Ids(*mount.mine, 100))
    assert more.count == 100
    op = msgspec.structs.replace(mount.create(1, b"a"), ino=more.first + 99)
    assert (await mount.do(op)).refused_code == 0


async def test_an_unlinked_open_file_is_an_orphan_until_it_is_reaped(mount, world):
    file = mount.create(1, b"f")
    await mount.do(file, Unlink(1, b"f", file.ino, True, NOW_NS))
    assert await world.value("select incarnation from meta.orphans") == mount.opened.incarnation
    assert (await mount.do(Reap(file.ino))).refused_code == 0
    assert await world.sql("select from meta.orphans") == []
    assert await world.value("select count(*) from meta.inodes") == 1


async def test_an_orphan_of_another_session_cannot_be_reaped(mount, world, make_identity):
    file = mount.create(1, b"f")
    await mount.do(file, Unlink(1, b"f", file.ino, True, NOW_NS))
    await world.sessions.close(mount.who, mount.ref)
    other = await world.open(make_identity(device=2))
    assert (await other.do(Reap(file.ino))).refused_code == Code.STALE


async def test_the_quota_of_inodes_holds_and_removing_makes_room(world, make_identity):
    mount = await world.open(make_identity(quota_inodes=3))
    first, second = mount.create(1, b"a"), mount.create(1, b"b")
    assert (await mount.do(first, second)).refused_code == 0
    assert (await mount.do(mount.create(1, b"c"))).refused_code == Code.QUOTA
    reply = await mount.do(Unlink(1, b"a", first.ino, False, NOW_NS), mount.create(1, b"c"))
    assert (reply.refused_code, reply.used_inodes) == (0, 3)


async def test_the_quota_of_bytes_holds_and_overwriting_stays_possible(world, make_identity):
    mount = await world.open(make_identity(quota_bytes=1000))
    (grant,) = await mount.allocate()
    file = mount.create(1, b"f")
    receipts = mount.receipts(grant, 5000)
    assert (await mount.do(file, mount.write(file.ino, grant, 900), receipts=receipts)).refused_code == 0
    reply = await mount.do(mount.write(file.ino, grant, 101, start=900, offset=900))
    assert (reply.refused_code, reply.used_bytes) == (Code.QUOTA, 900)
    assert (await mount.do(mount.write(file.ino, grant, 900, start=1000))).refused_code == 0
    assert (await mount.do(mount.write(file.ino, grant, 100, start=900, offset=900))).used_bytes == 1000
    assert await world.value("select size from meta.inodes where ino <> 1") == 1000


async def test_a_quota_refusal_in_the_middle_of_a_batch_leaves_what_was_before_it(world, make_identity):
    mount = await world.open(make_identity(quota_bytes=1000))
    (grant,) = await mount.allocate()
    files = [mount.create(1, b"f%d" % n) for n in range(3)]
    writes = [mount.write(file.ino, grant, 400, start=400 * n) for n, file in enumerate(files)]
    reply = await mount.do(*files, *writes, receipts=mount.receipts(grant, 2000))
    assert reply.refused_code == Code.QUOTA
    assert (len(reply.seqs), reply.used_bytes) == (5, 800)
    assert await world.value("select count(*) from meta.extents") == 2


async def test_xattrs_are_kept_and_end_with_their_inode(mount, world):
    file = mount.create(1, b"f")
    await mount.do(
        file, Setxattr(file.ino, b"user.a", b"1", 0, NOW_NS), Setxattr(file.ino, b"user.b", b"", 0, NOW_NS)
    )
    loaded = await world.reading.load(mount.who, Load(1, xattrs=(file.ino,)))
    assert dict(loaded.xattrs[0][1]) == {b"user.a": b"1", b"user.b": b""}
    await mount.do(Unlink(1, b"f", file.ino, False, NOW_NS))
    assert await world.value("select count(*) from meta.xattrs") == 0


async def test_an_entry_of_a_closed_incarnation_is_refused_by_number(mount, world):
    again = await world.open(mount.who, mount.cache_id)
    close = IncarnationClose(*again.mine, mount.opened.incarnation)
    await world.sessions.close_old(again.who, close)
    entry = Entry(mount.opened.incarnation, 1, again.create(1, b"x"))
    reply = await again.send([entry])
    assert (reply.refused_incarnation, reply.refused_number) == (mount.opened.incarnation, 1)
    assert reply.refused_code == Code.FENCED


async def test_versions_are_the_seq_of_the_last_change(mount, world):
    folder = mount.create(1, b"d", 0o40755)
    file = mount.create(folder.ino, b"f")
    await mount.do(folder, file)
    loaded = await world.reading.load(mount.who, Load(1, (1, folder.ino, file.ino), ((folder.ino, b"f"),)))
    assert {inode.ino: inode.version for inode in loaded.inodes} == {1: 1, folder.ino: 2, file.ino: 2}
    assert loaded.dentries[0].version == 2


async def test_pretending_to_create_an_existing_folder_hides_none_of_its_names(mount):
    folder = mount.create(1, b"d", 0o40755)
    first = mount.create(folder.ino, b"x")
    await mount.do(folder, first)
    again = mount.create(folder.ino, b"x")
    lie = msgspec.structs.replace(mount.create(1, b"other", 0o40755), ino=folder.ino)
    reply = await mount.send(mount.entries([again, lie]))
    assert (reply.seqs, reply.refused_code) == ((), Code.EXISTS)
    assert await names_in(mount, folder.ino) == [b"x"]


async def test_a_batch_that_is_too_long_is_refused_whole(mount, world):
    await world.add_server()
    await world.add_server()
    (grant,) = await mount.allocate()
    receipt = mount.receipts(grant, 10)[0]
    many = Write(1, tuple(Extent(n, 1, grant.chunk, 0) for n in range(100_001)), 1 << 20, NOW_NS, NOW_NS)
    for ops, receipts in (
        ([Truncate(1, 0, NOW_NS)] * 5_001, ()),
        ([many], ()),
        ([], [receipt] * 10_001),
    ):
        with pytest.raises(CloudVergeError) as caught:
            await mount.do(*ops, receipts=receipts)
        assert caught.value.code == Code.BAD_REQUEST
    assert await names_in(mount) == []
