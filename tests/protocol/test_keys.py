"""What keys announce is all that the rules read: they are run on a set that holds nothing else.

This is how a metaserver works: it loads the announced rows of a batch, applies the batch to them, and writes
the difference back. The outcome must be the one of applying it to the whole namespace.
"""

import stat
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudverge_protocol import operations as ops
from cloudverge_protocol.errors import CloudVergeError, Refused
from cloudverge_protocol.ids import REGION_MAX, ROOT_INODE, InodeId
from cloudverge_protocol.inodes import Dentry, Extent, Extents, Inode
from cloudverge_protocol.keys import Keys, named, named_all, then, then_all
from cloudverge_protocol.memoryset import MemorySet
from cloudverge_protocol.operations import Operation
from cloudverge_protocol.rules import apply


class NotAnnouncedError(Exception):
    """A row was touched that the keys did not name."""


class StrictSet(MemorySet):
    """Holds the announced rows of another set, and knows which those are."""

    def __init__(self, source: MemorySet, keys: Keys) -> None:
        super().__init__()
        self._keys = keys
        for ino in keys.chains:
            while (inode := source.inode(ino)) and ino not in self.inodes:
                self.inodes[ino] = inode
                ino = inode.parent
        self._inodes = {*keys.inodes, *self.inodes, *keys.chains}
        for ino in keys.inodes:
            if inode := source.inode(ino):
                self.inodes[ino] = inode
        for name in keys.dentries:
            if dentry := source.dentry(*name):
                self.dentries[name] = dentry
        for ino, first, last in keys.spans:
            for region in source.regions(ino):
                if first <= region <= last:
                    self.put_extents_loaded(ino, region, source.extents(ino, region))
        self.attributes = {ino: dict(source.xattrs(ino)) for ino in keys.xattrs if source.xattrs(ino)}
        self.orphans = {ino for ino in keys.orphans if source.is_orphan(ino)}

    def put_extents_loaded(self, ino: InodeId, region: int, extents: Extents) -> None:
        super().put_extents(ino, region, extents)

    def assert_agrees_with(self, whole: MemorySet) -> None:
        """Every announced row is now as it is in ``whole``."""
        for ino in self._inodes:
            assert self.inodes.get(ino) == whole.inodes.get(ino)
        for name in self._keys.dentries:
            assert self.dentries.get(name) == whole.dentries.get(name)
        for ino, first, last in self._keys.spans:
            for region in {*MemorySet.regions(self, ino), *whole.regions(ino)}:
                if first <= region <= last:
                    assert MemorySet.extents(self, ino, region) == whole.extents(ino, region)
        for ino in self._keys.xattrs:
            assert MemorySet.xattrs(self, ino) == whole.xattrs(ino)
        assert self._keys.orphans & self.orphans == self._keys.orphans & whole.orphans

    def _need(self, announced: bool, what: object) -> None:
        if not announced:
            raise NotAnnouncedError(what)

    def _spanned(self, ino: InodeId, region: int) -> bool:
        return any(i == ino and first <= region <= last for i, first, last in self._keys.spans)

    def inode(self, ino: InodeId) -> Inode | None:
        self._need(ino in self._inodes, ("inode", ino))
        return super().inode(ino)

    def put_inode(self, inode: Inode) -> None:
        self._need(inode.ino in self._inodes, ("put inode", inode.ino))
        super().put_inode(inode)

    def drop_inode(self, ino: InodeId) -> None:
        inode = self.inodes.get(ino)
        if inode is not None and inode.is_file:
            self._need((ino, 0, REGION_MAX) in self._keys.spans, ("content of dropped", ino))
        self._need(ino in self._keys.xattrs, ("xattrs of dropped", ino))
        super().drop_inode(ino)

    def dentry(self, parent: InodeId, name: bytes) -> Dentry | None:
        self._need((parent, name) in self._keys.dentries, ("dentry", parent, name))
        return super().dentry(parent, name)

    def put_dentry(self, dentry: Dentry) -> None:
        self._need((dentry.parent, dentry.name) in self._keys.dentries, dentry)
        super().put_dentry(dentry)

    def regions(self, ino: InodeId) -> Iterable[int]:
        self._need(any(i == ino for i, _, _ in self._keys.spans), ("regions", ino))
        return super().regions(ino)

    def extents(self, ino: InodeId, region: int) -> Extents:
        self._need(self._spanned(ino, region), ("extents", ino, region))
        return super().extents(ino, region)

    def put_extents(self, ino: InodeId, region: int, extents: Extents) -> None:
        self._need(self._spanned(ino, region), ("put extents", ino, region))
        super().put_extents(ino, region, extents)

    def xattrs(self, ino: InodeId) -> Mapping[bytes, bytes]:
        self._need(ino in self._keys.xattrs, ("xattrs", ino))
        return super().xattrs(ino)

    def is_orphan(self, ino: InodeId) -> bool:
        self._need(ino in self._keys.orphans, ("orphan", ino))
        return super().is_orphan(ino)


