"""Starts: what a kill, another device, a damaged folder or another history leave, and what becomes of it."""

import os
from contextlib import suppress

import pytest
import trio

from cloudverge_mount import outbox as outboxes
from cloudverge_mount import shipper
from cloudverge_mount.filesystem import SetattrRequest
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.operations import Create, Entry, Rename, Setattr, Unlink, Write
from tests.fixtures.fakespace import assert_same, contents_of
from tests.fixtures.openfiles import content_of

pytestmark = pytest.mark.trio


def by_another(mounts, op) -> None:
    """Another device's mount does this, ours being away."""
    mounts.server.commit(Entry(77, 1, op), session=99)


async def test_a_warm_start_asks_for_nothing_but_the_oplog(mounts, root) -> None:
    vfs = await mounts.start()
    folder = await vfs.mkdir(1, b"d", 0o755, root)
    row = await mounts.file(folder.ino, b"f", b"bytes")
    await mounts.settle()
    await vfs.core.writer.write()
    await mounts.again()
    assert (mounts.meta.trees, mounts.meta.loads) == (0, 0)
    assert (await mounts.vfs.lookup(folder.ino, b"f")).ino == row.ino
    assert await mounts.names(folder.ino) == [b".", b"..", b"f"]
    assert (mounts.meta.trees, mounts.meta.loads) == (0, 0)


async def test_what_another_device_did_meanwhile_is_seen(mounts, root) -> None:
    vfs = await mounts.start()
    folder = await vfs.mkdir(1, b"d", 0o755, root)
    kept = await mounts.file(folder.ino, b"kept")
    gone = await mounts.file(folder.ino, b"gone")
    await mounts.settle()
    await vfs.core.writer.write()
    mounts.kill()
    by_another(mounts, Create(folder.ino, b"new", 5000, 5001, 0o100600, 1, 1, 5))
    by_another(mounts, Unlink(folder.ino, b"gone", gone.ino, False, 6))
    by_another(mounts, Setattr(kept.ino, 7, mode=0o640))
    vfs = await mounts.start()
    assert await mounts.names(folder.ino) == [b".", b"..", b"kept", b"new"]
    assert (await vfs.lookup(folder.ino, b"kept")).mode & 0o777 == 0o640
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_unshipped_changes_that_no_longer_fit_are_set_aside_and_the_rest_ships(mounts, root) -> None:
    vfs = await mounts.start()
    folder = await vfs.mkdir(1, b"d", 0o755, root)
    other = await vfs.mkdir(1, b"e", 0o755, root)
    row = await mounts.file(folder.ino, b"f")
    await mounts.settle()
    await vfs.core.writer.write()
    await vfs.setattr(row.ino, SetattrRequest(mode=0o600), root)
    await mounts.file(other.ino, b"mine", b"bytes")
    mounts.kill()
    by_another(mounts, Unlink(folder.ino, b"f", row.ino, False, 6))
    vfs = await mounts.start()
    await mounts.settle()
    assert mounts.server.rows.dentry(other.ino, b"mine") is not None
    assert vfs.status()["degraded"]
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_a_held_change_that_no_longer_fits_is_set_aside(mounts, root) -> None:
    vfs = await mounts.start()
    folder = await vfs.mkdir(1, b"d", 0o755, root)
    row = await mounts.file(folder.ino, b"f", b"bytes")
    await mounts.settle()
    fh = (await vfs.open(row.ino, os.O_RDWR, root)).fh
    await vfs.write(fh, 0, b"BYTES")
    await vfs.flush(fh)
    await vfs.rename(folder.ino, b"f", folder.ino, b"g", 0)
    await vfs.core.writer.write()
    mounts.kill()
    by_another(mounts, Unlink(folder.ino, b"f", row.ino, False, 6))
    vfs = await mounts.start()
    assert await mounts.names(folder.ino) == [b".", b".."]
    assert not len(vfs.core.holding)
    await mounts.settle()
    assert "elsewhere" in vfs.status()["degraded"][-1]
    assert not mounts.server.refused
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_what_stays_held_keeps_its_place_when_a_later_change_is_set_aside(mounts, root) -> None:
    vfs = await mounts.start()
    ino = (await mounts.file(1, b"f")).ino
    await mounts.settle()
    fh = (await vfs.open(ino, os.O_RDWR, root)).fh
    await vfs.write(fh, 0, b"bytes")
    await vfs.rename(1, b"f", 1, b"g", 0)
    await vfs.rename(1, b"g", 1, b"h", 0)
    mounts.kill()
    by_another(mounts, Create(1, b"h", 5000, 5001, 0o100600, 1, 1, 5))
    vfs = await mounts.start()
    assert await mounts.names(1) == [b".", b"..", b"g", b"h"]
    await vfs.setattr(ino, SetattrRequest(mode=0o600), root)
    assert len(vfs.core.holding) == 2
    committed = []
    mounts.server.on_commit = lambda entry: committed.append(type(entry.op))
    await mounts.settle()
    assert committed[:3] == [Write, Rename, Setattr]
    await assert_same(vfs, mounts.server, mounts.disk)


