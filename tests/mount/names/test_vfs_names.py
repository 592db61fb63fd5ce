"""Names, attributes and listings through the vfs."""

import os
import stat

import pytest
import trio

from cloudverge_mount.filesystem import Caller, SetattrRequest
from cloudverge_mount.listing import UNOPENED_MAX
from cloudverge_mount.vfs import OwnerPolicy
from cloudverge_protocol.errors import CloudVergeError, Code
from tests.fixtures.fakespace import assert_same
from tests.fixtures.openfiles import refused

pytestmark = pytest.mark.trio


async def test_dots_lead_to_the_folder_and_its_parent(mounts, root) -> None:
    vfs = await mounts.start()
    folder = await vfs.mkdir(1, b"d", 0o755, root)
    assert (await vfs.lookup(folder.ino, b".")).ino == folder.ino
    assert (await vfs.lookup(folder.ino, b"..")).ino == 1
    assert (await vfs.lookup(1, b"..")).ino == 1


async def test_a_name_may_have_any_bytes_up_to_255(mounts, root) -> None:
    vfs = await mounts.start()
    name = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    await vfs.mkdir(1, name, 0o755, root)
    assert await mounts.names(1) == [b".", b"..", name]
    with refused(Code.NAME_TOO_LONG):
        await vfs.lookup(1, b"x" * 256)
    with refused(Code.NAME_TOO_LONG):
        await vfs.mkdir(1, b"x" * 256, 0o755, root)


async def test_every_kind_of_inode_can_be_made(mounts, root) -> None:
    vfs = await mounts.start()
    for kind in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
        row = await vfs.mknod(1, b"n%d" % kind, kind | 0o600, 259, root)
        assert stat.S_IFMT(row.mode) == kind
        assert row.rdev == (259 if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0)
    link = await vfs.symlink(1, b"link", b"some/where", root)
    assert await vfs.readlink(link.ino) == b"some/where"
    with refused(Code.INVALID):
        await vfs.readlink(1)
    await mounts.settle()
    assert await assert_same(vfs, mounts.server, mounts.disk) == 7


async def test_a_listing_gives_each_name_once_while_others_come_and_go(mounts, root) -> None:
    vfs = await mounts.start()
    for number in range(1000):
        await mounts.file(1, b"old%d" % number)
    fh, after, seen = await vfs.opendir(1), 0, []
    turn = 0
    while part := await vfs.readdir(fh, after, 9):
        seen += [name for name, _, _ in part]
        after = part[-1][2]
        turn += 1
        if turn < 60:
            await mounts.file(1, b"new%d" % turn)
            await vfs.unlink(1, b"old%d" % (turn * 3))
            if turn % 7 == 0:
                await vfs.core.writer.write()
    assert len(seen) == len(set(seen))
    staying = {b"old%d" % number for number in range(1000)} - {b"old%d" % (turn * 3) for turn in range(1, 60)}
    assert staying <= set(seen)
    assert (await vfs.readdir(fh, 0, 5))[0][0] == b"."


async def test_nothing_that_is_gone_is_listed_from_a_part_fetched_ahead(mounts, root) -> None:
    vfs = await mounts.start()
    for number in range(50):
        await mounts.file(1, b"f%d" % number)
    fh = await vfs.opendir(1)
    first = await vfs.readdir(fh, 0, 10)
    await vfs.unlink(1, b"f30")
    await vfs.rename(1, b"f31", 1, b"g31", 0)
    rest = [name for name, _, _ in await vfs.readdir(fh, first[-1][2], 100)]
    assert b"f30" not in rest
    assert b"f31" not in rest
    assert rest[-1] == b"g31"


async def test_a_listing_can_be_wound_back(mounts) -> None:
    vfs = await mounts.start()
    for number in range(600):
        await mounts.file(1, b"f%d" % number)
    fh = await vfs.opendir(1)
    forth = await vfs.readdir(fh, 0, 500)
    assert await vfs.readdir(fh, forth[9][2], 20) == forth[10:30]
    assert await vfs.readdir(fh, 0, 500) == forth


async def test_a_removed_open_folder_lists_nothing_but_dots(mounts, root) -> None:
    vfs = await mounts.start()
    folder = await vfs.mkdir(1, b"d", 0o755, root)
    fh = await vfs.opendir(folder.ino)
    await vfs.rmdir(1, b"d")
    assert [name for name, _, _ in await vfs.readdir(fh, 0, 10)] == [b".", b".."]
    with refused(Code.NOT_FOUND):
        await vfs.mkdir(folder.ino, b"x", 0o755, root)
    await vfs.releasedir(fh)
    await mounts.settle()
    assert folder.ino not in mounts.server.rows.inodes


