"""Create, link, unlink, rmdir."""

import stat

import pytest
from msgspec.structs import replace

from cloudverge_protocol import operations as ops
from cloudverge_protocol.errors import Code
from cloudverge_protocol.ids import LINK_MAX, ROOT_INODE, SYMLINK_MAX
from cloudverge_protocol.inodes import Dentry, Extent
from cloudverge_protocol.memoryset import MemorySet
from cloudverge_protocol.rules import apply

FILE, FOLDER, LINK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK


@pytest.fixture
def ws() -> MemorySet:
    """A folder ``d`` (2000) with a file ``f`` (2001) in it, made at the times 10 and 20."""
    ws = MemorySet.with_root(now_ns=1)
    apply(create(b"d", 2000, FOLDER | 0o755, now_ns=10), ws)
    apply(create(b"f", 2001, FILE | 0o644, parent=2000, now_ns=20), ws)
    return ws


def create(name, ino, mode, parent=ROOT_INODE, now_ns=100, **more) -> ops.Create:
    return ops.Create(parent, name, ino, ino, mode, 5, 6, now_ns, **more)


def test_a_new_file_has_one_name_no_bytes_and_one_time(ws) -> None:
    apply(create(b"g", 3000, FILE | 0o4751, parent=2000, now_ns=30), ws)
    inode = ws.inode(3000)
    assert (inode.mode, inode.nlink, inode.size, inode.uid, inode.gid) == (FILE | 0o4751, 1, 0, 5, 6)
    assert {inode.atime_ns, inode.mtime_ns, inode.ctime_ns, inode.btime_ns} == {30}
    assert (inode.parent, inode.entries, inode.rdev, inode.version) == (0, 0, 0, 0)
    assert ws.dentry(2000, b"g") == Dentry(2000, b"g", 3000, FILE, 3000)


def test_a_new_name_changes_the_times_and_entries_of_its_folder_only(ws) -> None:
    apply(create(b"g", 3000, FILE | 0o600, parent=2000, now_ns=30), ws)
    parent = ws.inode(2000)
    assert (parent.mtime_ns, parent.ctime_ns, parent.atime_ns, parent.entries, parent.nlink) == (
        30,
        30,
        10,
        2,
        2,
    )
    assert ws.inode(ROOT_INODE).mtime_ns == 10


def test_a_new_folder_knows_its_parent_and_gives_it_a_link(ws) -> None:
    apply(create(b"sub", 3000, FOLDER | 0o700, parent=2000), ws)
    assert (ws.inode(3000).nlink, ws.inode(3000).parent) == (2, 2000)
    assert ws.inode(2000).nlink == 3


def test_a_symlink_is_as_long_as_its_target(ws) -> None:
    apply(create(b"l", 3000, LINK | 0o777, target=b"d/f"), ws)
    assert (ws.inode(3000).size, ws.inode(3000).target) == (3, b"d/f")


@pytest.mark.parametrize(
    ("kind", "kept"), [(stat.S_IFCHR, 259), (stat.S_IFBLK, 259), (stat.S_IFIFO, 0), (FILE, 0)]
)
def test_only_devices_keep_a_device_number(ws, kind, kept) -> None:
    apply(create(b"n", 3000, kind | 0o600, rdev=259), ws)
    assert ws.inode(3000).rdev == kept


def test_in_a_setgid_folder_the_group_is_inherited_and_folders_inherit_the_bit(ws) -> None:
    apply(ops.Setattr(2000, 50, 0o2775, gid=77), ws)
    apply(create(b"x", 3000, FILE | 0o644, parent=2000), ws)
    apply(create(b"y", 3001, FOLDER | 0o755, parent=2000), ws)
    assert (ws.inode(3000).gid, ws.inode(3000).mode) == (77, FILE | 0o644)
    assert (ws.inode(3001).gid, ws.inode(3001).mode) == (77, FOLDER | 0o2755)


def test_a_name_that_exists_is_not_made_again(ws, refuses) -> None:
    assert refuses(ws, create(b"f", 3000, FILE, parent=2000)) == Code.EXISTS