@pytest.mark.parametrize("how", ["garbage", "other history", "too old", "older than the journal"])
async def test_a_replica_that_does_not_fit_is_begun_anew_and_the_journal_kept(mounts, root, how) -> None:
    vfs = await mounts.start()
    folder = await vfs.mkdir(1, b"d", 0o755, root)
    await mounts.settle()
    await vfs.core.writer.write()
    await mounts.file(folder.ino, b"unshipped", b"bytes")
    if how == "older than the journal":
        await vfs.core.writer.write()
    mounts.kill()
    path = mounts.folder / "replica.sqlite3"
    if how == "garbage":
        path.write_bytes(b"garbage" * 1000)
    elif how == "other history":
        mounts.server.history = "h2"
    elif how == "too old":
        del mounts.server.oplog[0]
        feed = mounts.server.feed

        def resync(request):
            raise CloudVergeError(Code.RESYNC, "the oplog begins later") if request.since < 100 else None
            return feed(request)

        mounts.server.feed = resync
    elif how == "older than the journal":
        for log in (mounts.folder / "journal").glob("*.log"):
            log.write_bytes(log.read_bytes()[:-4])
    vfs = await mounts.start()
    assert await mounts.names(folder.ino) == [b".", b"..", b"unshipped"]
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)
    ino = (await vfs.lookup(folder.ino, b"unshipped")).ino
    if how != "older than the journal":
        assert contents_of(mounts.server, mounts.disk, ino) == b"bytes"


async def test_closed_bytes_of_a_file_that_was_unlinked_while_open_are_nothing_to_a_new_replica(
    mounts, root
) -> None:
    vfs = await mounts.start()
    row = await mounts.file(1, b"f", b"bytes")
    await vfs.open(row.ino, os.O_RDWR, root)
    await vfs.unlink(1, b"f")
    await mounts.ship()
    mounts.kill()
    (mounts.folder / "replica.sqlite3").unlink()
    vfs = await mounts.start()
    assert not vfs.core.content.is_dirty(row.ino)
    await vfs.core.shipper.ship_once()
    await mounts.settle()
    assert mounts.server.closed == [1]
    assert (mounts.server.refused, vfs.status()["degraded"]) == ([], [])
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_closed_bytes_that_are_lost_set_their_rename_aside_and_the_rest_ships(mounts, root) -> None:
    vfs = await mounts.start()
    folder = await vfs.mkdir(1, b"d", 0o755, root)
    lost = await mounts.file(folder.ino, b"f", b"bytes")
    await vfs.rename(folder.ino, b"f", folder.ino, b"g", 0)
    await mounts.file(1, b"other", b"bytes")
    mounts.kill()
    mounts.disk.spill = {key: data for key, data in mounts.disk.spill.items() if key[1] != 1}
    vfs = await mounts.start()
    assert await mounts.names(folder.ino) == [b".", b"..", b"f"]
    fh = (await vfs.open(lost.ino, os.O_RDWR, root)).fh
    with pytest.raises(CloudVergeError):
        await vfs.fsync(fh, False)
    await mounts.settle()
    assert contents_of(mounts.server, mounts.disk, (await vfs.lookup(1, b"other")).ino) == b"bytes"
    assert any("lost" in reason for reason in vfs.status()["degraded"])
    await assert_same(vfs, mounts.server, mounts.disk)


class Killed(BaseException):
    """The process is gone: nothing that it would have done next is done."""


def kill_after(mounts, records: int) -> None:
    """Die instead of writing one more journal record than these."""
    journal, written = mounts.vfs.core.ledger.journal, []
    append = journal.append

    def dying(kind: int, payload: bytes) -> int:
        if len(written) == records:
            raise Killed
        written.append(kind)
        return append(kind, payload)

    journal.append = dying


@pytest.mark.parametrize("records", range(5))
@pytest.mark.parametrize(("offset", "size"), [(0, 0), (0, 2), (5, 3), (5, 7), (0, 9)])
@pytest.mark.parametrize("stored", [b"", b"abcd"])
async def test_a_kill_within_a_truncation_leaves_what_was_closed_or_what_was_to_be(
    mounts, root, stored, offset, size, records
) -> None:
    vfs = await mounts.start()
    ino = (await mounts.file(1, b"f", stored)).ino
    await mounts.settle()
    fh = (await vfs.open(ino, os.O_RDWR, root)).fh
    await vfs.write(fh, offset, b"bytes")
    await vfs.flush(fh)
    closed = await content_of(vfs, ino)
    kill_after(mounts, records)
    with suppress(Killed):
        await vfs.setattr(ino, SetattrRequest(size=size), root)
    vfs = await mounts.again()
    left = await content_of(vfs, ino)
    assert left == (closed[:size].ljust(size, b"\0") if records else closed)
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)
    assert contents_of(mounts.server, mounts.disk, ino) == left


