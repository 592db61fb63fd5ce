"""Holes of open files through the vfs: what fallocate makes of a file, and where lseek finds data."""

import os

import pytest

from cloudverge_mount.filesystem import SetattrRequest
from cloudverge_protocol.errors import Code, NoRoom
from cloudverge_protocol.ids import FILE_BYTES_MAX, REGION_BYTES
from cloudverge_protocol.operations import PunchHole
from tests.fixtures.fakespace import assert_same, contents_of
from tests.fixtures.openfiles import ROOT, USER, content_of, opened, refused

pytestmark = pytest.mark.trio

KEEP, PUNCH, ZERO = 1, 2, 16
COLLAPSE, INSERT, UNSHARE = 8, 32, 64


# --- fallocate --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(
    ("mode", "offset", "length", "expected"),
    [
        (0, 2, 10, b"abcdefgh" + bytes(4)),
        (0, 2, 3, b"abcdefgh"),
        (KEEP, 2, 10, b"abcdefgh"),
        (PUNCH | KEEP, 2, 3, b"ab" + bytes(3) + b"fgh"),
        (PUNCH | KEEP, 6, 100, b"abcdef" + bytes(2)),
        (PUNCH | KEEP, 100, 100, b"abcdefgh"),
        (ZERO, 6, 4, b"abcdef" + bytes(4)),
        (ZERO | KEEP, 6, 4, b"abcdef" + bytes(2)),
    ],
)
async def test_fallocate_does_to_stored_and_dirty_bytes_what_linux_does(
    mounts, mode, offset, length, expected, stored
) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts)
    await vfs.write(fh, 0, b"abcdefgh")
    if stored:
        await mounts.settle()
    before = await vfs.getattr(ino)
    await vfs.fallocate(fh, mode, offset, length)
    assert await content_of(vfs, ino) == expected
    after = await vfs.getattr(ino)
    assert after.mtime_ns > before.mtime_ns
    assert after.ctime_ns > before.ctime_ns
    await vfs.flush(fh)
    await mounts.again()
    assert await content_of(mounts.vfs, ino) == expected
    await mounts.settle()
    await assert_same(mounts.vfs, mounts.server, mounts.disk)
    assert contents_of(mounts.server, mounts.disk, ino) == expected


async def test_a_hole_gives_its_bytes_back_and_what_was_dirty_there_is_never_uploaded(mounts) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts, b"0123456789")
    await mounts.settle()
    await vfs.write(fh, 4, b"dirty")
    await vfs.flush(fh)
    await vfs.fallocate(fh, PUNCH | KEEP, 2, 6)
    assert vfs.core.content.dirty_ranges(ino, 0, 100) == [(8, 9)]
    await vfs.write(fh, 3, b"x")
    await mounts.settle()
    assert contents_of(mounts.server, mounts.disk, ino) == b"01" + b"\0x\0\0\0\0" + b"y9"
    assert mounts.server.rows.used_bytes == 5
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_a_hole_in_all_that_is_dirty_leaves_the_size_that_was_written(mounts) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts)
    await vfs.write(fh, 3, b"dirty")
    await vfs.flush(fh)
    await vfs.fallocate(fh, PUNCH | KEEP, 0, 100)
    assert not vfs.core.content.is_dirty(ino)
    await mounts.again()
    assert await content_of(mounts.vfs, ino) == bytes(8)
    await mounts.settle()
    assert mounts.server.rows.inode(ino).size == 8
    assert mounts.server.rows.used_bytes == 0


async def test_a_hole_never_takes_bytes_that_a_rename_waits_for(mounts) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts)
    await vfs.write(fh, 0, b"bytes")
    await vfs.rename(1, b"f", 1, b"g", 0)
    had = []
    mounts.server.on_commit = lambda entry: (
        had.append(contents_of(mounts.server, mounts.disk, ino))
        if isinstance(entry.op, PunchHole) or type(entry.op).__name__ == "Rename"
        else None
    )
    await vfs.fallocate(fh, PUNCH | KEEP, 1, 2)
    await mounts.settle()
    assert had == [b"bytes", b"bytes"]
    assert contents_of(mounts.server, mounts.disk, ino) == b"b\0\0es"


