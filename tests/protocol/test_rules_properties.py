"""What holds for every history of operations, however odd."""

import itertools
import stat
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from cloudverge_protocol import extents as arithmetic
from cloudverge_protocol.codec import decode, encode
from cloudverge_protocol.errors import Refused
from cloudverge_protocol.ids import ROOT_INODE
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.keys import named, then
from cloudverge_protocol.memoryset import MemorySet
from cloudverge_protocol.operations import Operation
from cloudverge_protocol.rules import apply
from cloudverge_protocol.tracking import TrackingSet


def outcome(op: Operation, ws: Any) -> object:
    try:
        apply(op, ws)
    except Refused as error:
        return error.code
    return None


def assert_sound(ws: MemorySet) -> None:
    """The invariants of a namespace."""
    names = Counter(dentry.ino for dentry in ws.dentries.values())
    entries = Counter(dentry.parent for dentry in ws.dentries.values())
    subfolders = Counter(d.parent for d in ws.dentries.values() if d.kind == stat.S_IFDIR)
    for (parent, name), dentry in ws.dentries.items():
        assert (dentry.parent, dentry.name) == (parent, name)
        assert ws.inodes[parent].is_dir
        assert dentry.kind == stat.S_IFMT(ws.inodes[dentry.ino].mode)
    for ino, inode in ws.inodes.items():
        assert inode.ino == ino
        assert inode.entries == entries[ino]
        if inode.is_dir and ino not in ws.orphans:
            assert inode.nlink == 2 + subfolders[ino]
            assert names[ino] == (0 if ino == ROOT_INODE else 1)
            assert_reaches_root(ws, ino)
        else:
            assert inode.nlink == names[ino]
            assert (inode.nlink == 0) == (ino in ws.orphans)
    for dentry in ws.dentries.values():
        if dentry.kind == stat.S_IFDIR:
            assert ws.inodes[dentry.ino].parent == dentry.parent
    assert ws.orphans <= set(ws.inodes)
    assert set(ws.content) | set(ws.attributes) <= set(ws.inodes)
    for ino, regions in ws.content.items():
        assert ws.inodes[ino].is_file
        for region, extents in regions.items():
            assert extents
            arithmetic.validate(extents, region)
            assert extents[-1].end <= ws.inodes[ino].size


def assert_reaches_root(ws: MemorySet, ino: int) -> None:
    passed = set()
    while ino != ROOT_INODE:
        assert ino not in passed, "a folder lies in itself"
        passed.add(ino)
        ino = ws.inodes[ino].parent


@given(data=st.data())
def test_the_namespace_stays_sound_and_a_refusal_changes_nothing(data: st.DataObject, histories) -> None:
    ws = MemorySet.with_root(1)
    for op in data.draw(histories):
        before = ws.copy()
        if outcome(op, ws) is not None:
            assert ws == before, op
    assert_sound(ws)


class NotLoadedError(Exception):
    """What an implementation raises when it has to fetch a row first."""


class Faltering(MemorySet):
    """Has a number of rows at hand, then none."""

    reads_left = 0

    def __getattribute__(self, name: str) -> Any:
        if name in ("inode", "dentry", "regions", "extents", "xattrs", "is_orphan"):
            if self.reads_left == 0:
                raise NotLoadedError
            self.reads_left -= 1
        return super().__getattribute__(name)


@settings(max_examples=30)
@given(data=st.data())
def test_rows_that_are_not_at_hand_interrupt_an_operation_before_it_has_changed_anything(
    data: st.DataObject, histories
) -> None:
    ws, faltering = MemorySet.with_root(1), Faltering()
    for op in data.draw(histories):
        for reads in range(100):
            vars(faltering).update(vars(ws.copy()))
            faltering.reads_left = reads
            try:
                result = outcome(op, faltering)
                break
            except NotLoadedError:
                assert {**vars(faltering), "reads_left": 0} == {**vars(ws), "reads_left": 0}, op
        assert result == outcome(op, ws)
        del faltering.reads_left
        assert vars(faltering) == vars(ws)


