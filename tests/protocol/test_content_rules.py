"""Write, truncate, clone_range, chunk_done; setattr and extended attributes."""

import stat

import pytest

from cloudverge_protocol import operations as ops
from cloudverge_protocol.errors import Code
from cloudverge_protocol.ids import (
    FILE_BYTES_MAX,
    REGION_BYTES,
    REGION_MAX,
    ROOT_INODE,
    XATTR_NAME_MAX,
    XATTR_TOTAL_MAX,
    XATTR_VALUE_MAX,
)
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.memoryset import MemorySet
from cloudverge_protocol.operations import XATTR_CREATE, XATTR_REPLACE
from cloudverge_protocol.rules import apply

F, G, LINK, FIFO = 2000, 2001, 2002, 2003


@pytest.fixture
def ws() -> MemorySet:
    """Files f and g, a symlink and a fifo, made at the time 10; f has 100 bytes since 20."""
    ws = MemorySet.with_root(now_ns=1)
    for name, ino, mode, target in (
        (b"f", F, stat.S_IFREG | 0o6755, b""),
        (b"g", G, stat.S_IFREG | 0o644, b""),
        (b"l", LINK, stat.S_IFLNK | 0o777, b"f"),
        (b"p", FIFO, stat.S_IFIFO | 0o600, b""),
    ):
        apply(ops.Create(ROOT_INODE, name, ino, ino, mode, 0, 0, 10, 0, target), ws)
    apply(write(F, Extent(0, 100, 1, 0), now_ns=20), ws)
    return ws


def write(ino, *extents, size=None, now_ns=50, mode=None) -> ops.Write:
    return ops.Write(ino, extents, extents[-1].end if size is None else size, now_ns, now_ns + 1, mode)


def test_a_write_maps_bytes_and_sets_size_and_times(ws) -> None:
    apply(write(F, Extent(100, 50, 1, 100)), ws)
    inode = ws.inode(F)
    assert (inode.size, inode.mtime_ns, inode.ctime_ns, inode.atime_ns) == (150, 50, 51, 10)
    assert ws.file_extents(F) == (Extent(0, 150, 1, 0),)


def test_a_write_may_end_in_a_hole_or_be_nothing_but_a_size(ws) -> None:
    apply(write(F, Extent(100, 50, 2, 0), size=1000), ws)
    assert ws.inode(F).size == 1000
    apply(write(F, size=5000), ws)
    assert (ws.inode(F).size, ws.used_bytes) == (5000, 150)


def test_a_write_with_a_smaller_size_cuts_what_lies_beyond(ws) -> None:
    apply(write(F, Extent(3 * REGION_BYTES, 10, 2, 0)), ws)
    apply(write(F, Extent(0, 10, 3, 0), size=40), ws)
    assert ws.inode(F).size == 40
    assert ws.file_extents(F) == (Extent(0, 10, 3, 0), Extent(10, 30, 1, 10))
    assert list(ws.regions(F)) == [0]


def test_a_write_over_a_region_boundary_lands_in_both_regions(ws) -> None:
    apply(write(F, Extent(REGION_BYTES - 10, 30, 2, 0)), ws)
    assert ws.extents(F, 0)[-1] == Extent(REGION_BYTES - 10, 10, 2, 0)
    assert ws.extents(F, 1) == (Extent(REGION_BYTES, 20, 2, 10),)


def test_a_write_clears_setuid_when_it_says_so_and_never_changes_the_kind(ws) -> None:
    apply(write(F, Extent(0, 1, 1, 0), mode=stat.S_IFDIR | 0o755), ws)
    assert ws.inode(F).mode == stat.S_IFREG | 0o755


def test_a_write_beyond_its_own_size_or_with_bad_extents_is_invalid(ws, refuses) -> None:
    assert refuses(ws, write(F, Extent(0, 10, 1, 0), size=9)) == Code.INVALID
    assert refuses(ws, write(F, Extent(0, 0, 1, 0))) == Code.INVALID
    assert refuses(ws, write(F, size=-1)) == Code.INVALID
    assert refuses(ws, write(F, size=FILE_BYTES_MAX + 1)) == Code.FILE_TOO_BIG


def test_only_regular_files_have_content(ws, refuses) -> None:
    for ino, code in (
        (ROOT_INODE, Code.IS_DIR),
        (LINK, Code.INVALID),
        (FIFO, Code.INVALID),
        (2999, Code.STALE),
    ):
        assert refuses(ws, write(ino, Extent(0, 1, 1, 0))) == code
        assert refuses(ws, ops.Truncate(ino, 0, 50)) == code
        assert refuses(ws, ops.PunchHole(ino, 0, 1, 50)) == code
        assert refuses(ws, ops.CloneRange(ino, 0, 1, F, 0, 50)) == code
        assert refuses(ws, ops.CloneRange(F, 0, 1, ino, 0, 50)) == code


