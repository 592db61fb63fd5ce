"""Files made without a name (O_TMPFILE): whether they are seen, get a name, and end."""

import os

import pytest

from cloudverge_protocol.errors import Code
from cloudverge_protocol.operations import Create
from tests.fixtures.fakespace import assert_same, contents_of
from tests.fixtures.openfiles import refused

pytestmark = pytest.mark.trio


async def made(mounts, root, content: bytes = b"", flags: int = os.O_RDWR):
    fh, row = await mounts.vfs.tmpfile(1, 0o640, flags, root)
    if content:
        await mounts.vfs.write(fh, 0, content)
    return row.ino, fh


async def closed_all(mounts) -> None:
    """All is shipped and old incarnations are closed."""
    await mounts.settle()
    await mounts.vfs.core.shipper.ship_once()


def wipe(mounts) -> None:
    for path in mounts.folder.glob("replica*"):
        path.unlink()


async def test_it_is_a_file_like_others_but_in_no_folder(mounts, user) -> None:
    vfs = await mounts.start()
    before = await vfs.getattr(1)
    fh, row = await vfs.tmpfile(1, 0o640, os.O_RDWR, user)
    assert (row.mode & 0o7777, row.uid, row.nlink, row.size) == (0o640, 1000, 0, 0)
    await vfs.write(fh, 2, b"bytes")
    await vfs.setxattr(row.ino, b"user.a", b"v", 0)
    assert await vfs.read(fh, 0, 100) == b"\0\0bytes"
    assert await mounts.names(1) == [b".", b".."]
    assert await vfs.getattr(1) == before
    await mounts.settle()
    assert contents_of(mounts.server, mounts.disk, row.ino) == b"\0\0bytes"
    assert mounts.server.rows.used_inodes == 2


@pytest.mark.parametrize("stored", [False, True])
async def test_closed_without_a_name_it_is_gone(mounts, root, stored) -> None:
    vfs = await mounts.start()
    ino, fh = await made(mounts, root, b"bytes")
    if stored:
        await mounts.settle()
    await vfs.flush(fh)
    await vfs.release(fh)
    await mounts.settle()
    assert ino not in mounts.server.rows.inodes
    assert mounts.server.rows.used_bytes == 0
    with refused(Code.NOT_FOUND):
        await vfs.getattr(ino)
    quota = vfs.core.ledger.quota
    assert (quota.entered_bytes, quota.dirty_bytes, quota.entered_inodes) == (0, 0, 0)


@pytest.mark.parametrize("shipped", [False, True])
@pytest.mark.parametrize("wiped", [False, True])
async def test_after_a_kill_it_is_gone_too(mounts, root, shipped, wiped) -> None:
    vfs = await mounts.start()
    ino, fh = await made(mounts, root, b"bytes")
    await vfs.flush(fh)
    if shipped:
        await mounts.settle()
    mounts.kill()
    if wiped:
        wipe(mounts)
    await mounts.start()
    await closed_all(mounts)
    assert ino not in mounts.server.rows.inodes
    assert mounts.server.rows.used_bytes == 0
    assert not mounts.server.refused


async def test_a_link_gives_it_a_name_that_stays(mounts, root) -> None:
    vfs = await mounts.start()
    folder = (await vfs.mkdir(1, b"d", 0o755, root)).ino
    ino, fh = await made(mounts, root, b"bytes")
    row = await vfs.link(ino, folder, b"named")
    assert (row.ino, row.nlink) == (ino, 1)
    await vfs.write(fh, 5, b" more")
    await vfs.flush(fh)
    await vfs.release(fh)
    await mounts.settle()
    assert (await vfs.lookup(folder, b"named")).ino == ino
    assert contents_of(mounts.server, mounts.disk, ino) == b"bytes more"
    await assert_same(vfs, mounts.server, mounts.disk)


