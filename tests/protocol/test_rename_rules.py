"""Rename, in all its ways."""

import stat

import pytest

from cloudverge_protocol import operations as ops
from cloudverge_protocol.errors import Code
from cloudverge_protocol.ids import ROOT_INODE
from cloudverge_protocol.inodes import Dentry
from cloudverge_protocol.memoryset import MemorySet
from cloudverge_protocol.operations import RENAME_EXCHANGE, RENAME_NOREPLACE
from cloudverge_protocol.rules import apply

FILE, FOLDER = stat.S_IFREG, stat.S_IFDIR
A, B, EMPTY, F, G, DEEP = 2000, 2001, 2002, 2003, 2004, 2005


@pytest.fixture
def ws() -> MemorySet:
    """a/ (with f and deep/), b/ (with g), empty/; all made at the time 10."""
    ws = MemorySet.with_root(now_ns=1)
    for parent, name, ino, kind in (
        (ROOT_INODE, b"a", A, FOLDER),
        (ROOT_INODE, b"b", B, FOLDER),
        (ROOT_INODE, b"empty", EMPTY, FOLDER),
        (A, b"f", F, FILE),
        (B, b"g", G, FILE),
        (A, b"deep", DEEP, FOLDER),
    ):
        apply(ops.Create(parent, name, ino, ino, kind | 0o755, 0, 0, 10), ws)
    return ws


def rename(parent, name, new_parent, new_name, ino, target=0, flags=0, keep=False) -> ops.Rename:
    return ops.Rename(parent, name, new_parent, new_name, ino, target, flags, keep, 9000, 9001, 50)


def test_a_file_moves_to_another_folder(ws) -> None:
    apply(rename(A, b"f", B, b"h", F), ws)
    assert ws.dentry(A, b"f") is None
    assert ws.dentry(B, b"h") == Dentry(B, b"h", F, FILE, 9000)
    assert (ws.inode(A).entries, ws.inode(A).nlink, ws.inode(A).mtime_ns, ws.inode(A).ctime_ns) == (
        1,
        3,
        50,
        50,
    )
    assert (ws.inode(B).entries, ws.inode(B).nlink, ws.inode(B).mtime_ns, ws.inode(B).ctime_ns) == (
        2,
        2,
        50,
        50,
    )
    assert (ws.inode(F).ctime_ns, ws.inode(F).mtime_ns, ws.inode(F).nlink, ws.inode(F).parent) == (
        50,
        10,
        1,
        0,
    )


def test_a_file_gets_another_name_in_its_folder(ws) -> None:
    apply(rename(A, b"f", A, b"h", F), ws)
    assert [d.name for d in ws.listing(A)] == [b"deep", b"h"]
    assert (ws.inode(A).entries, ws.inode(A).nlink, ws.inode(A).mtime_ns) == (2, 3, 50)


def test_a_folder_moves_with_its_link_and_its_parent(ws) -> None:
    apply(rename(A, b"deep", B, b"deep", DEEP), ws)
    assert (ws.inode(A).nlink, ws.inode(B).nlink, ws.inode(DEEP).parent) == (2, 3, B)
    assert ws.inode(DEEP).mtime_ns == 10


def test_a_replaced_file_ends(ws) -> None:
    apply(rename(A, b"f", B, b"g", F, G), ws)
    assert ws.inode(G) is None
    assert ws.dentry(B, b"g").ino == F
    assert (ws.inode(A).entries, ws.inode(B).entries) == (1, 1)


def test_a_replaced_file_with_another_name_loses_a_link(ws) -> None:
    apply(ops.Link(G, ROOT_INODE, b"g2", 8000, 20), ws)
    apply(rename(A, b"f", B, b"g", F, G), ws)
    assert (ws.inode(G).nlink, ws.inode(G).ctime_ns) == (1, 50)


def test_a_replaced_file_that_is_open_becomes_an_orphan(ws) -> None:
    apply(rename(A, b"f", B, b"g", F, G, keep=True), ws)
    assert (ws.inode(G).nlink, ws.inode(G).ctime_ns, ws.is_orphan(G)) == (0, 50, True)


def test_a_folder_replaces_an_empty_folder(ws) -> None:
    apply(rename(ROOT_INODE, b"b", ROOT_INODE, b"empty", B, EMPTY), ws)
    assert ws.inode(EMPTY) is None
    assert (ws.inode(ROOT_INODE).nlink, ws.inode(ROOT_INODE).entries) == (4, 2)


def test_a_folder_replaces_an_empty_folder_elsewhere(ws) -> None:
    apply(rename(A, b"deep", ROOT_INODE, b"empty", DEEP, EMPTY), ws)
    assert (ws.inode(ROOT_INODE).nlink, ws.inode(ROOT_INODE).entries) == (5, 3)
    assert (ws.inode(A).nlink, ws.inode(A).entries, ws.inode(DEEP).parent) == (2, 1, ROOT_INODE)


def test_a_folder_does_not_replace_a_full_one(ws, refuses) -> None:
    assert refuses(ws, rename(ROOT_INODE, b"empty", ROOT_INODE, b"b", EMPTY, B)) == Code.NOT_EMPTY


def test_folders_and_files_do_not_replace_each_other(ws, refuses) -> None:
    assert refuses(ws, rename(A, b"deep", B, b"g", DEEP, G)) == Code.NOT_DIR
    assert refuses(ws, rename(A, b"f", ROOT_INODE, b"empty", F, EMPTY)) == Code.IS_DIR