async def test_a_kill_does_not_undo_a_truncation_though_what_was_written_later_is_lost(mounts, root) -> None:
    vfs = await mounts.start()
    fh, row = await vfs.create(1, b"f", 0o644, os.O_RDWR, root)
    await vfs.write(fh, 5, b"bytes")
    await vfs.flush(fh)
    await vfs.write(fh, 0, b"x")
    await vfs.setattr(row.ino, SetattrRequest(size=3), root)
    vfs = await mounts.again()
    assert await content_of(vfs, row.ino) == bytes(3)
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)


@pytest.mark.parametrize("ships", [False, True])
async def test_the_size_of_a_closed_file_survives_a_kill_when_all_its_bytes_have_entered(
    mounts, root, ships
) -> None:
    vfs = await mounts.start()
    fh, row = await vfs.create(1, b"f", 0o644, os.O_RDWR, root)
    await vfs.write(fh, 0, b"ab")
    await vfs.setattr(row.ino, SetattrRequest(size=8), root)
    await vfs.flush(fh)
    await vfs.write(fh, 6, b"c")
    vfs.core.content.upload(row.ino, 2)
    if ships:
        await mounts.ship()
        assert mounts.server.rows.inode(row.ino).size == 6, "what is above is not durable"
    vfs = await mounts.again()
    assert await content_of(vfs, row.ino) == b"ab" + bytes(6)
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)
    await mounts.again()
    assert not mounts.vfs.core.ledger.outbox, "nothing is left to be said of it"
    assert await content_of(mounts.vfs, row.ino) == b"ab" + bytes(6)


def times_and_mode(row) -> tuple[int, int, int]:
    return row.mtime_ns, row.ctime_ns, row.mode


async def again_and_settled(mounts, ino: int) -> None:
    """After a kill a file looks as before, here at once and in the end on the server."""
    before = times_and_mode(await mounts.vfs.getattr(ino))
    vfs = await mounts.again()
    assert times_and_mode(await vfs.getattr(ino)) == before
    await mounts.settle()
    assert times_and_mode(await vfs.getattr(ino)) == before
    await assert_same(vfs, mounts.server, mounts.disk)


@pytest.mark.parametrize("records", range(4))
async def test_a_write_that_passed_a_link_is_the_later_one_wherever_a_kill_comes(
    mounts, root, records
) -> None:
    vfs = await mounts.start()
    ino = (await mounts.file(1, b"f", b"bytes")).ino
    fh = (await vfs.open(ino, os.O_RDWR, root)).fh
    await vfs.link(ino, 1, b"g")
    await vfs.write(fh, 0, b"BYTES")
    await vfs.flush(fh)
    kill_after(mounts, records)
    with suppress(Killed):
        vfs.core.content.upload(ino)
    await again_and_settled(mounts, ino)


async def test_a_write_that_passed_what_waits_on_is_the_later_one_after_a_kill(mounts, root, user) -> None:
    vfs = await mounts.start()
    folder = await vfs.mkdir(1, b"d", 0o755, root)
    await mounts.file(folder.ino, b"other", b"dirty")
    ino = (await mounts.file(1, b"f", b"bytes")).ino
    await vfs.rename(folder.ino, b"other", folder.ino, b"held", 0)
    await vfs.link(ino, folder.ino, b"g")
    await vfs.setattr(ino, SetattrRequest(mtime_ns=5, mode=0o4755), root)
    fh = (await vfs.open(ino, os.O_RDWR, user)).fh
    await vfs.write(fh, 0, b"BYTES")
    vfs.core.content.upload(ino)
    assert len(vfs.core.holding) == 3
    assert (await vfs.getattr(ino)).mode & 0o7777 == 0o755
    await again_and_settled(mounts, ino)


async def test_a_held_write_that_passed_a_rename_is_the_later_one_after_a_kill(mounts, root) -> None:
    vfs = await mounts.start()
    folder = await vfs.mkdir(1, b"d", 0o755, root)
    ino = (await mounts.file(1, b"f")).ino
    await mounts.file(folder.ino, b"other", b"dirty")
    await vfs.rename(folder.ino, b"other", folder.ino, b"held", 0)
    await vfs.link(ino, folder.ino, b"g")
    fh = (await vfs.open(ino, os.O_RDWR, root)).fh
    await vfs.write(fh, 0, b"bytes")
    await vfs.rename(1, b"f", 1, b"h", 0)
    await vfs.write(fh, 0, b"BYTES")
    vfs.core.content.upload(ino)
    assert len(vfs.core.holding) == 4
    await again_and_settled(mounts, ino)


