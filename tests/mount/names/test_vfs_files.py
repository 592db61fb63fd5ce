"""Open files through the vfs: sizes, times, setuid bits, fsync, and what is committed of them."""

import os

import pytest
import trio

from cloudverge_mount.filesystem import SetattrRequest
from cloudverge_protocol.errors import Code, NoRoom
from tests.fixtures.fakespace import assert_same, contents_of
from tests.fixtures.openfiles import ROOT, opened, refused

pytestmark = pytest.mark.trio


async def test_a_write_shows_at_once_and_is_committed_with_its_size_and_time(mounts) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts)
    before = await vfs.getattr(ino)
    await vfs.write(fh, 10, b"bytes")
    shown = await vfs.getattr(ino)
    assert shown.size == 15
    assert shown.mtime_ns > before.mtime_ns
    assert await vfs.read(fh, 0, 100) == bytes(10) + b"bytes"
    assert await vfs.read(fh, 15, 10) == b""
    await mounts.settle()
    assert (await vfs.getattr(ino)) == shown
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_the_reader_of_some_bytes_is_told_how_far_their_extent_goes(mounts) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts, bytes(5000))
    await vfs.write(fh, 9000, bytes(1000))
    await mounts.settle()
    told = await vfs.core.content.sink.file_extents(ino, 100, 10)
    assert [(extent.offset, extent.length) for extent in told] == [(0, 5000)]
    told = await vfs.core.content.sink.file_extents(ino, 4999, 4500)
    assert [(extent.offset, extent.length) for extent in told] == [(0, 5000), (9000, 1000)]
    assert await vfs.core.content.sink.file_extents(ino, 5000, 4000) == ()


async def test_append_lands_at_the_end_as_it_is_here(mounts, root) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts, b"12345", flags=os.O_WRONLY | os.O_APPEND)
    await vfs.write(fh, 0, b"67")
    await vfs.write(fh, 0, b"89")
    other = (await vfs.open(ino, os.O_RDONLY, root)).fh
    assert await vfs.read(other, 0, 100) == b"123456789"


async def test_a_write_by_another_user_clears_setuid_and_so_does_truncating_at_open(
    mounts, root, user
) -> None:
    vfs = await mounts.start()
    ino, _ = await opened(mounts, b"x")
    for mode, kept in ((0o6777, 0o777), (0o2746, 0o2746), (0o4755, 0o755)):  # setgid without group x is none
        await vfs.setattr(ino, SetattrRequest(mode=mode), root)
        fh = (await vfs.open(ino, os.O_RDWR, user)).fh
        await vfs.write(fh, 0, b"y")
        assert (await vfs.getattr(ino)).mode & 0o7777 == kept
        await mounts.settle()
        await assert_same(vfs, mounts.server, mounts.disk)
    await vfs.setattr(ino, SetattrRequest(mode=0o6777), root)
    await vfs.open(ino, os.O_RDWR | os.O_TRUNC, root)
    assert (await vfs.getattr(ino)).mode & 0o7777 == 0o6777
    await vfs.open(ino, os.O_RDWR | os.O_TRUNC, user)
    row = await vfs.getattr(ino)
    assert (row.size, row.mode & 0o7777) == (0, 0o777)


async def test_times_set_after_a_write_stay_when_its_bytes_enter(mounts, root) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts)
    await vfs.write(fh, 0, b"bytes")
    await vfs.setattr(ino, SetattrRequest(mtime_ns=12345), root)
    await vfs.flush(fh)
    assert (await vfs.getattr(ino)).mtime_ns == 12345
    await mounts.settle()
    assert (await vfs.getattr(ino)).mtime_ns == 12345
    await assert_same(vfs, mounts.server, mounts.disk)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("size", [0, 2, 4, 6, 20])
@pytest.mark.parametrize("stored", [b"", b"abc", b"abcdefghij"])
async def test_truncation_of_stored_and_dirty_bytes_comes_out_right(
    mounts, root, stored, size, closed
) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts, stored)
    await mounts.settle()
    await vfs.write(fh, 1, b"WXYZ")
    if closed:
        await vfs.flush(fh)
    await vfs.setattr(ino, SetattrRequest(size=size), root)
    expected = (stored[:1].ljust(1, b"\0") + b"WXYZ" + stored[5:])[:size].ljust(size, b"\0")
    assert await vfs.read(fh, 0, 100) == expected
    await vfs.setattr(ino, SetattrRequest(size=size + 3), root)
    await vfs.flush(fh)
    if closed:
        await mounts.again()
        vfs = mounts.vfs
        assert await vfs.core.content.read(ino, 0, size + 3) == expected + bytes(3)
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)
    assert contents_of(mounts.server, mounts.disk, ino) == expected + bytes(3)