async def test_a_folder_that_was_not_opened_is_listed_as_one_that_was(mounts, root) -> None:
    vfs = await mounts.start()
    folder = (await vfs.mkdir(1, b"d", 0o755, root)).ino
    for number in range(600):
        await mounts.file(folder, b"f%d" % number)
    fh, after, listed = await vfs.opendir(folder), 0, []
    while part := await vfs.listdir(folder, after, 100):
        assert part == await vfs.readdir(fh, after, 100)
        listed += part
        after = part[-1][2]
        await vfs.unlink(folder, part[0][0]) if part[0][0] != b"." else None
    assert len(listed) == 602
    assert await vfs.listdir(folder, listed[9][2], 20) == await vfs.readdir(fh, listed[9][2], 20)
    assert not vfs.unopened or len(vfs.unopened) == 1
    await vfs.fsyncdir(0)


async def test_a_removed_folder_can_be_looked_at_until_the_kernel_forgets_it(mounts, root) -> None:
    vfs = await mounts.start()
    removed, replaced, other = [(await vfs.mkdir(1, name, 0o700, root)).ino for name in (b"a", b"b", b"c")]
    await vfs.rmdir(1, b"a")
    await vfs.rename(1, b"c", 1, b"b", 0)
    await mounts.settle()
    for ino in (removed, replaced):
        seen = await vfs.getattr(ino)
        assert (seen.nlink, stat.S_IMODE(seen.mode)) == (0, 0o700)
    assert (await vfs.getattr(other)).nlink == 2
    await vfs.forget([(removed, 1), (replaced, 2)])
    for ino in (removed, replaced):
        with refused(Code.NOT_FOUND):
            await vfs.getattr(ino)


async def test_folders_whose_listing_nobody_ends_are_not_held_for_ever(mounts, root) -> None:
    vfs = await mounts.start()
    for number in range(200):
        folder = (await vfs.mkdir(1, b"d%d" % number, 0o755, root)).ino
        await mounts.file(folder, b"f")
        assert len(await vfs.listdir(folder, 0, 2)) == 2
    assert len(vfs.unopened) == UNOPENED_MAX


async def test_rename_can_refuse_to_replace_and_can_exchange(mounts, root) -> None:
    vfs = await mounts.start()
    a, b = await mounts.file(1, b"a"), await mounts.file(1, b"b")
    with refused(Code.EXISTS):
        await vfs.rename(1, b"a", 1, b"b", 1)
    await vfs.rename(1, b"a", 1, b"b", 2)
    assert (await vfs.lookup(1, b"a")).ino == b.ino
    assert (await vfs.lookup(1, b"b")).ino == a.ino
    with refused(Code.NOT_FOUND):
        await vfs.rename(1, b"a", 1, b"missing", 2)
    with refused(Code.INVALID):
        await vfs.rename(1, b"a", 1, b"b", 4)


async def test_renaming_one_name_of_a_file_to_another_of_it_does_nothing(mounts) -> None:
    vfs = await mounts.start()
    row = await mounts.file(1, b"a")
    await vfs.link(row.ino, 1, b"b")
    await vfs.rename(1, b"a", 1, b"b", 0)
    assert await mounts.names(1) == [b".", b"..", b"a", b"b"]


async def test_an_unlinked_open_file_lives_until_its_last_release(mounts, root) -> None:
    vfs = await mounts.start()
    row = await mounts.file(1, b"f", b"bytes")
    opened = await vfs.open(row.ino, os.O_RDWR, root)
    await vfs.unlink(1, b"f")
    assert await vfs.read(opened.fh, 0, 10) == b"bytes"
    assert await vfs.write(opened.fh, 5, b" more") == 5
    assert (await vfs.getattr(row.ino)).nlink == 0
    await mounts.settle()
    assert mounts.server.rows.orphans == {row.ino}
    await vfs.release(opened.fh)
    await mounts.settle()
    assert row.ino not in mounts.server.rows.inodes
    with refused(Code.NOT_FOUND):
        await vfs.getattr(row.ino)


async def test_orphans_of_a_killed_mount_end_with_its_incarnation(mounts, root) -> None:
    vfs = await mounts.start()
    row = await mounts.file(1, b"f", b"bytes")
    await vfs.open(row.ino, os.O_RDWR, root)
    await vfs.unlink(1, b"f")
    await mounts.settle()
    await mounts.again()
    await mounts.vfs.core.shipper.ship_once()
    assert mounts.server.closed == [1]
    assert not mounts.server.rows.orphans


