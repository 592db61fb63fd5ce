"""Metadata that is not here yet: how it comes, in how few round trips, and what wins over what."""

import os

import pytest
import trio

from cloudverge_mount import loader as loaders
from cloudverge_mount.filesystem import SetattrRequest
from cloudverge_protocol.errors import CloudVergeError, Code
from tests.fixtures.fakespace import assert_same

pytestmark = pytest.mark.trio


async def cold(mounts):
    """The same space, mounted with an empty cache folder."""
    await mounts.settle()
    mounts.kill()
    for path in mounts.folder.glob("replica*"):
        path.unlink()
    return await mounts.start()


async def make_tree(mounts, root, folders: int, files: int) -> None:
    vfs = await mounts.start()
    for number in range(folders):
        folder = await vfs.mkdir(1, b"d%d" % number, 0o755, root)
        for file in range(files):
            await mounts.file(folder.ino, b"f%d" % file)


async def walk(vfs, ino: int) -> int:
    fh, after, count = await vfs.opendir(ino), 2, 0
    while part := await vfs.readdir(fh, after, 50):
        after = part[-1][2]
        for _, row, _ in part:
            count += 1
            if row.is_dir:
                count += await walk(vfs, row.ino)
    await vfs.releasedir(fh)
    return count


async def test_walking_a_fresh_mount_costs_few_round_trips(mounts, root) -> None:
    await make_tree(mounts, root, folders=60, files=40)
    mounts.server.tree_budget = 300
    vfs = await cold(mounts)
    assert await walk(vfs, 1) == 60 * 41
    assert mounts.meta.trees + mounts.meta.loads <= 2 * (60 * 41) // 300
    before = mounts.server.calls
    assert await walk(vfs, 1) == 60 * 41
    with pytest.raises(CloudVergeError, check=lambda error: error.code == Code.NOT_FOUND):
        await vfs.lookup(1, b"nothing")
    assert mounts.server.calls == before
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_a_deep_tree_of_small_folders_costs_few_round_trips_too(mounts, root) -> None:
    vfs = await mounts.start()
    for number in range(30):
        above = await vfs.mkdir(1, b"d%d" % number, 0o755, root)
        for below in range(4):
            folder = await vfs.mkdir(above.ino, b"e%d" % below, 0o755, root)
            deepest = await vfs.mkdir(folder.ino, b"f", 0o755, root)
            await mounts.file(deepest.ino, b"file")
    mounts.server.tree_budget = 100
    vfs = await cold(mounts)
    entries = 30 * (1 + 4 * 3)
    assert await walk(vfs, 1) == entries
    assert mounts.meta.trees + mounts.meta.loads <= 3 * entries // 100
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_a_large_folder_is_paged_and_its_names_looked_up_one_by_one_first(mounts, root) -> None:
    vfs = await mounts.start()
    folder = await vfs.mkdir(1, b"big", 0o755, root)
    for number in range(1000):
        await mounts.file(folder.ino, b"f%d" % number)
    mounts.server.tree_budget = 100
    vfs = await cold(mounts)
    for number in (500, 900, 901):
        await vfs.lookup(folder.ino, b"f%d" % number)
    with pytest.raises(CloudVergeError):
        await vfs.lookup(folder.ino, b"none")
    assert mounts.meta.trees == 1
    loads = mounts.meta.loads
    await vfs.lookup(folder.ino, b"f900")
    with pytest.raises(CloudVergeError):
        await vfs.lookup(folder.ino, b"none")
    assert mounts.meta.loads == loads
    for number in range(100 + loaders.NAMES_BEFORE_LISTING, 200):
        await vfs.lookup(folder.ino, b"f%d" % number)
    assert mounts.meta.trees == 11
    assert mounts.meta.loads <= loads + loaders.NAMES_BEFORE_LISTING
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_what_was_done_here_wins_over_what_is_loaded(mounts, root) -> None:
    vfs = await mounts.start()
    folder = await vfs.mkdir(1, b"big", 0o755, root)
    for number in range(300):
        await mounts.file(folder.ino, b"f%d" % number, b"x")
    mounts.server.tree_budget = 50
    vfs = await cold(mounts)
    await vfs.unlink(folder.ino, b"f250")
    await vfs.rename(folder.ino, b"f251", folder.ino, b"g", 0)
    row = await vfs.lookup(folder.ino, b"f252")
    await vfs.setattr(row.ino, SetattrRequest(mode=0o600), root)
    await vfs.core.writer.write()
    await mounts.file(folder.ino, b"new")
    names = await mounts.names(folder.ino)
    assert b"f250" not in names
    assert b"f251" not in names
    assert names[-2:] == [b"g", b"new"]
    assert len(names) == 2 + 300
    assert (await vfs.lookup(folder.ino, b"f252")).mode & 0o777 == 0o600
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_names_removed_while_pages_are_fetched_stay_removed(mounts, root) -> None:
    vfs = await mounts.start()
    folder = await vfs.mkdir(1, b"big", 0o755, root)
    for number in range(200):
        await mounts.file(folder.ino, b"f%d" % number)
    mounts.server.tree_budget = 20
    vfs = await cold(mounts)
    await vfs.lookup(folder.ino, b"f150")

    async def disturb() -> None:
        for number in range(150, 190):
            await vfs.unlink(folder.ino, b"f%d" % number)
            await mounts.ship()
            if number % 5 == 0:
                await vfs.core.writer.write()
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(disturb)
        await mounts.names(folder.ino)
    names = await mounts.names(folder.ino)
    assert names == [b".", b"..", *(b"f%d" % number for number in (*range(150), *range(190, 200)))]
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_those_who_miss_the_same_folder_wait_for_one_answer(mounts, root) -> None:
    await make_tree(mounts, root, folders=1, files=20)
    vfs = await cold(mounts)
    folder = await vfs.lookup(1, b"d0")
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(vfs.lookup, folder.ino, b"f%d" % number)
    assert mounts.meta.trees <= 2


async def test_extents_and_attributes_that_no_listing_brings_are_loaded_apart(mounts, root) -> None:
    vfs = await mounts.start()
    fh, row = await vfs.create(1, b"f", 0o644, os.O_RDWR, root)
    for number in range(40):
        await vfs.write(fh, number * 10, b"%2d" % number)
        await vfs.core.content.flush(row.ino)
        vfs.core.content.new_chunk()
    await vfs.setxattr(row.ino, b"user.a", b"1", 0)
    vfs = await cold(mounts)
    assert await vfs.getxattr(row.ino, b"user.a") == b"1"
    fh = (await vfs.open(row.ino, os.O_RDWR, root)).fh
    assert await vfs.read(fh, 390, 2) == b"39"
    await vfs.setattr(row.ino, SetattrRequest(size=100), root)
    await vfs.write(fh, 100, b"end")
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_an_error_of_the_server_reaches_the_caller_and_the_next_try_succeeds(mounts, root) -> None:
    await make_tree(mounts, root, folders=1, files=3)
    await cold(mounts)
    mounts.meta.dead = True
    with pytest.raises(CloudVergeError, check=lambda error: error.code == Code.UNREACHABLE):
        await mounts.names(1)
    mounts.meta.dead = False
    assert await mounts.names(1) == [b".", b"..", b"d0"]
