"""Letting go of a space: in which order, what is kept for its author, and where that may lie."""

import errno
import json
import os
from pathlib import Path

import pytest
import trio
from pyfuse3 import FUSEError

from cloudverge_mount.barred import BARRED, QUIET
from cloudverge_mount.binding import Binding
from cloudverge_mount.eviction import GIVEN, Eviction
from cloudverge_mount.filesystem import FileSystem
from cloudverge_mount.salvage import Paths, keep, salvage
from cloudverge_protocol.errors import Code, Denied
from cloudverge_protocol.ids import DentryId, InodeId
from cloudverge_protocol.inodes import Dentry

pytestmark = pytest.mark.trio

LOST = Denied(Code.FORBIDDEN, "you have no such grant")
FILE = 1


class Unstored:
    """The bytes side as salvage sees it."""

    def __init__(self, done=None, **pieces):
        self.pieces = {}
        self.done = done if done is not None else []

    def unstored_inodes(self):
        return list(self.pieces)

    def unstored_pieces(self, ino):
        yield from self.pieces[ino]

    async def aclose(self):
        self.done.append("bytes closed")


def named(vfs, ino, *way):
    """Give ``ino`` a path of these names, whatever they are; the folders on it have numbers above."""
    parent = 1
    for depth, name in enumerate(way):
        leads_to = ino if depth == len(way) - 1 else ino * 100 + depth
        vfs.core.rows.put_name(Dentry(InodeId(parent), name, InodeId(leads_to), FILE, DentryId(leads_to + 1)))
        parent = leads_to


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- salvage ----------------------------------------------------------------------------------------------


async def test_dirty_bytes_lie_at_their_path_with_holes_for_the_rest(mounts, tmp_path):
    vfs, content = await mounts.start(), Unstored()
    named(vfs, 5000, b"docs", b"2026", b"letter.txt")
    named(vfs, 6000, b"top")
    content.pieces = {5000: [(0, b"old"), (4096, b"tail"), (1, b"new")], 6000: [(2, b"x")]}
    folder = salvage(vfs.core, content, tmp_path / "recovery", LOST)
    assert files_in(folder / "files") == {
        "docs/2026/letter.txt": b"onew" + bytes(4092) + b"tail",
        "top": b"\0\0x",
    }
    assert folder.stat().st_mode & 0o077 == 0
    told = [json.loads(line) for line in (folder / "changes.jsonl").read_text().splitlines()]
    assert told[0]["refused"]["message"] == "you have no such grant"