def test_an_inode_that_exists_is_not_made_again(ws, refuses) -> None:
    assert refuses(ws, create(b"new", 2001, FILE)) == Code.INVALID


def test_nothing_is_made_in_what_is_no_folder_or_is_gone(ws, refuses) -> None:
    assert refuses(ws, create(b"x", 3000, FILE, parent=2001)) == Code.NOT_DIR
    assert refuses(ws, create(b"x", 3000, FILE, parent=2999)) == Code.NOT_FOUND


def test_nothing_is_made_in_a_removed_folder_that_is_still_open(ws, refuses) -> None:
    apply(ops.Unlink(2000, b"f", 2001, False, 50), ws)
    apply(ops.Rmdir(ROOT_INODE, b"d", 2000, True, 51), ws)
    assert refuses(ws, create(b"x", 3000, FILE, parent=2000)) == Code.NOT_FOUND


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"", Code.INVALID),
        (b".", Code.INVALID),
        (b"..", Code.INVALID),
        (b"a/b", Code.INVALID),
        (b"a\0b", Code.INVALID),
        (b"x" * 256, Code.NAME_TOO_LONG),
    ],
)
def test_what_cannot_be_a_name_is_refused_by_every_operation(ws, refuses, name, code) -> None:
    assert refuses(ws, create(name, 3000, FILE)) == code
    assert refuses(ws, ops.Link(2001, ROOT_INODE, name, 3000, 1)) == code
    assert refuses(ws, ops.Unlink(2000, name, 2001, False, 1)) == code
    assert refuses(ws, ops.Rmdir(ROOT_INODE, name, 2000, False, 1)) == code
    assert refuses(ws, ops.Rename(ROOT_INODE, b"d", ROOT_INODE, name, 2000, 0, 0, False, 3000, 0, 1)) == code
    assert refuses(ws, ops.Rename(ROOT_INODE, name, ROOT_INODE, b"e", 2000, 0, 0, False, 3000, 0, 1)) == code


@pytest.mark.parametrize("name", [b"x" * 255, b"...", b" ", b"\xff\xfe", "grüße".encode(), b"-rf", b"\n"])
def test_any_other_bytes_are_a_name(ws, name) -> None:
    apply(create(name, 3000, FILE), ws)
    assert ws.dentry(ROOT_INODE, name)


@pytest.mark.parametrize(
    "change",
    [
        {"mode": 0o644},
        {"mode": 0o170000 | 0o644},
        {"mode": -1},
        {"mode": 1 << 40},
        {"uid": -1},
        {"gid": (1 << 32) - 1},
        {"ino": 0},
        {"ino": 1023},
        {"ino": 1 << 63},
        {"dentry": 5},
        {"parent": -1},
        {"now_ns": 1 << 63},
        {"mode": stat.S_IFCHR, "rdev": -1},
        {"mode": stat.S_IFCHR, "rdev": 1 << 32},
        {"mode": FILE, "target": b"t"},
        {"mode": LINK, "target": b""},
        {"mode": LINK, "target": b"a\0b"},
    ],
)
def test_an_impossible_create_is_invalid(ws, refuses, change) -> None:
    fields = {
        "parent": 1,
        "name": b"n",
        "ino": 3000,
        "dentry": 3000,
        "mode": FILE,
        "uid": 0,
        "gid": 0,
        "now_ns": 1,
    }
    assert refuses(ws, ops.Create(**(fields | change))) == Code.INVALID


def test_a_symlinks_target_has_a_limit(ws, refuses) -> None:
    apply(create(b"l", 3000, LINK, target=b"x" * SYMLINK_MAX), ws)
    assert refuses(ws, create(b"m", 3001, LINK, target=b"x" * (SYMLINK_MAX + 1))) == Code.NAME_TOO_LONG