@pytest.mark.parametrize("wiped", [False, True])
@pytest.mark.parametrize("shipped", [False, True])
async def test_a_link_that_waits_for_bytes_outlives_a_kill_and_its_file_too(
    mounts, root, shipped, wiped
) -> None:
    vfs = await mounts.start()
    ino, fh = await made(mounts, root)
    if shipped:
        await mounts.settle()
    await vfs.write(fh, 0, b"bytes")
    await vfs.link(ino, 1, b"named")
    assert len(vfs.core.holding) == 1
    mounts.kill()
    if wiped:
        wipe(mounts)
    await mounts.start()
    await mounts.ship()
    await mounts.vfs.core.shipper.ship_once()
    assert (await mounts.vfs.lookup(1, b"named")).nlink == 1
    assert ino in mounts.server.rows.inodes
    await closed_all(mounts)
    assert not mounts.server.refused
    assert contents_of(mounts.server, mounts.disk, ino) == b"bytes"
    await assert_same(mounts.vfs, mounts.server, mounts.disk)


@pytest.mark.parametrize("wiped", [False, True])
async def test_a_link_that_was_on_its_way_outlives_a_kill(mounts, root, wiped) -> None:
    vfs = await mounts.start()
    ino, _ = await made(mounts, root, b"bytes")
    await mounts.settle()
    await vfs.link(ino, 1, b"named")
    mounts.kill()
    if wiped:
        wipe(mounts)
    await mounts.start()
    assert (await mounts.vfs.lookup(1, b"named")).ino == ino
    await closed_all(mounts)
    assert not mounts.server.refused
    await assert_same(mounts.vfs, mounts.server, mounts.disk)


async def test_it_can_still_be_linked_when_the_session_was_opened_again(mounts, root) -> None:
    vfs = await mounts.start()
    ino, fh = await made(mounts, root, b"bytes")
    await mounts.settle()
    mounts.rights.reopen()
    await vfs.core.shipper.ship_once()
    await vfs.write(fh, 5, b"!")
    await vfs.link(ino, 1, b"named")
    await closed_all(mounts)
    await vfs.release(fh)
    await closed_all(mounts)
    assert 1 in mounts.server.closed
    assert contents_of(mounts.server, mounts.disk, ino) == b"bytes!"
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_with_o_excl_and_after_an_unlink_no_link_gives_a_name(mounts, root) -> None:
    vfs = await mounts.start()
    exclusive, _ = await made(mounts, root, b"", os.O_RDWR | os.O_EXCL)
    ino, _ = await made(mounts, root)
    await vfs.link(ino, 1, b"a")
    await vfs.link(ino, 1, b"b")
    await vfs.unlink(1, b"a")
    await vfs.unlink(1, b"b")
    plain = (await vfs.create(1, b"f", 0o644, os.O_RDWR, root))[1].ino
    await vfs.unlink(1, b"f")
    for each in (exclusive, ino, plain):
        with refused(Code.NOT_FOUND):
            await vfs.link(each, 1, b"again")
    assert await mounts.names(1) == [b".", b".."]
    await mounts.settle()
    assert not mounts.server.refused


async def test_none_is_made_in_a_folder_that_is_gone_or_beyond_the_quota_of_files(mounts, root) -> None:
    vfs = await mounts.start()
    folder = (await vfs.mkdir(1, b"d", 0o755, root)).ino
    fh = await vfs.opendir(folder)
    await vfs.rmdir(1, b"d")
    with refused(Code.NOT_FOUND):
        await vfs.tmpfile(folder, 0o600, os.O_RDWR, root)
    await vfs.releasedir(fh)
    file = await mounts.file(1, b"f")
    with refused(Code.NOT_DIR):
        await vfs.tmpfile(file.ino, 0o600, os.O_RDWR, root)
    await mounts.settle()
    mounts.rights.quota_inodes = 2
    with refused(Code.QUOTA):
        await vfs.tmpfile(1, 0o600, os.O_RDWR, root)


async def test_no_entry_ever_shows_a_name_for_it(mounts, root) -> None:
    await mounts.start()
    await made(mounts, root, b"bytes")
    await mounts.settle()
    (op,) = (entry.op for entry in mounts.server.oplog if isinstance(entry.op, Create))
    assert (op.name, op.dentry) == (b"", 0)