def test_a_truncated_files_old_bytes_never_come_back(ws) -> None:
    apply(ops.Truncate(F, 30, 50), ws)
    apply(ops.Truncate(F, 100, 51), ws)
    assert ws.file_extents(F) == (Extent(0, 30, 1, 0),)
    assert (ws.inode(F).size, ws.inode(F).mtime_ns, ws.inode(F).ctime_ns) == (100, 51, 51)


def test_a_hole_takes_the_mapping_of_its_range_and_leaves_the_size(ws) -> None:
    apply(write(F, Extent(REGION_BYTES - 10, 30, 2, 0)), ws)
    size = ws.inode(F).size
    apply(ops.PunchHole(F, 20, REGION_BYTES - 15, 50, 0o755), ws)
    row = ws.inode(F)
    assert (row.size, row.mtime_ns, row.ctime_ns, row.mode) == (size, 50, 50, stat.S_IFREG | 0o755)
    assert ws.file_extents(F) == (Extent(0, 20, 1, 0), Extent(REGION_BYTES + 5, 15, 2, 15))
    apply(ops.PunchHole(F, 0, FILE_BYTES_MAX, 51), ws)
    assert (ws.content, ws.inode(F).size, ws.used_bytes) == ({}, size, 0)


def test_a_hole_where_nothing_is_mapped_changes_the_times_only(ws) -> None:
    apply(write(F, size=FILE_BYTES_MAX), ws)
    extents = ws.file_extents(F)
    apply(ops.PunchHole(F, 1000, FILE_BYTES_MAX - 1000, 50), ws)
    assert ws.file_extents(F) is extents or ws.file_extents(F) == extents
    assert (ws.inode(F).size, ws.inode(F).mtime_ns) == (FILE_BYTES_MAX, 50)


def test_a_hole_of_nothing_or_beyond_what_a_file_can_have_is_refused(ws, refuses) -> None:
    assert refuses(ws, ops.PunchHole(F, 0, 0, 50)) == Code.INVALID
    assert refuses(ws, ops.PunchHole(F, -1, 5, 50)) == Code.INVALID
    assert refuses(ws, ops.PunchHole(F, 5, -1, 50)) == Code.INVALID
    assert refuses(ws, ops.PunchHole(F, 5, FILE_BYTES_MAX, 50)) == Code.FILE_TOO_BIG


def test_a_truncation_to_nothing_drops_every_region(ws) -> None:
    apply(write(F, Extent(5 * REGION_BYTES, 10, 2, 0)), ws)
    apply(ops.Truncate(F, 0, 50, 0o755), ws)
    assert (ws.content, ws.inode(F).mode) == ({}, stat.S_IFREG | 0o755)


def test_a_file_can_be_as_large_as_the_limit_at_no_cost(ws, refuses) -> None:
    apply(ops.Truncate(F, FILE_BYTES_MAX, 50), ws)
    apply(write(F, Extent(FILE_BYTES_MAX - 1, 1, 1, 0)), ws)
    assert list(ws.regions(F)) == [0, REGION_MAX]
    apply(ops.CloneRange(F, 0, FILE_BYTES_MAX, G, 0, 51), ws)
    assert (ws.inode(G).size, ws.content[G]) == (FILE_BYTES_MAX, ws.content[F])
    assert refuses(ws, ops.Truncate(F, FILE_BYTES_MAX + 1, 50)) == Code.FILE_TOO_BIG
    assert refuses(ws, ops.CloneRange(F, 0, 10, G, FILE_BYTES_MAX - 5, 50)) == Code.FILE_TOO_BIG


def test_a_clone_shares_the_bytes_and_the_holes_of_its_source(ws) -> None:
    apply(write(F, Extent(200, 50, 3, 0)), ws)
    apply(write(G, Extent(0, 1000, 9, 0), now_ns=30), ws)
    apply(ops.CloneRange(F, 50, 200, G, 100, 60), ws)
    assert ws.file_extents(G) == (
        Extent(0, 100, 9, 0),
        Extent(100, 50, 1, 50),
        Extent(250, 50, 3, 0),
        Extent(300, 700, 9, 300),
    )
    inode = ws.inode(G)
    assert (inode.size, inode.mtime_ns, inode.ctime_ns) == (1000, 60, 60)
    assert ws.inode(F).ctime_ns == 51


def test_a_clone_may_grow_its_target_and_cross_regions(ws) -> None:
    apply(ops.CloneRange(F, 0, 100, G, REGION_BYTES - 40, 60), ws)
    assert ws.inode(G).size == REGION_BYTES + 60
    assert ws.extents(G, 1) == (Extent(REGION_BYTES, 60, 1, 40),)


def test_a_file_can_be_cloned_within_itself_if_the_ranges_are_apart(ws, refuses) -> None:
    apply(ops.CloneRange(F, 0, 50, F, 50, 60, 0o711), ws)
    assert ws.inode(F).mode == stat.S_IFREG | 0o711
    assert ws.file_extents(F) == (Extent(0, 50, 1, 0), Extent(50, 50, 1, 0))
    assert refuses(ws, ops.CloneRange(F, 0, 50, F, 49, 60)) == Code.INVALID