@pytest.mark.parametrize("size", [2, 20])
async def test_a_truncation_that_the_journal_cannot_take_leaves_no_trace(
    mounts, root, size, monkeypatch
) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts)
    await vfs.write(fh, 0, b"bytes")
    await vfs.flush(fh)
    before = await vfs.getattr(ino)

    def full(*_):
        raise NoRoom(Code.NO_SPACE, "the cache disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(vfs.core.ledger.journal, "append", full)
        with refused(Code.NO_SPACE):
            await vfs.setattr(ino, SetattrRequest(size=size), root)
    assert await vfs.getattr(ino) == before
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)
    assert contents_of(mounts.server, mounts.disk, ino) == b"bytes"


async def test_a_write_that_is_interrupted_while_it_waits_for_room_leaves_nothing_pending(
    mounts, root, clock, monkeypatch
) -> None:
    vfs = await mounts.start()
    _, fh = await opened(mounts, b"bytes")
    await mounts.settle()

    async def never(*_):
        await trio.sleep_forever()

    with monkeypatch.context() as patch:
        patch.setattr(vfs.core.content, "write", never)
        with trio.move_on_after(1) as scope:
            await vfs.write(fh, 0, b"interrupted")
    assert scope.cancelled_caught
    assert not vfs.core.pendings
    assert await vfs.read(fh, 0, 100) == b"bytes"
    await vfs.write(fh, 5, b"!")
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_a_write_that_is_interrupted_when_its_bytes_are_taken_takes_them_back(
    mounts, root, clock, monkeypatch
) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts, b"bytes")
    await mounts.settle()
    write, retry = vfs.core.content.write, vfs.core.retry

    async def late(*arguments):
        await write(*arguments)
        vfs.core.pendings.pop(ino)  # all that was dirty before has entered meanwhile
        vfs.core.retry = never

    async def never(*_):
        await trio.sleep_forever()

    with monkeypatch.context() as patch:
        patch.setattr(vfs.core.content, "write", late)
        with trio.move_on_after(1) as scope:
            await vfs.write(fh, 3, b"interrupted")
    vfs.core.retry = retry
    assert scope.cancelled_caught
    assert not vfs.core.content.is_dirty(ino)
    assert await vfs.read(fh, 0, 100) == b"bytes"
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_a_rename_waits_for_the_size_the_file_had_too(mounts, root) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts)
    await vfs.write(fh, 0, b"ab")
    await vfs.setattr(ino, SetattrRequest(size=8), root)
    await vfs.rename(1, b"f", 1, b"g", 0)
    await vfs.write(fh, 6, b"c")
    vfs.core.content.upload(ino, 2)
    assert len(vfs.core.holding) == 1
    await mounts.settle()
    assert mounts.server.rows.dentry(1, b"g") is not None
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_truncating_a_file_that_a_rename_waits_for_stores_its_bytes_first(mounts, root) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts)
    await vfs.write(fh, 0, b"bytes")
    await vfs.rename(1, b"f", 1, b"g", 0)
    assert len(vfs.core.holding) == 1
    await vfs.setattr(ino, SetattrRequest(size=0), root)
    assert len(vfs.core.holding) == 0
    sizes = []
    mounts.server.on_commit = lambda entry: sizes.append(
        getattr(mounts.server.rows.inode(ino), "size", None) if type(entry.op).__name__ == "Rename" else None
    )
    await mounts.settle()
    assert 5 in sizes
    assert mounts.server.rows.inode(ino).size == 0


async def test_a_file_unlinked_while_a_rename_of_it_waits_is_renamed_whole_first(mounts) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts)
    await vfs.write(fh, 0, b"bytes")
    await vfs.flush(fh)
    await vfs.release(fh)
    await vfs.rename(1, b"f", 1, b"g", 0)
    await vfs.unlink(1, b"g")
    assert await mounts.names(1) == [b".", b".."]
    had = []
    mounts.server.on_commit = lambda entry: (
        had.append(contents_of(mounts.server, mounts.disk, ino))
        if type(entry.op).__name__ == "Rename"
        else None
    )
    await mounts.settle()
    await mounts.settle()
    assert had == [b"bytes"]
    assert ino not in mounts.server.rows.inodes