async def test_operations_that_were_not_shipped_are_told_line_by_line(mounts, root, tmp_path):
    vfs = await mounts.start()
    made = await vfs.mkdir(1, b"not shipped", 0o755, root)
    await vfs.symlink(made.ino, b"pointer", b"elsewhere", root)
    folder = salvage(vfs.core, Unstored(), tmp_path / "recovery", LOST)
    lines = (folder / "changes.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines[1:]] == ["not shipped", "pointer"]


async def test_where_nothing_was_left_to_ship_nothing_is_kept(mounts, root, tmp_path):
    vfs = await mounts.start()
    await vfs.mkdir(1, b"shipped", 0o755, root)
    await mounts.settle()
    assert salvage(vfs.core, Unstored(), tmp_path / "recovery", LOST) is None
    assert not (tmp_path / "recovery").exists()


@pytest.mark.parametrize(
    "way",
    [
        (b"..", b"..", b"..", b"stolen"),
        (b"..",),
        (b".",),
        (b"/etc/passwd",),
        (b"a/../../../stolen",),
        (b"", b"stolen"),
        (b"d", b"..", b"..", b"stolen"),
        (b"zero\0byte",),
        (b"/", b"stolen"),
    ],
)
async def test_no_name_leads_out_of_the_folder(mounts, tmp_path, way):
    vfs, content = await mounts.start(), Unstored()
    named(vfs, 5000, *way)
    content.pieces = {5000: [(0, b"mine")]}
    before = files_in(tmp_path)
    folder = salvage(vfs.core, content, tmp_path / "recovery", LOST)
    assert list(files_in(folder / "files").values()) == [b"mine"]
    fresh = set(files_in(tmp_path)) - set(before)
    assert all(path.startswith(str(folder.relative_to(tmp_path))) for path in fresh), fresh


async def test_names_that_are_not_known_and_loops_of_names_have_numbers(mounts):
    vfs = await mounts.start()
    rows = vfs.core.rows
    rows.put_name(Dentry(InodeId(7000), b"leaf", InodeId(5000), FILE, DentryId(1)))
    rows.put_name(Dentry(InodeId(8001), b"a", InodeId(8000), FILE, DentryId(2)))
    rows.put_name(Dentry(InodeId(8000), b"b", InodeId(8001), FILE, DentryId(3)))
    rows.put_name(Dentry(InodeId(1), os.fsencode("grün"), InodeId(9000), FILE, DentryId(4)))
    rows.put_name(Dentry(InodeId(1), b"\xff\xfe", InodeId(9001), FILE, DentryId(5)))
    paths = Paths(rows, [5000, 6000, 8000, 9000, 9001])
    assert paths.of(5000) == Path("inode-7000/leaf")
    assert paths.of(6000) == Path("inode-6000")
    assert not paths.of(8000).is_absolute()
    assert paths.of(9000) == Path("grün")
    assert os.fsencode(paths.of(9001)) == b"\xff\xfe"


async def test_names_are_found_in_the_replica_too(mounts, root):
    vfs = await mounts.start()
    folder = await vfs.mkdir(1, b"d", 0o755, root)
    file = await mounts.file(folder.ino, b"f", b"bytes")
    await mounts.settle()
    await vfs.core.writer.write()
    assert Paths(vfs.core.rows, [file.ino]).of(file.ino) == Path("d/f")


async def test_a_file_that_cannot_be_at_its_path_is_kept_under_its_number(mounts, tmp_path):
    deep = Path(*["x" * 250] * 30)  # longer than a path may be
    keep(tmp_path / "files", deep / "name", 5000, [(0, b"deep")])
    keep(tmp_path / "files", Path("same"), 5001, [(0, b"first")])
    keep(tmp_path / "files", Path("same"), 5002, [(0, b"second")])
    keep(tmp_path / "files", Path("same/below"), 5003, [(0, b"third")])
    kept = {path.name: path.read_bytes() for path in (tmp_path / "files").iterdir() if path.is_file()}
    assert kept == {
        "inode-5000": b"deep", "same": b"first", "inode-5002": b"second", "inode-5003": b"third",
    }  # fmt: skip


async def test_what_cannot_be_kept_at_all_stops_nothing(mounts, tmp_path):
    (tmp_path / "recovery").write_text("a file where the folder should be")
    vfs, content = await mounts.start(), Unstored()
    content.pieces = {5000: [(0, b"mine")]}
    salvage(vfs.core, content, tmp_path / "recovery", LOST)


# --- eviction ---------------------------------------------------------------------------------------------


async def test_first_nothing_is_answered_last_the_folder_is_emptied(mounts, root, nursery, tmp_path):
    done = []
    vfs, eviction = await mounts.start(), Eviction()
    kept = await vfs.mkdir(1, b"seen", 0o755, root)
    opened = await mounts.file(1, b"open")
    await vfs.open(opened.ino, os.O_RDONLY, root)
    cache = mounts.folder
    for name in ("spill", "blocks"):
        (cache / name).mkdir(exist_ok=True)
        (cache / name / "data").write_text("bytes of the space")
    (cache / "cache-id").write_text("stays")
    content = Unstored(done)
    content.pieces = {opened.ino: [(0, b"mine")]}
    dropped = []

    def drop(inodes, names):
        done.append("kernel told")
        dropped.append((inodes, names))

    async def live():
        with eviction.life:
            try:
                await trio.sleep_forever()
            finally:
                assert (cache / "journal").exists(), "files closed while work was under way"
                done.append("work ended")
        eviction.life_ended.set()

    nursery.start_soon(live)
    await trio.testing.wait_all_tasks_blocked()
    eviction.lost(LOST)
    await eviction.run(cache, lambda: done.append("barred") or [77], vfs, content, drop)
    assert done == ["barred", "kernel told", "work ended", "bytes closed"]
    ((inodes, names),) = dropped
    assert set(inodes) >= {1, opened.ino, 77}
    assert set(names) >= {(1, b"seen"), (1, b"open")}
    assert kept.ino
    assert not [name for name in GIVEN if (cache / name).exists()]
    assert (cache / "cache-id").exists()
    assert "no such grant" in eviction.reason
    assert str(cache / "recovery") in eviction.reason
    assert b"mine" in files_in(cache / "recovery").values()
    mounts.vfs = None


async def test_who_waits_for_background_work_is_told_that_the_right_has_gone(mounts, nursery):
    eviction, vfs = Eviction(), await mounts.start()
    eviction.life_ended.set()

    async def wait():
        with pytest.raises(Denied, match="no such grant"):
            await eviction.unless_lost(trio.sleep_forever)

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    eviction.lost(LOST)
    await eviction.run(mounts.folder, lambda: (), vfs, Unstored(), lambda *_: None)
    with pytest.raises(Denied, match="no such grant"):
        await eviction.unless_lost(trio.sleep_forever)
    mounts.vfs = None


async def test_before_the_loss_work_is_done_as_ever(mounts):
    done = []

    async def act():
        done.append("done")

    await Eviction().unless_lost(act)
    assert done == ["done"]
    with trio.move_on_after(0.01) as scope:
        await Eviction().unless_lost(trio.sleep_forever)
    assert scope.cancelled_caught


# --- the binding ------------------------------------------------------------------------------------------


class Workers:
    def __init__(self):
        self.given_up = 0

    def give_up_all(self):
        self.given_up += 1

    def has_expired(self):
        return False


class Blocked:
    """A file system whose requests wait, and then find everything closed."""

    def __init__(self):
        self.go_on = trio.Event()

    async def getattr(self, ino):
        await self.go_on.wait()
        raise RuntimeError("Cannot operate on a closed database")


async def test_a_barred_binding_answers_eacces_to_requests_before_and_after(nursery):
    files, workers = Blocked(), Workers()
    binding = Binding(files, workers)
    found = []

    async def ask():
        with pytest.raises(FUSEError) as caught:
            await binding.getattr(1, None)
        found.append(caught.value.errno)

    nursery.start_soon(ask)
    await trio.testing.wait_all_tasks_blocked()
    binding.bar()
    files.go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    await ask()
    with pytest.raises(FUSEError) as caught:
        await binding.lookup(1, b"name", None)
    assert [*found, caught.value.errno] == [errno.EACCES] * 3
    assert workers.given_up == 1
    await binding.forget([(1, 1)])
    await binding.release(5)


async def test_who_has_lost_his_right_may_only_let_go():
    operations = [name for name in vars(FileSystem) if not name.startswith("_")]
    assert len(operations) > 25
    assert set(QUIET) < set(operations)
    for operation in operations:
        if operation in ("forget", "flush", "release", "releasedir"):
            assert await getattr(BARRED, operation)(1) is None
        else:
            with pytest.raises(Denied):
                await getattr(BARRED, operation)(1, b"name")