def outcome(op: Operation, ws: MemorySet) -> object:
    try:
        apply(op, ws)
    except Refused as error:
        return error.code
    return None


def announced(batch: list[Operation], ws: MemorySet) -> Keys:
    keys = named_all(batch)
    found = {name: d for name in keys.dentries if (d := ws.dentry(*name))}
    keys.update(then_all(batch, found))
    return keys


@settings(max_examples=300)
@given(data=st.data())
def test_a_batch_needs_no_row_that_was_not_announced(data: st.DataObject, histories) -> None:
    history, count = data.draw(histories), data.draw(st.integers(1, 100))
    ws = MemorySet.with_root(1)
    for start in range(0, len(history), count):
        batch = history[start : start + count]
        strict = StrictSet(ws, announced(batch, ws))
        for op in batch:
            assert outcome(op, strict) == outcome(op, ws), op
        strict.assert_agrees_with(ws)


def folder(ino: int, parent: int, name: bytes) -> Operation:
    return ops.Create(parent, name, ino, ino, stat.S_IFDIR | 0o755, 0, 0, 5)


def test_the_chain_above_a_folder_made_in_the_same_batch_is_announced() -> None:
    ws = MemorySet.with_root(1)
    for op in (folder(2001, 1, b"a"), folder(2002, 2001, b"b"), folder(2003, 1, b"c")):
        apply(op, ws)
    batch = [
        folder(2004, 2002, b"new"),
        folder(2005, 2004, b"newer"),
        ops.Rename(1, b"a", 2005, b"a", 2001, 0, 0, False, 3000, 0, 6),
    ]
    keys = announced(batch, ws)
    assert keys.chains >= {2005, 2004, 2002}
    strict = StrictSet(ws, keys)
    assert [outcome(op, strict) for op in batch] == [outcome(op, ws) for op in batch]
    assert ws.dentry(ROOT_INODE, b"a"), "a folder was moved into itself"


def test_moving_a_file_asks_for_no_chain() -> None:
    op = ops.Rename(1, b"f", 2001, b"f", 2002, 0, 0, False, 3000, 0, 6)
    found = {(1, b"f"): Dentry(1, b"f", 2002, stat.S_IFREG, 2500)}
    assert then(op, found).chains == set()
    assert then(op, {}).chains == {2001}, "it could be a folder"


def test_a_write_that_appends_asks_for_the_last_regions_only() -> None:
    size = (1 << 40) + 10
    op = ops.Write(2001, (Extent(1 << 40, 10, 1, 0),), size, 1, 1)
    assert {first for _, first, _ in named(op).spans} == {(1 << 40) >> 26}


def test_an_impossible_operation_names_nothing() -> None:
    for op in (
        ops.Unlink(-1, b"x", 5, False, 1),
        ops.Truncate(1 << 63, 5, 1),
        ops.PunchHole(5, 0, 0, 1),
        ops.Reap(0),
    ):
        assert named(op) == Keys()
        assert then(op, {}) == Keys()


def test_keys_of_a_mixed_batch_are_those_of_its_operations_together() -> None:
    first, second = ops.Reap(2001), ops.Setxattr(2002, b"n", b"v", 0, 1)
    together = named(first)
    together.update(named(second))
    assert named_all((first, second)) == together


def test_an_error_of_the_rules_is_an_error_of_the_tree() -> None:
    assert issubclass(Refused, CloudVergeError)
    with pytest.raises(Refused):
        apply(ops.Reap(ROOT_INODE), MemorySet.with_root(1))
