"""Copies between open files through the vfs: references to the same bytes, in the order they were made."""

import os

import pytest
import trio

from cloudverge_mount import copying
from cloudverge_mount.filesystem import SetattrRequest
from cloudverge_protocol.errors import Code
from cloudverge_protocol.ids import FILE_BYTES_MAX
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.operations import CloneRange, Create, Entry, Write
from tests.fixtures.fakespace import assert_same, contents_of
from tests.fixtures.openfiles import ROOT, USER, content_of, opened, refused

pytestmark = pytest.mark.trio

KEEP, PUNCH = 1, 2


# --- copy_file_range --------------------------------------------------------------------------------------


async def test_a_copy_refers_to_the_same_chunk_bytes_and_uploads_none(mounts) -> None:
    vfs = await mounts.start()
    _, fh = await opened(mounts, b"0123456789")
    other, into = await opened(mounts, b"abcdef", b"g")
    await mounts.settle()
    stored = {chunk: len(data) for chunk, data in mounts.disk.chunks.items()}
    assert await vfs.copy_file_range(fh, 3, into, 4, 5) == 5
    assert await content_of(vfs, other) == b"abcd34567"
    assert await vfs.copy_file_range(fh, 8, into, 20, 100) == 2
    await mounts.settle()
    assert {chunk: len(data) for chunk, data in mounts.disk.chunks.items()} == stored
    assert contents_of(mounts.server, mounts.disk, other) == b"abcd34567" + bytes(11) + b"89"
    assert mounts.server.rows.used_bytes == 10 + 4 + 5 + 2
    quota = vfs.core.ledger.quota
    assert (quota.entered_bytes, quota.dirty_bytes) == (0, 0)
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_bytes_that_are_dirty_on_either_side_enter_before_they_are_copied(mounts) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts)
    other, into = await opened(mounts, b"", b"g")
    await vfs.write(fh, 0, b"first")
    await vfs.write(into, 0, b"abcdefgh")
    assert await vfs.copy_file_range(fh, 0, into, 2, 5) == 5
    await vfs.write(fh, 0, b"later")
    await vfs.write(into, 3, b"X")
    assert await content_of(vfs, other) == b"abfXrsth"
    await vfs.flush(fh)
    await vfs.flush(into)
    await mounts.again()
    await mounts.settle()
    assert contents_of(mounts.server, mounts.disk, other) == b"abfXrsth"
    assert contents_of(mounts.server, mounts.disk, ino) == b"later"
    await assert_same(mounts.vfs, mounts.server, mounts.disk)