async def test_by_default_everything_is_shown_as_the_mounting_users(mounts, user) -> None:
    vfs = await mounts.start(OwnerPolicy(False, 500, 501))
    row = await mounts.file(1, b"f", caller=Caller(7, 8, 1, 0))
    shown = await vfs.setattr(row.ino, SetattrRequest(uid=9, gid=10), user)
    assert (shown.uid, shown.gid) == (500, 501)
    assert (await vfs.getattr(1)).uid == 500
    await mounts.again(OwnerPolicy(True, 0, 0))
    kept = await mounts.vfs.lookup(1, b"f")
    assert (kept.uid, kept.gid) == (9, 10)


async def test_create_and_replace_are_decided_when_an_attribute_is_set(mounts) -> None:
    vfs = await mounts.start()
    row = await mounts.file(1, b"f")
    await mounts.settle()
    await mounts.again()  # nothing is known of its attributes, so that all who set one have to wait
    vfs, set_by, refusals = mounts.vfs, [], []

    async def attempt(value: bytes, flags: int) -> None:
        try:
            await vfs.setxattr(row.ino, b"user.a", value, flags)
            set_by.append(value)
        except CloudVergeError as error:
            refusals.append(error.code)

    await attempt(b"0", os.XATTR_REPLACE)
    await attempt(b"0", os.XATTR_CREATE | os.XATTR_REPLACE)
    async with trio.open_nursery() as nursery:
        for value in (b"1", b"2", b"3"):
            nursery.start_soon(attempt, value, os.XATTR_CREATE)
    assert (len(set_by), refusals) == (1, [Code.NO_ATTR, Code.NO_ATTR, Code.EXISTS, Code.EXISTS])
    assert await vfs.getxattr(row.ino, b"user.a") == set_by[0]
    await attempt(b"4", os.XATTR_REPLACE)
    await attempt(b"5", 4)
    assert refusals[-1] == Code.INVALID
    await mounts.settle()
    assert mounts.server.rows.xattrs(row.ino) == {b"user.a": b"4"}


async def test_extended_attributes_are_set_listed_and_removed(mounts) -> None:
    vfs = await mounts.start()
    row = await mounts.file(1, b"f")
    with refused(Code.NO_ATTR):
        await vfs.getxattr(row.ino, b"user.a")
    await vfs.setxattr(row.ino, b"user.a", b"1", 0)
    await vfs.setxattr(row.ino, b"user.b", b"2", 1)
    with refused(Code.EXISTS):
        await vfs.setxattr(row.ino, b"user.b", b"2", 1)
    await mounts.again()
    assert sorted(await mounts.vfs.listxattr(row.ino)) == [b"user.a", b"user.b"]
    await mounts.vfs.removexattr(row.ino, b"user.a")
    with refused(Code.NO_ATTR):
        await mounts.vfs.removexattr(row.ino, b"user.a")
    await mounts.settle()
    await assert_same(mounts.vfs, mounts.server, mounts.disk)


async def test_a_read_only_space_refuses_every_change(mounts, root) -> None:
    vfs = await mounts.start()
    row = await mounts.file(1, b"f")
    mounts.rights.read_only = True
    for attempt in (
        vfs.mkdir(1, b"d", 0o755, root),
        vfs.unlink(1, b"f"),
        vfs.rename(1, b"f", 1, b"g", 0),
        vfs.link(row.ino, 1, b"g"),
        vfs.setattr(row.ino, SetattrRequest(mode=0), root),
        vfs.setattr(row.ino, SetattrRequest(size=0), root),
        vfs.setxattr(row.ino, b"user.a", b"", 0),
        vfs.open(row.ino, os.O_RDWR, root),
    ):
        with refused(Code.READ_ONLY):
            await attempt
    assert (await vfs.open(row.ino, os.O_RDONLY, root)).fh


async def test_a_used_up_quota_of_inodes_is_told_at_once(mounts, root) -> None:
    vfs = await mounts.start()
    mounts.rights.quota_inodes = 3
    await mounts.file(1, b"a")
    await mounts.file(1, b"b")
    with refused(Code.QUOTA):
        await vfs.mkdir(1, b"c", 0o755, root)
    await vfs.unlink(1, b"a")
    await vfs.mkdir(1, b"c", 0o755, root)
    room = await vfs.statfs()
    assert (room.inodes, room.inodes_free) == (3, 0)