async def test_old_incarnations_are_closed_once_their_entries_are_shipped(mounts, root) -> None:
    vfs = await mounts.start()
    await vfs.mkdir(1, b"d", 0o755, root)
    vfs = await mounts.again()
    assert [item.incarnation for item in vfs.core.ledger.outbox] == [1]
    mounts.meta.faults = ["before"]
    with pytest.raises(CloudVergeError):
        await vfs.core.shipper.ship_once()
    assert mounts.server.closed == []
    await vfs.core.shipper.ship_once()
    assert mounts.server.applied == [(1, 1)]
    assert mounts.server.closed == [1]


async def test_an_incarnation_that_ends_while_others_wait_is_not_closed_with_them(
    mounts, root, monkeypatch
) -> None:
    monkeypatch.setattr(shipper, "BATCH_ENTRIES", 1)
    vfs = await mounts.start()
    await vfs.mkdir(1, b"a", 0o755, root)
    await vfs.mkdir(1, b"b", 0o755, root)
    mounts.rights.reopen()
    await vfs.core.shipper.ship_once()
    await vfs.mkdir(1, b"c", 0o755, root)
    mounts.rights.reopen()
    await mounts.ship()
    assert mounts.server.applied == [(1, 1), (1, 2), (2, 1)]
    assert mounts.server.closed == [1, 2]


async def test_an_incarnation_whose_writes_are_held_is_not_closed(mounts, root) -> None:
    vfs = await mounts.start()
    await mounts.file(1, b"a", b"first")
    await vfs.rename(1, b"a", 1, b"b", 0)
    row = await mounts.file(1, b"c", b"second")
    vfs.core.content.upload(row.ino)
    assert vfs.core.ledger.outbox.pushed == 1
    vfs = await mounts.again()
    await vfs.core.shipper.ship_once()
    assert mounts.server.closed == []
    await mounts.settle()
    await vfs.core.shipper.ship_once()
    assert mounts.server.closed == [1]
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_the_journal_is_trimmed_when_all_of_it_is_committed_and_in_the_replica(
    mounts, monkeypatch
) -> None:
    monkeypatch.setattr("cloudverge_mount.journal.SEGMENT_BYTES", 2000)
    vfs = await mounts.start()
    for number in range(60):
        await mounts.file(1, b"f%d" % number, b"bytes")
    journal = vfs.core.ledger.journal
    await vfs.core.writer.write()
    assert journal.first_segment == 1
    await mounts.settle()
    assert journal.first_segment == 1
    await vfs.core.writer.write()
    assert journal.segment > 3
    assert journal.first_segment == journal.segment
    await mounts.again()
    assert len(await mounts.names(1)) == 62
    assert (mounts.meta.trees, mounts.meta.loads) == (0, 0)
    await assert_same(mounts.vfs, mounts.server, mounts.disk)


async def test_a_long_backlog_is_shipped_from_the_journal_file(mounts, monkeypatch) -> None:
    monkeypatch.setattr(outboxes, "ITEMS_MAX", 50)
    vfs = await mounts.start()
    for number in range(300):
        await mounts.file(1, b"f%d" % number)
    assert len(vfs.core.ledger.outbox) == 300
    assert len(vfs.core.ledger.outbox._items) == 50
    vfs = await mounts.again()
    assert len(vfs.core.ledger.outbox) == 300
    refused = (1, 200)
    mounts.server.refuse = lambda entry: (
        (Code.STALE, "no") if (entry.incarnation, entry.number) == refused else None
    )
    await mounts.settle()
    assert len(mounts.server.applied) == 199
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_a_session_opened_again_under_way_goes_on_with_new_numbers(mounts, root, clock) -> None:
    vfs = await mounts.start()
    async with trio.open_nursery() as nursery:
        await nursery.start(_run, vfs)
        await vfs.mkdir(1, b"a", 0o755, root)
        mounts.rights.reopen()
        by_another(mounts, Create(1, b"theirs", 5000, 5001, 0o100600, 1, 1, 5))
        await vfs.mkdir(1, b"b", 0o755, root)
        await vfs.sync()
        await trio.sleep(3)
        assert await mounts.names(1) == [b".", b"..", b"a", b"b", b"theirs"]
        nursery.cancel_scope.cancel()
    assert mounts.server.applied == [(1, 1), (2, 1)]
    assert mounts.server.closed == [1]


async def _run(vfs, task_status=trio.TASK_STATUS_IGNORED):
    await vfs.run(task_status=task_status)