def test_a_link_is_one_more_name_and_changes_ctime(ws) -> None:
    apply(ops.Link(2001, ROOT_INODE, b"again", 3000, 50), ws)
    inode = ws.inode(2001)
    assert (inode.nlink, inode.ctime_ns, inode.mtime_ns) == (2, 50, 20)
    assert ws.dentry(ROOT_INODE, b"again") == Dentry(ROOT_INODE, b"again", 2001, FILE, 3000)
    assert (ws.inode(ROOT_INODE).entries, ws.inode(ROOT_INODE).mtime_ns) == (2, 50)


def test_links_are_refused_to_folders_to_taken_names_and_to_what_is_gone(ws, refuses) -> None:
    assert refuses(ws, ops.Link(2000, 2000, b"loop", 3000, 50)) == Code.NOT_PERMITTED
    assert refuses(ws, ops.Link(2001, ROOT_INODE, b"d", 3000, 50)) == Code.EXISTS
    assert refuses(ws, ops.Link(2999, ROOT_INODE, b"x", 3000, 50)) == Code.STALE
    apply(ops.Unlink(2000, b"f", 2001, True, 50), ws)
    ws.drop_orphan(2001)  # of another session
    assert refuses(ws, ops.Link(2001, ROOT_INODE, b"x", 3000, 50)) == Code.NOT_FOUND


def nameless(ino: int, **more: int) -> ops.Create:
    return ops.Create(ROOT_INODE, b"", ino, 0, more.pop("mode", FILE), 5, 6, 30, **more)


def test_a_file_made_without_a_name_is_an_orphan_and_its_folder_knows_nothing_of_it(ws) -> None:
    folder = ws.inode(ROOT_INODE)
    apply(nameless(3000), ws)
    row = ws.inode(3000)
    assert (row.nlink, row.size, row.uid, row.gid, ws.is_orphan(3000)) == (0, 0, 5, 6, True)
    assert ws.inode(ROOT_INODE) == folder
    assert 3000 not in {dentry.ino for dentry in ws.dentries.values()}
    apply(ops.Reap(3000), ws)
    assert (ws.inode(3000), ws.orphans) == (None, set())


def test_a_link_gives_an_orphan_its_first_name_and_it_is_none_then(ws, refuses) -> None:
    apply(nameless(3000), ws)
    apply(ops.Write(3000, (Extent(0, 5, 1, 0),), 5, 31, 31), ws)
    apply(ops.Link(3000, ROOT_INODE, b"now", 3001, 40), ws)
    row = ws.inode(3000)
    assert (row.nlink, row.ctime_ns, row.size, ws.orphans) == (1, 40, 5, set())
    assert ws.dentry(ROOT_INODE, b"now").ino == 3000
    assert refuses(ws, ops.Reap(3000)) == Code.STALE


def test_a_file_made_without_a_name_gets_the_group_of_a_setgid_folder(ws) -> None:
    apply(ops.Setattr(ROOT_INODE, 20, mode=0o2777, gid=77), ws)
    apply(nameless(3000), ws)
    assert ws.inode(3000).gid == 77


def test_only_a_regular_file_may_be_made_without_a_name_and_only_in_a_folder_that_is_there(
    ws, refuses
) -> None:
    assert refuses(ws, nameless(3000, mode=FOLDER)) == Code.INVALID
    assert refuses(ws, nameless(3000, mode=stat.S_IFIFO | 0o600)) == Code.INVALID
    assert refuses(ws, replace(nameless(3000), name=b"x")) == Code.INVALID
    assert refuses(ws, replace(nameless(3000), parent=2001)) == Code.NOT_DIR
    assert refuses(ws, replace(nameless(3000), parent=2999)) == Code.NOT_FOUND
    assert refuses(ws, nameless(2001)) == Code.INVALID


def test_a_file_can_have_so_many_names_and_no_more(ws, refuses) -> None:
    for number in range(LINK_MAX - 1):
        apply(ops.Link(2001, ROOT_INODE, b"%d" % number, 3000 + number, 50), ws)
    assert refuses(ws, ops.Link(2001, ROOT_INODE, b"one more", 999_999, 50)) == Code.TOO_MANY_LINKS


