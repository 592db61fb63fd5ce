"""What a batch of a confined session may touch, while its operations change what lies inside. Pure."""

import pytest

from cloudverge_metaserver.subtree import Confinement, not_here
from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.operations import (
    RENAME_EXCHANGE,
    ChunkDone,
    CloneRange,
    Create,
    Link,
    Reap,
    Rename,
    Rmdir,
    Setattr,
    Unlink,
    Write,
)

ROOT, FOLDER, FILE, OPEN, OUTSIDE, NEW = 5000, 5001, 5002, 5003, 4000, 6000
NOW_NS = 1_700_000_000_000_000_000


@pytest.fixture
def confined() -> Confinement:
    """A root with a folder, a file of two names, and an open file without any."""
    return Confinement({ROOT: 1, FOLDER: 1, FILE: 2}, {OPEN})


def create(parent, ino=NEW):
    return Create(parent, b"n", ino, 9000, 0o100644, 0, 0, NOW_NS)


def unlink(ino=FILE, keep=False):
    return Unlink(ROOT, b"n", ino, keep, NOW_NS)


def rename(parent, new_parent, ino=FILE, target=0, flags=0, keep=False):
    return Rename(parent, b"old", new_parent, b"new", ino, target, flags, keep, 9001, 9002, NOW_NS)


def never(ino):
    return False


def holds(confined, ino) -> bool:
    try:
        confined.check(Setattr(ino, NOW_NS))
    except Refused as error:
        return (error.code, error.message) != (Code.NOT_FOUND, not_here().message)
    return True


def test_the_root_what_has_a_name_inside_and_what_is_open_here_may_be_touched(confined):
    assert all(holds(confined, ino) for ino in (ROOT, FOLDER, FILE, OPEN))
    assert not any(holds(confined, ino) for ino in (1, OUTSIDE, NEW, 0, -1, 1 << 70))


@pytest.mark.parametrize(
    "op",
    [
        create(OUTSIDE),
        create(OUTSIDE, OUTSIDE),
        Link(OUTSIDE, ROOT, b"n", 9000, NOW_NS),
        Link(FILE, OUTSIDE, b"n", 9000, NOW_NS),
        Unlink(OUTSIDE, b"n", FILE, False, NOW_NS),
        Rmdir(ROOT, b"n", OUTSIDE, False, NOW_NS),
        rename(OUTSIDE, ROOT),
        rename(ROOT, OUTSIDE),
        rename(ROOT, FOLDER, OUTSIDE),
        rename(ROOT, FOLDER, FILE, OUTSIDE),
        rename(ROOT, FOLDER, FILE, OUTSIDE, RENAME_EXCHANGE),
        Write(OUTSIDE, (), 5, NOW_NS, NOW_NS),
        CloneRange(OUTSIDE, 0, 5, FILE, 0, NOW_NS),
        CloneRange(FILE, 0, 5, OUTSIDE, 0, NOW_NS),
        Reap(OUTSIDE),
    ],
)
def test_one_inode_outside_is_enough_to_refuse(confined, op):
    with pytest.raises(Refused) as caught:
        confined.check(op)
    assert (caught.value.code, caught.value.message) == (Code.NOT_FOUND, not_here().message)


def test_what_lies_inside_may_be_named_and_what_is_made_need_not_be_there(confined):
    for op in (
        create(ROOT),
        create(FOLDER),
        rename(ROOT, FOLDER),
        rename(ROOT, ROOT, FILE, FOLDER),
        ChunkDone(1),
    ):
        confined.check(op)


def test_what_the_batch_makes_is_inside_from_then_on(confined):
    confined.applied(create(ROOT), never)
    assert holds(confined, NEW)


def test_a_file_is_inside_as_long_as_one_name_here_is_left(confined):
    confined.applied(unlink(), never)
    assert holds(confined, FILE)
    confined.applied(Link(FILE, ROOT, b"again", 9000, NOW_NS), never)
    confined.applied(unlink(), never)
    assert holds(confined, FILE)
    confined.applied(unlink(), never)
    assert not holds(confined, FILE)


def test_what_lost_its_last_name_stays_only_for_who_has_it_open(confined):
    confined.applied(Rmdir(ROOT, b"n", FOLDER, True, NOW_NS), lambda ino: ino == FOLDER)
    assert holds(confined, FOLDER)
    for _ in range(2):  # it is open too, but has a name elsewhere
        confined.applied(unlink(keep=True), never)
    assert not holds(confined, FILE)


def test_what_was_reaped_is_nobodys(confined):
    confined.applied(Reap(OPEN), never)
    assert not holds(confined, OPEN)


def test_what_a_rename_replaces_has_a_name_less_and_what_it_moves_has_as_many(confined):
    confined.applied(rename(ROOT, FOLDER, FILE, FOLDER), never)
    assert not holds(confined, FOLDER)
    assert holds(confined, FILE)


def test_an_exchange_and_a_rename_over_another_name_of_the_same_file_take_no_name(confined):
    confined.applied(rename(ROOT, FOLDER, FILE, FOLDER, RENAME_EXCHANGE), never)
    confined.applied(rename(ROOT, FOLDER, FILE, FILE), never)
    confined.applied(unlink(), never)
    assert holds(confined, FOLDER)
    assert holds(confined, FILE)


def test_what_is_made_without_a_name_is_open_here_until_it_has_one(confined):
    confined.applied(Create(ROOT, b"", NEW, 0, 0o100644, 0, 0, NOW_NS), never)
    assert holds(confined, NEW)
    confined.applied(Link(NEW, ROOT, b"n", 9000, NOW_NS), never)
    assert holds(confined, NEW)
    confined.applied(unlink(NEW), never)
    assert not holds(confined, NEW)


def test_where_nothing_is_inside_nothing_may_be_touched():
    confined = Confinement()
    assert not any(holds(confined, ino) for ino in (ROOT, FILE, 0, 1))