async def test_a_copy_and_what_is_written_after_it_keep_their_order_around_a_rename(mounts) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts, b"0123")
    other, into = await opened(mounts, b"", b"g")
    await mounts.settle()
    await vfs.write(fh, 2, b"dirty")
    await vfs.rename(1, b"f", 1, b"h", 0)
    assert await vfs.copy_file_range(fh, 0, into, 0, 2) == 2
    await vfs.write(fh, 0, b"XX")
    await vfs.write(into, 1, b"Y")
    await mounts.settle()
    assert contents_of(mounts.server, mounts.disk, other) == b"0Y"
    assert contents_of(mounts.server, mounts.disk, ino) == b"XXdirty"
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_a_copy_by_another_user_clears_setuid_of_what_it_changes_alone(mounts) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts, b"bytes", who=USER)
    other, into = await opened(mounts, b"other", b"g", who=USER)
    for each in (ino, other):
        await vfs.setattr(each, SetattrRequest(mode=0o6755), ROOT)
    await vfs.copy_file_range(fh, 0, into, 1, 3)
    modes = [(await vfs.getattr(each)).mode & 0o7777 for each in (ino, other)]
    assert modes == [0o6755, 0o755]
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_ranges_of_one_file_may_be_copied_unless_they_overlap(mounts) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts, b"0123456789")
    assert await vfs.copy_file_range(fh, 0, fh, 5, 5) == 5
    assert await content_of(vfs, ino) == b"0123401234"
    for at, to in ((0, 4), (4, 0), (3, 3)):
        with refused(Code.INVALID):
            await vfs.copy_file_range(fh, at, fh, to, 5)
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_a_copy_from_the_end_is_nothing_and_one_to_where_it_may_not_go_is_refused(mounts) -> None:
    vfs = await mounts.start()
    _, fh = await opened(mounts, b"bytes")
    other, appending = await opened(mounts, b"", b"g", os.O_WRONLY | os.O_APPEND)
    assert await vfs.copy_file_range(fh, 5, fh, 0, 10) == 0
    assert await vfs.copy_file_range(fh, 99, fh, 0, 10) == 0
    reading = (await vfs.open(other, os.O_RDONLY, ROOT)).fh
    for into in (appending, reading):
        with refused(Code.BAD_HANDLE):
            await vfs.copy_file_range(fh, 0, into, 0, 5)
    with refused(Code.FILE_TOO_BIG):
        await vfs.copy_file_range(fh, 0, fh, FILE_BYTES_MAX, 5)
    with refused(Code.INVALID):
        await vfs.copy_file_range(fh, -1, fh, 9, 5)
    mounts.rights.quota_bytes = 8
    _, into = await opened(mounts, b"", b"h")
    with refused(Code.QUOTA):
        await vfs.copy_file_range(fh, 0, into, 0, 5)


async def test_a_large_file_is_copied_in_a_few_operations_each_of_bounded_extents(
    mounts, monkeypatch
) -> None:
    size, piece = 1 << 30, 1 << 20
    server = mounts.server
    extents = tuple(Extent(n * piece, piece, 1 + n // 64, n % 64 * piece) for n in range(0, size // piece))
    server.commit(Entry(0, 1, Create(1, b"large", 9000, 9001, 0o100644, 0, 0, 5)), 0)
    server.commit(Entry(0, 2, Write(9000, extents, size, 6, 6)), 0)
    server.next_id = 10_000
    vfs = await mounts.start()
    fh = (await vfs.open((await vfs.lookup(1, b"large")).ino, os.O_RDONLY, ROOT)).fh
    other, into = await opened(mounts, b"", b"copy")
    monkeypatch.setattr(copying, "EXTENTS_AT_ONCE", 7)
    pieces = server.rows.file_extents(9000)
    done = 0
    while count := await vfs.copy_file_range(fh, done, into, done, 2 << 30):
        done += count
    assert done == size
    await mounts.settle()
    assert server.rows.file_extents(other) == pieces
    clones = [entry.op for entry in server.oplog if isinstance(entry.op, CloneRange)]
    assert len(clones) == -(-len(pieces) // 7)


@pytest.mark.parametrize("call", ["copy", "punch"])
async def test_whoever_is_interrupted_while_bytes_are_stored_has_done_nothing(
    mounts, monkeypatch, clock, call
) -> None:
    vfs = await mounts.start()
    ino, fh = await opened(mounts, b"0123")
    other, into = await opened(mounts, b"abcd", b"g")
    await vfs.write(fh, 0, b"dirty")
    await vfs.rename(1, b"f", 1, b"h", 0)
    entries = vfs.core.ledger.number

    async def never(_):
        await trio.sleep_forever()

    async def attempt():
        if call == "copy":
            await vfs.copy_file_range(fh, 0, into, 0, 5)
        else:
            await vfs.fallocate(fh, PUNCH | KEEP, 0, 5)

    with monkeypatch.context() as patch:
        patch.setattr(vfs.core.content, "flush", never)
        with trio.move_on_after(1) as scope:
            await attempt()
    assert scope.cancelled_caught
    assert vfs.core.ledger.number == entries
    assert (await content_of(vfs, ino), await content_of(vfs, other)) == (b"dirty", b"abcd")
    await attempt()
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)