def test_the_last_unlink_ends_the_inode_its_bytes_and_attributes(ws) -> None:
    apply(ops.Write(2001, (Extent(0, 5, 1, 0),), 5, 21, 21), ws)
    apply(ops.Setxattr(2001, b"user.a", b"v", 0, 22), ws)
    apply(ops.Unlink(2000, b"f", 2001, False, 50), ws)
    assert ws.inode(2001) is None
    assert (ws.used_bytes, ws.attributes) == (0, {})
    parent = ws.inode(2000)
    assert (parent.entries, parent.mtime_ns, parent.ctime_ns) == (0, 50, 50)


def test_an_unlink_leaves_other_names_alone(ws) -> None:
    apply(ops.Link(2001, ROOT_INODE, b"again", 3000, 40), ws)
    apply(ops.Unlink(2000, b"f", 2001, False, 50), ws)
    assert (ws.inode(2001).nlink, ws.inode(2001).ctime_ns) == (1, 50)
    assert ws.dentry(ROOT_INODE, b"again").ino == 2001


def test_an_open_file_outlives_its_last_name_until_it_is_reaped(ws) -> None:
    apply(ops.Unlink(2000, b"f", 2001, True, 50), ws)
    assert (ws.inode(2001).nlink, ws.is_orphan(2001)) == (0, True)
    apply(ops.Write(2001, (Extent(0, 5, 1, 0),), 5, 60, 60), ws)
    apply(ops.Reap(2001), ws)
    assert ws.inode(2001) is None
    assert (ws.orphans, ws.used_bytes) == (set(), 0)


def test_an_open_file_with_another_name_is_no_orphan(ws) -> None:
    apply(ops.Link(2001, ROOT_INODE, b"again", 3000, 40), ws)
    apply(ops.Unlink(2000, b"f", 2001, True, 50), ws)
    assert not ws.is_orphan(2001)


def test_unlink_is_refused_for_folders_for_names_that_lead_elsewhere_and_for_none(ws, refuses) -> None:
    assert refuses(ws, ops.Unlink(ROOT_INODE, b"d", 2000, False, 50)) == Code.IS_DIR
    assert refuses(ws, ops.Unlink(2000, b"f", 2000, False, 50)) == Code.STALE
    assert refuses(ws, ops.Unlink(2000, b"g", 2001, False, 50)) == Code.NOT_FOUND
    assert refuses(ws, ops.Unlink(2001, b"g", 2001, False, 50)) == Code.NOT_DIR


def test_an_empty_folder_is_removed_and_its_parent_loses_a_link(ws) -> None:
    apply(ops.Unlink(2000, b"f", 2001, False, 50), ws)
    apply(ops.Rmdir(ROOT_INODE, b"d", 2000, False, 60), ws)
    root = ws.inode(ROOT_INODE)
    assert ws.inode(2000) is None
    assert (root.nlink, root.entries, root.mtime_ns, root.ctime_ns) == (2, 0, 60, 60)


def test_rmdir_is_refused_for_full_folders_for_files_and_for_names_that_lead_elsewhere(ws, refuses) -> None:
    assert refuses(ws, ops.Rmdir(ROOT_INODE, b"d", 2000, False, 50)) == Code.NOT_EMPTY
    assert refuses(ws, ops.Rmdir(2000, b"f", 2001, False, 50)) == Code.NOT_DIR
    assert refuses(ws, ops.Rmdir(ROOT_INODE, b"d", 2001, False, 50)) == Code.STALE
    assert refuses(ws, ops.Rmdir(ROOT_INODE, b"e", 2000, False, 50)) == Code.NOT_FOUND


def test_only_an_orphan_can_be_reaped(ws, refuses) -> None:
    for ino in (ROOT_INODE, 2000, 2001, 2999):
        assert refuses(ws, ops.Reap(ino)) == Code.STALE


def test_a_message_shows_any_name_in_print(ws) -> None:
    with pytest.raises(Exception, match=r"'\\\\xff\\n\\u20ac'") as caught:
        apply(ops.Unlink(ROOT_INODE, b"\xff\n\xe2\x82\xac", 2001, False, 1), ws)
    assert str(caught.value).isprintable()