def test_what_the_source_does_not_have_is_not_cloned(ws, refuses) -> None:
    assert refuses(ws, ops.CloneRange(F, 50, 51, G, 0, 60)) == Code.INVALID
    assert refuses(ws, ops.CloneRange(F, 50, 0, G, 0, 60)) == Code.INVALID
    assert refuses(ws, ops.CloneRange(F, -1, 5, G, 0, 60)) == Code.INVALID


def test_chunk_done_changes_nothing(ws, refuses) -> None:
    before = ws.copy()
    apply(ops.ChunkDone(7), ws)
    assert ws == before
    assert refuses(ws, ops.ChunkDone(0)) == Code.INVALID


def test_setattr_sets_what_is_given_and_ctime(ws) -> None:
    apply(ops.Setattr(F, 50, uid=7), ws)
    apply(ops.Setattr(F, 51, mode=stat.S_IFDIR | 0o1640, atime_ns=-5, mtime_ns=6), ws)
    inode = ws.inode(F)
    assert (inode.mode, inode.uid, inode.gid) == (stat.S_IFREG | 0o1640, 7, 0)
    assert (inode.atime_ns, inode.mtime_ns, inode.ctime_ns) == (-5, 6, 51)


def test_setattr_holds_for_unlinked_open_files(ws) -> None:
    apply(ops.Unlink(ROOT_INODE, b"f", F, True, 40), ws)
    apply(ops.Setattr(F, 50, mode=0o600), ws)
    assert stat.S_IMODE(ws.inode(F).mode) == 0o600


def test_a_symlink_can_change_owner_and_times_but_not_its_mode(ws, refuses) -> None:
    apply(ops.Setattr(LINK, 50, uid=7, mtime_ns=9), ws)
    assert (ws.inode(LINK).uid, ws.inode(LINK).mtime_ns) == (7, 9)
    assert refuses(ws, ops.Setattr(LINK, 51, mode=0o600)) == Code.NOT_SUPPORTED


def test_setattr_refuses_impossible_numbers(ws, refuses) -> None:
    for change in ({"mode": -1}, {"mode": 1 << 20}, {"uid": -1}, {"gid": 1 << 32}, {"atime_ns": 1 << 63}):
        assert refuses(ws, ops.Setattr(F, 50, **change)) == Code.INVALID
    assert refuses(ws, ops.Setattr(2999, 50)) == Code.STALE


def test_attributes_are_set_replaced_and_removed(ws) -> None:
    apply(ops.Setxattr(F, b"user.a", b"1", XATTR_CREATE, 50), ws)
    apply(ops.Setxattr(F, b"user.a", b"2", XATTR_REPLACE, 51), ws)
    apply(ops.Setxattr(F, b"user.b", b"", 0, 52), ws)
    assert ws.xattrs(F) == {b"user.a": b"2", b"user.b": b""}
    assert (ws.inode(F).ctime_ns, ws.inode(F).mtime_ns) == (52, 20)
    apply(ops.Removexattr(F, b"user.a", 53), ws)
    assert (ws.xattrs(F), ws.inode(F).ctime_ns) == ({b"user.b": b""}, 53)


def test_attribute_flags_are_honoured(ws, refuses) -> None:
    assert refuses(ws, ops.Setxattr(F, b"user.a", b"1", XATTR_REPLACE, 50)) == Code.NO_ATTR
    assert refuses(ws, ops.Removexattr(F, b"user.a", 50)) == Code.NO_ATTR
    apply(ops.Setxattr(F, b"user.a", b"1", 0, 50), ws)
    assert refuses(ws, ops.Setxattr(F, b"user.a", b"1", XATTR_CREATE, 50)) == Code.EXISTS
    assert refuses(ws, ops.Setxattr(F, b"user.a", b"1", 4, 50)) == Code.INVALID


def test_attributes_have_limits(ws, refuses) -> None:
    assert refuses(ws, ops.Setxattr(F, b"", b"1", 0, 50)) == Code.INVALID
    assert refuses(ws, ops.Setxattr(F, b"a\0", b"1", 0, 50)) == Code.INVALID
    assert refuses(ws, ops.Setxattr(F, b"n" * (XATTR_NAME_MAX + 1), b"1", 0, 50)) == Code.NAME_TOO_LONG
    assert refuses(ws, ops.Setxattr(F, b"n", b"v" * (XATTR_VALUE_MAX + 1), 0, 50)) == Code.TOO_BIG
    value = b"v" * (XATTR_VALUE_MAX - 1)
    for number in range(XATTR_TOTAL_MAX // XATTR_VALUE_MAX):
        apply(ops.Setxattr(F, b"%d" % number, value, 0, 50), ws)
    assert refuses(ws, ops.Setxattr(F, b"x", b"", 0, 50)) == Code.TOO_BIG
    apply(ops.Setxattr(F, b"0", value, 0, 50), ws)
