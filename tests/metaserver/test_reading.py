"""TREE, LOAD and FEED on real PostgreSQL, and the walk's planning alone."""

import pytest

from cloudverge_metaserver.audit import Auditor
from cloudverge_metaserver.pruning import Pruner
from cloudverge_metaserver.reading import Reading
from cloudverge_metaserver.treewalk import REPLY_BYTES, Walk, gather_extents, split_files
from cloudverge_protocol.codec import encode
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.ids import MAX_FRAME_HEADER_BYTES, REGION_BYTES
from cloudverge_protocol.inodes import Dentry, Extent, Inode
from cloudverge_protocol.messages import Feed, Load, Tree
from cloudverge_protocol.operations import Link, Rename, Setxattr, Unlink, Write

pytestmark = pytest.mark.anyio
NOW_NS = 1_700_000_000_000_000_000


async def tree(mount, ino=1, **options):
    return await mount.world.reading.tree(mount.who, Tree(mount.who.space, ino, **options))


async def refused(coroutine) -> CloudVergeError:
    with pytest.raises(CloudVergeError) as caught:
        await coroutine
    return caught.value


async def folders(mount, parent, *names):
    ops = [mount.create(parent, name, 0o40755) for name in names]
    await mount.do(*ops)
    return [op.ino for op in ops]


async def files(mount, parent, count, prefix=b"f"):
    ops = [mount.create(parent, b"%s%d" % (prefix, n)) for n in range(count)]
    await mount.do(*ops)
    return [op.ino for op in ops]


async def test_a_tree_has_the_sub_folders_breadth_first_and_complete(mount):
    a, b = await folders(mount, 1, b"a", b"b")
    (deep,) = await folders(mount, a, b"deep")
    await files(mount, deep, 3)
    await files(mount, b, 2)
    reply = await tree(mount)
    assert [folder.ino for folder in reply.folders] == [1, a, b, deep]
    assert all(folder.complete and folder.after == 0 for folder in reply.folders)
    assert [len(folder.dentries) for folder in reply.folders] == [2, 1, 2, 3]
    named = {dentry.ino for folder in reply.folders for dentry in folder.dentries}
    assert {inode.ino for inode in reply.inodes} == named | {1}
    assert reply.seq == 8


async def test_further_folders_come_with_theirs_below_them_once_each_and_only_of_this_space(mount):
    a, b, c = await folders(mount, 1, b"a", b"b", b"c")
    (deep,) = await folders(mount, b, b"deep")
    (file,) = await files(mount, a, 1)
    reply = await tree(mount, ino=a, more=(b, c, b, a, file, 12345, 2**63))
    assert [folder.ino for folder in reply.folders] == [a, b, c, deep]
    assert {inode.ino for inode in reply.inodes} == {a, b, c, deep, file}
    above = await tree(mount, ino=1, more=(b,))
    assert [folder.ino for folder in above.folders] == [1, b, a, c, deep]


async def test_further_folders_over_the_budget_are_left_out(mount):
    a, big, small = await folders(mount, 1, b"a", b"big", b"small")
    await files(mount, big, 20)
    await files(mount, small, 3)
    reply = await tree(mount, ino=a, more=(big, small), budget=10)
    assert [folder.ino for folder in reply.folders] == [a, small]


async def test_an_empty_space_and_an_empty_folder_are_complete(mount):
    reply = await tree(mount)
    assert reply.folders[0].complete
    (a,) = await folders(mount, 1, b"a")
    reply = await tree(mount)
    assert [(f.ino, f.complete, len(f.dentries)) for f in reply.folders] == [(1, True, 1), (a, True, 0)]


async def test_a_big_folder_is_paged_by_its_cursor(mount):
    await files(mount, 1, 25)
    cursor, seen, pages = 0, [], 0
    while True:
        reply = await tree(mount, cursor=cursor, budget=10)
        (folder,) = reply.folders
        assert folder.after == cursor
        seen += [dentry.name for dentry in folder.dentries]
        pages += 1
        if folder.complete:
            break
        cursor = folder.dentries[-1].dentry
    assert seen == [b"f%d" % n for n in range(25)]
    assert pages == 3