async def test_fsync_commits_the_file_and_not_what_does_not_meet_it(mounts, root, clock) -> None:
    vfs = await mounts.start()
    folder = await vfs.mkdir(1, b"d", 0o755, root)
    other = await mounts.file(folder.ino, b"other", b"dirty")
    await vfs.rename(folder.ino, b"other", folder.ino, b"held", 0)
    ino, fh = await opened(mounts)
    await vfs.write(fh, 0, b"bytes")
    async with trio.open_nursery() as nursery:
        await nursery.start(_run, vfs)
        await vfs.fsync(fh, False)
        assert contents_of(mounts.server, mounts.disk, ino) == b"bytes"
        assert len(vfs.core.holding) == 1
        assert vfs.core.content.is_dirty(other.ino)
        await vfs.sync()
        assert mounts.server.rows.dentry(folder.ino, b"held") is not None
        nursery.cancel_scope.cancel()
    assert vfs.status()["pending_entries"] == 0


async def test_fsync_stores_what_the_file_waits_for(mounts, root, clock) -> None:
    vfs = await mounts.start()
    await mounts.file(1, b"first", b"dirty")
    await vfs.rename(1, b"first", 1, b"moved", 0)
    ino, fh = await opened(mounts)
    await vfs.write(fh, 0, b"bytes")
    async with trio.open_nursery() as nursery:
        await nursery.start(_run, vfs)
        await vfs.fsync(fh, False)
        nursery.cancel_scope.cancel()
    assert contents_of(mounts.server, mounts.disk, ino) == b"bytes"
    assert mounts.server.rows.dentry(1, b"moved") is not None


async def test_fsync_fails_while_nothing_can_be_stored_and_succeeds_later(mounts, clock) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts)
    await vfs.write(fh, 0, b"bytes")
    vfs.core.content.fail_flush = True
    async with trio.open_nursery() as nursery:
        await nursery.start(_run, vfs)
        with refused(Code.UNREACHABLE):
            await vfs.fsync(fh, False)
        vfs.core.content.fail_flush = False
        mounts.meta.dead = True
        began = trio.current_time()
        with refused(Code.TIMEOUT):
            await vfs.fsync(fh, False)
        assert trio.current_time() - began < 30
        assert vfs.status()["degraded"]
        mounts.meta.dead = False
        await vfs.fsync(fh, False)
        assert vfs.status()["degraded"] == []
        nursery.cancel_scope.cancel()
    assert contents_of(mounts.server, mounts.disk, ino) == b"bytes"


async def test_a_used_up_quota_of_bytes_is_told_at_once_but_overwriting_goes_on(mounts) -> None:
    vfs = await mounts.start()
    mounts.rights.quota_bytes = 10
    ino, fh = await opened(mounts, b"12345678")
    with refused(Code.QUOTA):
        await vfs.write(fh, 8, b"abc")
    assert (await vfs.getattr(ino)).size == 8
    await vfs.write(fh, 0, b"abcdefgh")
    await vfs.write(fh, 8, b"90")
    await mounts.settle()
    assert vfs.core.ledger.quota.used_bytes == mounts.server.rows.used_bytes == 10
    await vfs.setattr(ino, SetattrRequest(size=4), ROOT)
    await mounts.settle()
    await vfs.write(fh, 4, b"123456")
    await mounts.settle()
    quota = vfs.core.ledger.quota
    assert (quota.entered_bytes, quota.dirty_bytes, quota.entered_inodes) == (0, 0, 0)


async def test_creating_a_file_that_exists_opens_it_unless_told_otherwise(mounts, root) -> None:
    vfs = await mounts.start()
    ino, _ = await opened(mounts, b"bytes")
    _, row = await vfs.create(1, b"f", 0o644, os.O_RDWR, root)
    assert row.ino == ino
    with refused(Code.EXISTS):
        await vfs.create(1, b"f", 0o644, os.O_RDWR | os.O_EXCL, root)
    _, row = await vfs.create(1, b"f", 0o644, os.O_RDWR | os.O_TRUNC, root)
    assert (await vfs.getattr(ino)).size == 0


async def test_handles_that_are_not_open_are_told_so(mounts) -> None:
    vfs = await mounts.start()
    for attempt in (vfs.read(99, 0, 1), vfs.write(99, 0, b""), vfs.flush(99), vfs.readdir(99, 0, 1)):
        with refused(Code.BAD_HANDLE):
            await attempt
    await vfs.release(99)


async def _run(vfs, task_status=trio.TASK_STATUS_IGNORED):
    await vfs.run(task_status=task_status)
