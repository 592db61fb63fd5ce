"""What the protocol's tests share: histories of operations, decided one by one from the namespace so far."""

import random
import stat
from collections.abc import Callable

import pytest
from hypothesis import strategies as st

from cloudverge_protocol import operations as ops
from cloudverge_protocol.errors import Refused
from cloudverge_protocol.ids import FIRST_FREE_ID, REGION_BYTES
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.memoryset import MemorySet
from cloudverge_protocol.operations import Operation
from cloudverge_protocol.rules import apply

NAMES = (b"a", b"b", b"c", b"d")
KINDS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO)
NO_SUCH_INODE = 999_999

Draw = tuple[int, ...]  # what chance decided of one operation: its kind, then numbers to choose by


class Player:
    """Turns draws into operations that mostly make sense, sometimes not quite, and plays them."""

    def __init__(self) -> None:
        self.ws = MemorySet.with_root(now_ns=1)
        self.ops: list[Operation] = []
        self._next_id = FIRST_FREE_ID
        self._now_ns = 1

    def play(self, draw: Draw) -> None:
        self._now_ns += 1
        kind, *numbers = draw
        op = self._kinds[kind % len(self._kinds)](self, *numbers)
        self.ops.append(op)
        try:
            apply(op, self.ws)
        except Refused:
            pass

    def _id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _folder(self, n: int) -> int:
        folders = [i.ino for i in self.ws.inodes.values() if i.is_dir]
        return folders[n % len(folders)]

    def _ino(self, n: int) -> int:
        inos = [*self.ws.inodes, NO_SUCH_INODE]
        return inos[n % len(inos)]

    def _file(self, n: int) -> int:
        files = [i.ino for i in self.ws.inodes.values() if i.is_file]
        return files[n % len(files)] if files else self._ino(n)

    def _name(self, n: int) -> bytes:
        return NAMES[n % len(NAMES)]

    def _place(self, a: int, b: int, twist: int) -> tuple[int, bytes]:
        """A folder and a name in it, mostly one that exists."""
        if twist % 8 and self.ws.dentries:
            places = list(self.ws.dentries)
            return places[(a * 64 + b) % len(places)]
        return self._folder(a), self._name(b)

    def _at(self, parent: int, name: bytes, twist: int) -> int:
        """What the name leads to, or by a rare twist something else."""
        dentry = self.ws.dentry(parent, name)
        if dentry is None or twist % 16 == 15:
            return self._ino(twist)
        return dentry.ino

    def create(self, a: int, b: int, c: int, d: int, e: int) -> Operation:
        kind = KINDS[c % len(KINDS)]
        target = b"to" if kind == stat.S_IFLNK else b""
        ino = self._ino(d) if d % 16 == 15 else self._id()
        mode = kind | (0o2755 if e % 4 == 0 else 0o644)
        if e % 8 == 7:
            mode = stat.S_IFREG | 0o600 if d % 16 != 14 else mode
            return ops.Create(self._folder(a), b"", ino, 0, mode, 1000, e % 3, self._now_ns)
        return ops.Create(
            self._folder(a), self._name(b), ino, self._id(), mode, 1000, e % 3, self._now_ns, 0, target
        )

    def link(self, a: int, b: int, c: int, d: int, e: int) -> Operation:
        ino = self._ino(c) if d % 8 == 7 else self._file(c)
        return ops.Link(ino, self._folder(a), self._name(b), self._id(), self._now_ns)

    def unlink(self, a: int, b: int, c: int, d: int, e: int) -> Operation:
        parent, name = self._place(a, b, e)
        return ops.Unlink(parent, name, self._at(parent, name, c), d % 2 == 1, self._now_ns)

    def rmdir(self, a: int, b: int, c: int, d: int, e: int) -> Operation:
        parent, name = self._place(a, b, e)
        return ops.Rmdir(parent, name, self._at(parent, name, c), d % 2 == 1, self._now_ns)

    def rename(self, a: int, b: int, c: int, d: int, e: int) -> Operation:
        parent, name = self._place(a, b, d)
        new_parent, new_name = self._place(c, d, a + e % 2 * 4)
        there = self.ws.dentry(new_parent, new_name)
        target = self._at(new_parent, new_name, e) if there else 0
        ino = self._at(parent, name, e // 2)
        flags = (0, 0, ops.RENAME_NOREPLACE, ops.RENAME_EXCHANGE)[e % 4]
        keep = e % 8 < 4
        return ops.Rename(
            parent, name, new_parent, new_name, ino, target, flags, keep, self._id(), self._id(), self._now_ns
        )

    def setattr(self, a: int, b: int, c: int, d: int, e: int) -> Operation:
        mode = b if c % 2 else None
        return ops.Setattr(self._ino(a), self._now_ns, mode, d if d % 2 else None, None, None, e)

    def setxattr(self, a: int, b: int, c: int, d: int, e: int) -> Operation:
        return ops.Setxattr(self._ino(a), self._name(b), b"v" * c, (0, 0, d % 3)[e % 3], self._now_ns)

    def removexattr(self, a: int, b: int, c: int, d: int, e: int) -> Operation:
        return ops.Removexattr(self._ino(a), self._name(b), self._now_ns)

    def write(self, a: int, b: int, c: int, d: int, e: int) -> Operation:
        start = (b % 3) * REGION_BYTES - (c if b % 3 else 0)
        extents = (Extent(start, 1 + c + d, 1 + e % 2, d * 10),)
        if a % 2:
            extents += (Extent(extents[0].end + e % 2 * 5, 1 + d, 1 + e % 2, d * 10 + c + d + 1),)
        size = extents[-1].end + (c if d % 3 == 0 else 0)
        return ops.Write(self._file(a), () if e % 8 == 7 else extents, size, self._now_ns, self._now_ns)

    def truncate(self, a: int, b: int, c: int, d: int, e: int) -> Operation:
        size = max(0, (b % 3) * REGION_BYTES + c - d)
        return ops.Truncate(self._file(a), size, self._now_ns, 0o600 if e % 4 == 0 else None)

    def punch_hole(self, a: int, b: int, c: int, d: int, e: int) -> Operation:
        start = max(0, (b % 3) * REGION_BYTES + c - d)
        length = (1 + d, REGION_BYTES, 3 * REGION_BYTES)[e % 3]
        return ops.PunchHole(self._file(a), start, length, self._now_ns, 0o600 if e % 4 == 0 else None)

    def clone_range(self, a: int, b: int, c: int, d: int, e: int) -> Operation:
        src = self._file(a)
        size = max(1, getattr(self.ws.inode(src), "size", 1))
        offset = (c * 7919 * REGION_BYTES // 64) % size
        length = max(1, (size - offset) // (1 + e % 3))
        return ops.CloneRange(src, offset, length, self._file(b), d * REGION_BYTES // 16, self._now_ns)

    def reap(self, a: int, b: int, c: int, d: int, e: int) -> Operation:
        orphans = sorted(self.ws.orphans)
        return ops.Reap(orphans[a % len(orphans)] if orphans and b % 4 else self._ino(a))

    def chunk_done(self, a: int, b: int, c: int, d: int, e: int) -> Operation:
        return ops.ChunkDone(1 + a)

    _kinds = (
        create, create, create, create, link, unlink, unlink, rmdir, rename, rename, rename,
        setattr, setxattr, setxattr, removexattr, write, write, write, truncate, punch_hole, clone_range, clone_range,
        reap, chunk_done,
    )  # fmt: skip


def _played(seed: int, length: int) -> list[Operation]:
    chance, player = random.Random(seed), Player()
    for _ in range(length):
        player.play(tuple(chance.randrange(64) for _ in range(6)))
    return player.ops


@pytest.fixture(scope="session")
def histories() -> st.SearchStrategy[list[Operation]]:
    """Lists of operations on a space that begins with nothing but its root (``MemorySet.with_root(1)``)."""
    return st.builds(_played, st.integers(0, 1 << 32), st.integers(0, 80) | st.integers(60, 160))


@pytest.fixture
def refuses() -> Callable[[MemorySet, Operation], object]:
    """Run an operation that must be refused and change nothing; gives the code."""

    def run(ws: MemorySet, op: Operation) -> object:
        before = ws.copy()
        with pytest.raises(Refused) as caught:
            apply(op, ws)
        assert ws == before
        assert caught.value.message
        return caught.value.code

    return run