async def test_paging_is_stable_while_entries_come_and_go(mount):
    inos = await files(mount, 1, 20)
    first = (await tree(mount, budget=10)).folders[0]
    await mount.do(Unlink(1, b"f3", inos[3], False, NOW_NS), Unlink(1, b"f15", inos[15], False, NOW_NS))
    await mount.do(Rename(1, b"f4", 1, b"moved", inos[4], 0, 0, False, next(mount.ids), 0, NOW_NS))
    rest = (await tree(mount, cursor=first.dentries[-1].dentry, budget=100)).folders[0]
    assert [d.name for d in rest.dentries] == [b"f%d" % n for n in range(10, 20) if n != 15] + [b"moved"]


async def test_a_sub_folder_over_the_budget_is_left_out_and_smaller_ones_are_taken(mount):
    big, small = await folders(mount, 1, b"big", b"small")
    await files(mount, big, 20)
    await files(mount, small, 3)
    reply = await tree(mount, budget=10)
    assert [folder.ino for folder in reply.folders] == [1, small]


async def test_a_flat_listing_has_one_folder(mount):
    (a,) = await folders(mount, 1, b"a")
    await files(mount, a, 2)
    assert [folder.ino for folder in (await tree(mount, deep=False)).folders] == [1]


async def test_long_symlinks_never_make_a_reply_too_large_for_a_frame(mount):
    ops = [mount.create(1, b"s%d" % n, 0o120777, target=b"x" * 4000) for n in range(2000)]
    await mount.do(*ops)
    reply = await tree(mount, budget=10_000)
    assert len(encode(reply)) < MAX_FRAME_HEADER_BYTES
    assert not reply.folders[0].complete
    assert len(reply.folders[0].dentries) > 500


async def test_extents_of_small_files_come_along_and_others_are_named(mount):
    (grant,) = await mount.allocate()
    small, empty, pieces = await files(mount, 1, 3)
    await mount.do(
        mount.write(small, grant, 100),
        Write(
            pieces,
            tuple(Extent(1000 * n, 10, grant.chunk, 20 * n) for n in range(17)),
            20_000,
            NOW_NS,
            NOW_NS,
        ),
        receipts=mount.receipts(grant, 1000),
    )
    reply = await tree(mount)
    assert dict(reply.extents) == {small: (Extent(0, 100, grant.chunk, 0),)}
    assert reply.many_extents == (pieces,)
    assert empty not in dict(reply.extents)


async def test_inodes_with_attributes_are_named(mount):
    a, b = await files(mount, 1, 2)
    assert (await tree(mount)).with_xattrs == ()
    await mount.do(Setxattr(b, b"user.x", b"1", 0, NOW_NS))
    assert (await tree(mount)).with_xattrs == (b,)
    assert a != b


async def test_a_hard_link_is_listed_twice_and_its_inode_once(mount):
    (a,) = await files(mount, 1, 1)
    await mount.do(Link(a, 1, b"again", next(mount.ids), NOW_NS))
    reply = await tree(mount)
    assert [d.ino for d in reply.folders[0].dentries] == [a, a]
    assert [inode.ino for inode in reply.inodes].count(a) == 1


async def test_what_is_no_folder_or_not_there_or_of_others_is_refused(mount, world, make_identity):
    (a,) = await files(mount, 1, 1)
    assert (await refused(tree(mount, a))).code == Code.NOT_DIR
    other = await world.open(make_identity(space=2, user=2))
    (foreign,) = await folders(other, 1, *[b"d"])
    for _ in range(5):
        (foreign,) = await folders(other, foreign, b"d")
    absent = await refused(tree(mount, 10**12))
    of_others = await refused(tree(mount, foreign))
    assert (absent.code, absent.message) == (of_others.code, of_others.message)
    for space in (2, 10**12):
        error = await refused(world.reading.tree(mount.who, Tree(space, 1)))
        assert (error.code, error.message) == (Code.NOT_FOUND, "there is no such space")


async def test_load_gives_rows_and_leaves_out_what_is_absent(mount, world):
    (a,) = await files(mount, 1, 1)
    reply = await world.reading.load(
        mount.who,
        Load(1, (1, 999_999, -4, 2**63), ((1, b"f0"), (1, b"nope"), (2**64 - 1, b"x")), ((a, 0),), (a,)),
    )
    assert {inode.ino for inode in reply.inodes} == {1, a}
    assert [dentry.name for dentry in reply.dentries] == [b"f0"]
    assert (reply.regions, reply.xattrs, reply.seq) == ((), (), 1)


