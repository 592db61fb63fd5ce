"""What a session confined to a sub-tree is shown: its numbers, and the oplog as it looks from inside."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_metaserver.filtering import Resync, filtered, inodes_in
from cloudverge_metaserver.scope import NOTHING, Scope, inodes_named
from cloudverge_protocol.ids import ID_MAX
from cloudverge_protocol.inodes import Dentry, Inode
from cloudverge_protocol.messages import Folder
from cloudverge_protocol.operations import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    ChunkDone,
    CloneRange,
    Create,
    Link,
    LogEntry,
    PunchHole,
    Reap,
    Removexattr,
    Rename,
    Rmdir,
    Setattr,
    Setxattr,
    Truncate,
    Unlink,
    Write,
)

ROOT, FOLDER, FILE = 5000, 5001, 5002  # inside
ABOVE, BESIDE, OTHER = 4000, 4001, 4002  # outside
INSIDE = {ROOT, FOLDER, FILE}
NOW_NS = 1_700_000_000_000_000_000


def create(parent, ino, name=b"n"):
    return Create(parent, name, ino, 9000, 0o100644, 0, 0, NOW_NS)


def rename(parent, new_parent, ino=FILE, target=0, flags=0):
    return Rename(parent, b"old", new_parent, b"new", ino, target, flags, False, 9001, 9002, NOW_NS)


def every_operation(one, two, three):
    """One of each kind, naming these three inodes wherever it can."""
    return (
        create(one, two),
        Link(one, two, b"n", 9000, NOW_NS),
        Unlink(one, b"n", two, False, NOW_NS),
        Rmdir(one, b"n", two, True, NOW_NS),
        rename(one, two, three, one),
        Setattr(one, NOW_NS),
        Setxattr(one, b"user.x", b"v", 0, NOW_NS),
        Removexattr(one, b"user.x", NOW_NS),
        Write(one, (), 5, NOW_NS, NOW_NS),
        Truncate(one, 5, NOW_NS),
        PunchHole(one, 0, 5, NOW_NS),
        CloneRange(one, 0, 5, two, 0, NOW_NS),
        Reap(one),
        ChunkDone(77),
    )


# --- numbers ----------------------------------------------------------------------------------------------


def test_the_root_is_one_and_its_real_number_means_nothing():
    scope = Scope(ROOT)
    assert (scope.inward(1), scope.inward(ROOT), scope.inward(FILE)) == (ROOT, NOTHING, FILE)
    assert (scope.outward(ROOT), scope.outward(FILE)) == (1, FILE)
    assert NOTHING == ID_MAX


@given(st.integers(1, ID_MAX - 1), st.integers(1024, ID_MAX - 1))
def test_what_a_session_says_it_is_told_again(number, root):
    scope = Scope(root)
    meant = scope.inward(number)
    assert meant != 1 or number == 1
    assert meant == NOTHING or scope.outward(meant) == number


@pytest.mark.parametrize("index", range(13))
def test_every_operation_is_translated_in_all_its_fields_both_ways(index):
    said, meant = every_operation(1, FILE, 1)[index], every_operation(ROOT, FILE, ROOT)[index]
    scope = Scope(ROOT)
    assert scope.inward_op(said) == meant
    assert scope.outward_op(meant) == said
    assert set(inodes_named(meant)) <= {ROOT, FILE}


def test_a_rename_over_nothing_has_no_target_in_any_numbers():
    op = rename(ROOT, FOLDER)
    assert Scope(ROOT).outward_op(op).target == 0
    assert Scope(ROOT).inward_op(op).target == 0
    assert 0 not in inodes_named(op)


def test_a_whole_space_is_shown_as_it_is():
    scope, row = Scope(1), Inode(1, 0o40755, 0, 0, 2, 0, 0, 0, 0, 0, parent=1)
    for op in every_operation(1, FILE, BESIDE):
        assert scope.inward_op(op) is op
        assert scope.outward_op(op) is op
    assert scope.inode(row) is row
    assert scope.inward(ROOT) == scope.outward(ROOT) == ROOT


def test_what_the_root_lies_in_is_not_shown():
    scope = Scope(ROOT)
    root = Inode(ROOT, 0o40755, 0, 0, 3, 0, 0, 0, 0, 0, parent=ABOVE, entries=1)
    folder = Inode(FOLDER, 0o40755, 0, 0, 2, 0, 0, 0, 0, 0, parent=ROOT)
    deep = Inode(5003, 0o40755, 0, 0, 2, 0, 0, 0, 0, 0, parent=FOLDER)
    assert [(row.ino, row.parent) for row in scope.inodes((root, folder, deep))] == [
        (1, 1),
        (FOLDER, 1),
        (5003, FOLDER),
    ]
    names = (Dentry(ROOT, b"a", FOLDER, 0o40000, 1), Dentry(FOLDER, b"b", FILE, 0o100000, 2))
    assert [row.parent for row in scope.dentries(names)] == [1, FOLDER]
    assert scope.folder(Folder(ROOT, 7, True, names[:1])) == Folder(1, 7, True, scope.dentries(names[:1]))
    assert scope.folder(Folder(FOLDER, 0, True, names[1:])).ino == FOLDER


def test_a_message_has_the_sessions_numbers_and_leaves_names_alone():
    words = Scope(5000).words
    assert words("there is no '5000' in folder 5000") == "there is no '5000' in folder 1"
    assert (
        words("""'it\\'s 5000' is inode 50001 now, not 5000""")
        == """'it\\'s 5000' is inode 50001 now, not 1"""
    )
    assert words(""""it's 5000" in folder 5000""") == """"it's 5000" in folder 1"""
    assert words(f"the id {NOTHING} was not given") == "the id 5000 was not given"
    assert words("this session's folder 5000 isn't 5000") == "this session's folder 1 isn't 1"
    assert Scope(1).words("folder 5000") == "folder 5000"