async def test_a_hole_that_the_journal_cannot_take_leaves_no_trace(mounts, monkeypatch) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts, b"bytes")
    before = await vfs.getattr(ino)

    def full(*_):
        raise NoRoom(Code.NO_SPACE, "the cache disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(vfs.core.ledger.journal, "append", full)
        with refused(Code.NO_SPACE):
            await vfs.fallocate(fh, PUNCH | KEEP, 0, 3)
    assert (await vfs.getattr(ino), await content_of(vfs, ino)) == (before, b"bytes")


async def test_what_fallocate_cannot_do_is_not_supported_and_bad_ranges_are_invalid(mounts) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts, b"bytes")
    for mode in (COLLAPSE, INSERT, UNSHARE, PUNCH, PUNCH | ZERO | KEEP, 4, 1 << 20):
        with refused(Code.NOT_SUPPORTED):
            await vfs.fallocate(fh, mode, 0, 4096)
    for offset, length in ((-1, 5), (0, 0), (0, -1)):
        with refused(Code.INVALID):
            await vfs.fallocate(fh, 0, offset, length)
    with refused(Code.FILE_TOO_BIG):
        await vfs.fallocate(fh, KEEP, 1, FILE_BYTES_MAX)
    reading = (await vfs.open(ino, os.O_RDONLY, ROOT)).fh
    with refused(Code.BAD_HANDLE):
        await vfs.fallocate(reading, 0, 0, 10)
    assert await content_of(vfs, ino) == b"bytes"


async def test_room_that_the_quota_does_not_have_is_refused_ahead_but_a_hole_never_is(mounts) -> None:
    vfs = await mounts.start()
    mounts.rights.quota_bytes = 10
    ino, fh = await opened(mounts, b"12345678")
    await mounts.settle()
    for mode in (0, KEEP, ZERO, ZERO | KEEP):
        with refused(Code.QUOTA):
            await vfs.fallocate(fh, mode, 0, 11)
    assert await content_of(vfs, ino) == b"12345678"
    await vfs.fallocate(fh, 0, 0, 10)
    await vfs.fallocate(fh, PUNCH | KEEP, 0, 1 << 40)
    await mounts.settle()
    assert mounts.server.rows.used_bytes == 0
    await assert_same(vfs, mounts.server, mounts.disk)


@pytest.mark.parametrize("mode", [0, KEEP, PUNCH | KEEP, ZERO, ZERO | KEEP])
async def test_fallocate_by_another_user_clears_setuid(mounts, mode) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts, b"bytes", who=USER)
    await mounts.settle()
    await vfs.setattr(ino, SetattrRequest(mode=0o6755), ROOT)
    await vfs.fallocate(fh, mode, 2, 9)
    assert (await vfs.getattr(ino)).mode & 0o7777 == 0o755
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)


# --- lseek ------------------------------------------------------------------------------------------------


async def test_data_is_where_bytes_are_stored_or_dirty_and_the_end_is_a_hole(mounts) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts)
    await vfs.write(fh, 10, b"stored")
    await mounts.settle()
    await vfs.write(fh, 16, b"dirty")
    await vfs.write(fh, REGION_BYTES * 3 + 5, b"far")
    await vfs.setattr(ino, SetattrRequest(size=1 << 50), ROOT)
    far = REGION_BYTES * 3 + 5
    for offset, data, hole in (
        (0, 10, 0),
        (10, 10, 21),
        (18, 18, 21),
        (21, far, 21),
        (far + 1, far + 1, far + 3),
    ):
        assert await vfs.lseek(fh, offset, os.SEEK_DATA) == data
        assert await vfs.lseek(fh, offset, os.SEEK_HOLE) == hole
    assert await vfs.lseek(fh, far + 3, os.SEEK_HOLE) == far + 3
    for offset, whence in (
        (far + 3, os.SEEK_DATA),
        (1 << 50, os.SEEK_DATA),
        (1 << 50, os.SEEK_HOLE),
        (-1, os.SEEK_HOLE),
    ):
        with refused(Code.BEYOND_END):
            await vfs.lseek(fh, offset, whence)
    with refused(Code.INVALID):
        await vfs.lseek(fh, 0, os.SEEK_END)


async def test_a_file_without_holes_ends_in_one_and_an_empty_file_has_no_place_at_all(mounts) -> None:
    vfs = await mounts.start()
    _, fh = await opened(mounts, b"bytes")
    assert await vfs.lseek(fh, 0, os.SEEK_HOLE) == 5
    await mounts.settle()
    assert await vfs.lseek(fh, 4, os.SEEK_HOLE) == 5
    _, empty = await opened(mounts, b"", b"g")
    with refused(Code.BEYOND_END):
        await vfs.lseek(empty, 0, os.SEEK_HOLE)