@settings(max_examples=50)
@given(data=st.data())
def test_operations_without_a_row_in_common_commute(data: st.DataObject, histories) -> None:
    ws = MemorySet.with_root(1)
    history = data.draw(histories)
    for first, second in itertools.pairwise(history):
        one, other = ws.copy(), ws.copy()
        tracked, tracked_after = TrackingSet(one), TrackingSet(one)
        results = outcome(first, tracked), outcome(second, tracked_after)
        if not tracked.keys & tracked_after.keys:
            assert (outcome(second, other), outcome(first, other)) == results[::-1]
            assert one == other
        assert tracked.written <= tracked.keys
        outcome(first, ws)


@given(data=st.data())
def test_tracked_rows_are_all_that_changed(data: st.DataObject, histories) -> None:
    ws = MemorySet.with_root(1)
    for op in data.draw(histories):
        before, tracking = ws.copy(), TrackingSet(ws)
        outcome(op, tracking)
        for letter, rows in (("i", "inodes"), ("d", "dentries"), ("e", "content"), ("x", "attributes")):
            old, new = getattr(before, rows), getattr(ws, rows)
            changed = {key for key in {*old, *new} if old.get(key) != new.get(key)}
            keys = {(letter, *key) if letter == "d" else (letter, key) for key in changed}
            assert keys <= tracking.written, op


@given(data=st.data())
def test_operations_keep_their_meaning_over_the_wire(data: st.DataObject, histories) -> None:
    for op in data.draw(histories):
        assert decode(Operation, encode(op)) == op  # type: ignore[arg-type]


HOSTILE_NUMBERS = (
    -(1 << 63),
    -(1 << 32),
    -1,
    0,
    1,
    1 << 32,
    (1 << 60) + 1,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)
HOSTILE_BYTES = (b"", b".", b"..", b"/", b"a/b", b"a\0", b"\xff" * 255, b"x" * 256, b"y" * 70000)
HOSTILE_EXTENTS = (
    (),
    *((Extent(n, 1, 1, 0),) for n in HOSTILE_NUMBERS),
    *((Extent(0, n, 1, 0),) for n in HOSTILE_NUMBERS),
    *((Extent(0, 1, n, 0),) for n in HOSTILE_NUMBERS),
    *((Extent(0, 1, 1, n),) for n in HOSTILE_NUMBERS),
    (Extent(5, 5, 1, 0), Extent(0, 7, 1, 0)),
)


def mutations(op: Operation) -> list[Operation]:
    """The operation with each one of its fields replaced by hostile values."""
    found: list[Operation] = []
    for field in fields(op):
        value = getattr(op, field.name)
        if isinstance(value, bytes):
            found += [replace(op, **{field.name: bad}) for bad in HOSTILE_BYTES]
        elif isinstance(value, tuple):
            found += [replace(op, **{field.name: bad}) for bad in HOSTILE_EXTENTS]
        elif not isinstance(value, bool):
            found += [replace(op, **{field.name: bad}) for bad in HOSTILE_NUMBERS]
    return found


def numbers_in(row: Any) -> list[int]:
    return [value for value in msgspec.structs.astuple(row) if isinstance(value, int)]


def assert_fits_a_database(ws: MemorySet) -> None:
    rows = [*ws.inodes.values(), *ws.dentries.values()]
    rows += [extent for ino in ws.content for extent in ws.file_extents(ino)]
    assert all(-(1 << 63) <= number < 1 << 63 for row in rows for number in numbers_in(row))


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_hostile_operations_are_refused_or_harmless(data: st.DataObject, histories) -> None:
    ws = MemorySet.with_root(1)
    history = data.draw(histories)
    for op in history[:-4]:
        outcome(op, ws)
    for op in history[-4:]:
        for bad in mutations(op):
            attacked = ws.copy()
            outcome(bad, attacked)
            assert_sound(attacked)
            assert_fits_a_database(attacked)
            for keys in (named(bad), then(bad, {})):
                assert all(0 < ino < 1 << 63 for ino in keys.inodes | keys.xattrs | keys.chains)
                assert all(0 < ino < 1 << 63 and 0 <= a <= b < 1 << 63 for ino, a, b in keys.spans)


def test_a_copy_of_a_set_goes_its_own_way() -> None:
    ws = MemorySet.with_root(1)
    ws.put_xattr(ROOT_INODE, b"n", b"v")
    copy = ws.copy()
    assert copy == ws
    copy.put_xattr(ROOT_INODE, b"n", b"w")
    assert copy != ws
    with pytest.raises(TypeError):
        hash(ws)