# --- the oplog --------------------------------------------------------------------------------------------


def seen(*ops, inside=INSIDE, root=ROOT):
    """What of these operations is shown, by their places in the history."""
    entries = [LogEntry(seq, 3, 4, seq, op) for seq, op in enumerate(ops, 1)]
    return [(entry.seq, entry.op) for entry in filtered(entries, inside, Scope(root))]


def test_what_happens_inside_is_shown_in_the_sessions_numbers():
    ops = (create(ROOT, FILE), Unlink(FOLDER, b"n", FILE, False, NOW_NS), rename(ROOT, FOLDER))
    scope = Scope(ROOT)
    assert seen(*ops) == [(n, scope.outward_op(op)) for n, op in enumerate(ops, 1)]
    assert seen(Write(FILE, (), 5, 1, 1)) == [(1, Write(FILE, (), 5, 1, 1))]


def test_what_happens_outside_is_silence():
    for op in every_operation(ABOVE, BESIDE, OTHER):
        assert seen(op) == []


def test_names_elsewhere_change_the_inode_and_are_not_told():
    touch = Setattr(FILE, NOW_NS)
    for op in (
        Link(FILE, ABOVE, b"secret", 9000, NOW_NS),
        Unlink(ABOVE, b"secret", FILE, False, NOW_NS),
        create(ABOVE, FILE, b"secret"),
        rename(ABOVE, BESIDE, FILE),
        rename(ABOVE, BESIDE, OTHER, FILE),
        rename(ABOVE, BESIDE, FILE, OTHER, RENAME_EXCHANGE),
        CloneRange(OTHER, 0, 5, FILE, 0, NOW_NS),
    ):
        assert seen(op) == [(1, touch)]


def test_a_rename_elsewhere_changes_both_that_it_names():
    both = rename(ABOVE, BESIDE, FILE, FOLDER, RENAME_EXCHANGE)
    assert seen(both) == [(1, Setattr(FILE, NOW_NS)), (1, Setattr(FOLDER, NOW_NS))]
    assert seen(rename(ABOVE, BESIDE, ROOT)) == [(1, Setattr(1, NOW_NS))]


def test_what_is_moved_out_is_a_name_less_and_where_to_is_not_told():
    gone = Unlink(FOLDER, b"old", FILE, False, NOW_NS)
    assert seen(rename(FOLDER, ABOVE)) == [(1, gone)]
    assert seen(rename(FOLDER, ABOVE, OTHER, FILE))[1] == (1, Setattr(FILE, NOW_NS))


@pytest.mark.parametrize("flags", [0, RENAME_NOREPLACE, RENAME_EXCHANGE])
def test_what_is_moved_in_cannot_be_told(flags):
    with pytest.raises(Resync):
        seen(create(ROOT, FILE), rename(ABOVE, FOLDER, flags=flags))


def test_what_is_exchanged_with_something_outside_cannot_be_told():
    with pytest.raises(Resync):
        seen(rename(FOLDER, ABOVE, FILE, OTHER, RENAME_EXCHANGE))


def test_what_a_file_was_before_it_was_given_a_name_here_is_not_told():
    before = (
        create(ABOVE, FILE),
        Setxattr(FILE, b"user.secret", b"v", 0, NOW_NS),
        Write(FILE, (), 5, 1, 1),
        CloneRange(OTHER, 0, 5, FILE, 0, NOW_NS),
        rename(ABOVE, BESIDE, FILE),
    )
    link = Link(FILE, FOLDER, b"n", 9000, NOW_NS)
    after = Setxattr(FILE, b"user.open", b"v", 0, NOW_NS)
    assert seen(*before, link, after) == [(6, link), (7, after)]
    assert seen(*before, link, after, link) == [(6, link), (8, link)]


def test_all_inodes_that_decide_are_asked_for():
    ops = every_operation(ROOT, FILE, OTHER)
    entries = [LogEntry(n, 3, 4, n, op) for n, op in enumerate(ops, 1)]
    assert inodes_in(entries) == {ROOT, FILE, OTHER}
