"""What the rows say, whichever of their layers holds it: changes, the group being written, the one before, SQLite."""

import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from cloudverge_mount.replica import Replica
from cloudverge_mount.rows import Rows
from cloudverge_protocol.codec import encode
from cloudverge_protocol.ids import DentryId, InodeId
from cloudverge_protocol.inodes import Dentry, Extent, Inode

FOLDER = 7


def inode(ino: int, mode: int = stat.S_IFREG | 0o644, size: int = 0) -> Inode:
    return Inode(InodeId(ino), mode, 0, 0, 1, size, 1, 1, 1, 1)


def dentry(number: int) -> Dentry:
    return Dentry(
        InodeId(FOLDER), b"n%d" % number, InodeId(100 + number), stat.S_IFREG, DentryId(1000 + number)
    )


@pytest.fixture
def rows(tmp_path):
    replica = Replica(tmp_path / "replica", encode)
    rows = Rows(replica)
    rows.put_new_inode(inode(FOLDER, stat.S_IFDIR | 0o755))
    yield rows
    replica.close()


def write(rows: Rows, between=lambda: None) -> None:
    group = rows.snapshot([])
    between()
    rows.replica.write(group)
    between()
    rows.written()


def forget_caches(rows: Rows) -> None:
    for cache in (rows._nodes, rows._old_nodes, rows._names, rows._old_names, rows._resident, rows._regions):
        cache.clear()


STEPS = some.lists(
    some.one_of(
        some.tuples(some.just("put"), some.integers(0, 12)),
        some.tuples(some.just("drop"), some.integers(0, 12)),
        some.tuples(some.just("resize"), some.integers(0, 12)),
        some.tuples(some.sampled_from(["write", "fail", "forget caches"]), some.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_names_and_inodes_are_what_was_put_last_in_whatever_layer(tmp_path_factory, steps):
    replica = Replica(tmp_path_factory.mktemp("rows") / "replica", encode)
    rows, model = Rows(replica), dict[int, int]()
    rows.put_new_inode(inode(FOLDER, stat.S_IFDIR | 0o755))

    def check() -> None:
        listed = [(entry[1], entry[2]) for entry in rows.page(FOLDER, 0, 100)]
        assert listed == [(b"n%d" % number, 100 + number) for number in sorted(model)]
        assert [entry[1] for entry in rows.page(FOLDER, 1004, 3)] == [n for n, _ in listed if int(n[1:]) > 4][
            :3
        ]
        for number in range(13):
            found = rows.name(FOLDER, b"n%d" % number)
            assert (found is not None) == (number in model)
            if number in model:
                assert rows.node(100 + number).row.size == model[number]
                assert rows.extents(100 + number, 0) == (Extent(0, 1, 5, 0),)

    for step, number in steps:
        if step == "put" and number not in model:
            rows.put_new_inode(inode(100 + number))
            rows.put_extents(100 + number, 0, (Extent(0, 1, 5, 0),))
            rows.put_name(dentry(number))
            model[number] = 0
        elif step == "drop" and number in model:
            rows.drop_name(FOLDER, b"n%d" % number)
            rows.drop_inode(100 + number)
            del model[number]
        elif step == "resize" and number in model:
            model[number] += 1
            rows.put_inode(inode(100 + number, size=model[number]))
        elif step == "write":
            write(rows, check)
        elif step == "fail":
            rows.snapshot([])
            check()
            rows.not_written()
        elif step == "forget caches":
            forget_caches(rows)
        check()
    replica.close()


def test_a_folder_just_written_is_listed_without_asking_sqlite(rows, monkeypatch):
    for number in range(3):
        rows.put_new_inode(inode(100 + number))
        rows.put_name(dentry(number))
    write(rows)
    rows.drop_name(FOLDER, b"n1")
    rows.put_name(dentry(5))
    forget_caches(rows)
    monkeypatch.setattr(rows.replica, "_select", None)
    assert [entry[1] for entry in rows.page(FOLDER, 0, 10)] == [b"n0", b"n2", b"n5"]
    assert rows.node(100).row == inode(100)
    assert rows.name(FOLDER, b"n2") == dentry(2)


def test_what_was_written_before_that_is_asked_of_sqlite_again(rows):
    rows.put_new_inode(inode(100))
    rows.put_name(dentry(0))
    write(rows)
    rows.put_new_inode(inode(101))
    rows.put_name(dentry(1))
    write(rows)
    forget_caches(rows)
    assert [entry[1] for entry in rows.page(FOLDER, 0, 10)] == [b"n0", b"n1"]
    rows.clear()
    assert [entry[1] for entry in rows.page(FOLDER, 0, 10)] == [b"n0", b"n1"]