async def test_load_of_more_than_fits_a_reply_is_refused_with_advice(mount, world):
    inos = await files(mount, 1, 70)
    for start in (0, 35):
        await mount.do(*(Setxattr(i, b"user.a", b"x" * 65000, 0, NOW_NS) for i in inos[start : start + 35]))
        await mount.do(*(Setxattr(i, b"user.b", b"x" * 65000, 0, NOW_NS) for i in inos[start : start + 35]))
    error = await refused(world.reading.load(mount.who, Load(1, xattrs=tuple(inos))))
    assert error.code == Code.BAD_REQUEST
    assert len((await world.reading.load(mount.who, Load(1, xattrs=tuple(inos[:40])))).xattrs) == 40


async def test_the_feed_goes_on_from_a_seq_and_says_when_it_cannot(mount, world):
    await files(mount, 1, 5)
    reply = await world.feeding.feed(mount.who, Feed(1, 2, 2))
    assert ([entry.seq for entry in reply.entries], reply.seq) == ([3, 4], 5)
    assert (await world.feeding.feed(mount.who, Feed(1, 5))).entries == ()
    assert (await refused(world.feeding.feed(mount.who, Feed(1, 6)))).code == Code.RESYNC
    await world.sql("update meta.spaces set feed_from = 4 returning 1")
    assert (await refused(world.feeding.feed(mount.who, Feed(1, 2)))).code == Code.RESYNC
    assert [e.seq for e in (await world.feeding.feed(mount.who, Feed(1, 3))).entries] == [4, 5]


async def test_an_old_past_is_dropped_and_the_feed_knows(mount, world):
    await files(mount, 1, 5)
    await world.sql("update meta.oplog set at = at - interval '91 days' where seq <= 3 returning 1")
    assert not await Pruner(world.database).run()  # the audit has not told it yet
    await Auditor(world.database).tell(1)
    assert await Pruner(world.database).run()
    assert not await Pruner(world.database).run()
    assert [e.seq for e in (await world.feeding.feed(mount.who, Feed(1, 3))).entries] == [4, 5]
    assert (await refused(world.feeding.feed(mount.who, Feed(1, 2)))).code == Code.RESYNC


async def test_numbers_that_fit_no_column_are_a_bad_request(mount, world):
    assert (await refused(world.feeding.feed(mount.who, Feed(1, 2**63 + 5)))).code == Code.RESYNC
    assert (await refused(tree(mount, 2**63 + 5))).code == Code.BAD_REQUEST
    reading = Reading(world.database)
    assert (await refused(reading.tree(mount.who, Tree(1, 1, 2**64 - 1)))).code == Code.BAD_REQUEST


# --- planning, alone ---------------------------------------------------------------------------------------


def inode(ino, mode=0o100644, size=0, entries=0):
    return Inode(ino, mode, 0, 0, 1, size, 0, 0, 0, 0, entries=entries)


def test_a_page_is_cut_where_its_bytes_run_out():
    rows = [(Dentry(1, b"x" * 200, n, 0o100000, n), inode(n)) for n in range(2000, 2100)]
    walk = Walk(1000, bytes_left=5000)
    walk.take_page(1, 0, rows, False)
    assert 0 < len(walk.folders[0].dentries) < 100
    assert not walk.folders[0].complete


def test_a_page_always_has_an_entry():
    walk = Walk(10, bytes_left=1)
    walk.take_page(1, 0, [(Dentry(1, b"x" * 200, 2000, 0o100000, 2000), inode(2000))], False)
    assert walk.folders[0].complete
    assert REPLY_BYTES < MAX_FRAME_HEADER_BYTES


def test_files_with_very_many_regions_are_not_even_looked_at():
    few, many = split_files([inode(1, size=5), inode(2, size=17 * REGION_BYTES), inode(3), inode(4, 0o40755)])
    assert (few, many) == ([1], [2])


def test_extents_of_several_regions_are_put_together_in_order():
    a, b = Extent(0, 5, 1, 0), Extent(REGION_BYTES, 5, 1, 5)
    small, many = gather_extents([1, 2, 3], [(1, 0, (a,)), (1, 1, (b,)), (2, 0, None)], 10_000)
    assert small == [(1, (a, b)), (3, ())]
    assert many == [2]