@pytest.mark.parametrize("flags", [0, RENAME_NOREPLACE, RENAME_EXCHANGE])
def test_a_folder_never_moves_into_itself(ws, refuses, flags) -> None:
    apply(ops.Create(DEEP, b"er", 3000, 3000, FOLDER | 0o755, 0, 0, 20), ws)
    target = 3000 if flags == RENAME_EXCHANGE else 0
    name = b"er" if target else b"x"
    assert refuses(ws, rename(ROOT_INODE, b"a", DEEP, name, A, target, flags)) == Code.INVALID


def test_a_folder_is_not_exchanged_with_one_of_its_ancestors(ws, refuses) -> None:
    assert refuses(ws, rename(A, b"deep", ROOT_INODE, b"a", DEEP, A, RENAME_EXCHANGE)) == Code.INVALID
    assert refuses(ws, rename(A, b"f", ROOT_INODE, b"a", F, A, RENAME_EXCHANGE)) == Code.INVALID


def test_a_folder_does_not_replace_its_ancestor(ws, refuses) -> None:
    assert refuses(ws, rename(A, b"deep", ROOT_INODE, b"a", DEEP, A)) == Code.NOT_EMPTY


def test_a_folder_moves_up(ws) -> None:
    apply(rename(A, b"deep", ROOT_INODE, b"up", DEEP), ws)
    assert ws.inode(DEEP).parent == ROOT_INODE


def test_two_names_of_one_inode_stay_as_they_are(ws) -> None:
    apply(ops.Link(F, B, b"same", 8000, 20), ws)
    for flags in (0, RENAME_EXCHANGE):
        before = ws.copy()
        apply(rename(A, b"f", B, b"same", F, F, flags), ws)
        assert ws == before


def test_a_name_moved_onto_itself_stays_as_it_is(ws) -> None:
    before = ws.copy()
    apply(rename(A, b"f", A, b"f", F, F), ws)
    assert ws == before


def test_noreplace_refuses_any_name_that_exists(ws, refuses) -> None:
    assert refuses(ws, rename(A, b"f", B, b"g", F, G, RENAME_NOREPLACE)) == Code.EXISTS
    assert refuses(ws, rename(A, b"f", B, b"g", F, 0, RENAME_NOREPLACE)) == Code.EXISTS
    assert refuses(ws, rename(A, b"f", A, b"f", F, F, RENAME_NOREPLACE)) == Code.EXISTS
    apply(rename(A, b"f", B, b"new", F, 0, RENAME_NOREPLACE), ws)


def test_exchange_swaps_a_file_and_a_folder_with_all_that_hangs_on_them(ws) -> None:
    apply(rename(A, b"deep", B, b"g", DEEP, G, RENAME_EXCHANGE), ws)
    assert ws.dentry(B, b"g") == Dentry(B, b"g", DEEP, FOLDER, 9000)
    assert ws.dentry(A, b"deep") == Dentry(A, b"deep", G, FILE, 9001)
    assert (ws.inode(DEEP).parent, ws.inode(G).parent) == (B, 0)
    assert (ws.inode(A).nlink, ws.inode(A).entries, ws.inode(B).nlink, ws.inode(B).entries) == (2, 2, 3, 1)
    assert {ws.inode(ino).ctime_ns for ino in (A, B, DEEP, G)} == {50}


def test_exchange_within_a_folder_keeps_its_counts(ws) -> None:
    apply(rename(A, b"deep", A, b"f", DEEP, F, RENAME_EXCHANGE), ws)
    assert (ws.inode(A).nlink, ws.inode(A).entries) == (3, 2)
    assert ws.dentry(A, b"f").ino == DEEP


def test_exchange_needs_both(ws, refuses) -> None:
    assert refuses(ws, rename(A, b"f", B, b"none", F, 0, RENAME_EXCHANGE)) == Code.NOT_FOUND
    assert refuses(ws, rename(A, b"none", B, b"g", F, G, RENAME_EXCHANGE)) == Code.NOT_FOUND


def test_names_that_lead_elsewhere_by_now_are_stale(ws, refuses) -> None:
    assert refuses(ws, rename(A, b"f", B, b"new", G)) == Code.STALE
    assert refuses(ws, rename(A, b"f", B, b"g", F, 0)) == Code.STALE
    assert refuses(ws, rename(A, b"f", B, b"g", F, EMPTY)) == Code.STALE
    assert refuses(ws, rename(A, b"f", B, b"new", F, G)) == Code.STALE
    assert refuses(ws, rename(A, b"f", B, b"g", F, F, RENAME_EXCHANGE)) == Code.STALE


def test_places_must_be_folders_that_exist(ws, refuses) -> None:
    assert refuses(ws, rename(F, b"f", B, b"new", F)) == Code.NOT_DIR
    assert refuses(ws, rename(A, b"f", G, b"new", F)) == Code.NOT_DIR
    assert refuses(ws, rename(A, b"f", 2999, b"new", F)) == Code.NOT_FOUND


@pytest.mark.parametrize("flags", [3, 4, -1, 1 << 40])
def test_other_flags_are_invalid(ws, refuses, flags) -> None:
    assert refuses(ws, rename(A, b"f", B, b"g", F, G, flags)) == Code.INVALID


def test_an_unattached_chain_of_parents_ends_in_an_error_not_in_a_loop(ws, refuses) -> None:
    for ino, parent in ((DEEP, A), (A, DEEP)):  # cannot be, but must not hang a server
        ws.put_inode(type(ws.inode(ino))(ino, FOLDER, 0, 0, 2, 0, 0, 0, 0, 0, parent=parent, entries=1))
    assert refuses(ws, rename(ROOT_INODE, b"b", A, b"new", B)) == Code.LOOP
