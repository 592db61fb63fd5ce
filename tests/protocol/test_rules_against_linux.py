"""The rules against the kernel: the same system calls on a directory of this machine's tmpfs and on the rules.

``Posix`` does what the kernel and the mount do around the rules: it walks paths, refuses what the kernel
refuses before it asks a file system, and turns a call into an operation. Errors, kinds, modes, link counts,
sizes, owners, targets, contents and which names are one inode must agree after every call.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from cloudverge_protocol import operations as ops
from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.extents import plan_read
from cloudverge_protocol.ids import FIRST_FREE_ID, REGION_BYTES, ROOT_INODE
from cloudverge_protocol.inodes import Extent, Inode
from cloudverge_protocol.memoryset import MemorySet
from cloudverge_protocol.operations import RENAME_EXCHANGE, RENAME_NOREPLACE
from cloudverge_protocol.rules import apply

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="compares with Linux")

ERRNOS = {
    Code.NOT_FOUND: errno.ENOENT,
    Code.EXISTS: errno.EEXIST,
    Code.NOT_DIR: errno.ENOTDIR,
    Code.IS_DIR: errno.EISDIR,
    Code.NOT_EMPTY: errno.ENOTEMPTY,
    Code.INVALID: errno.EINVAL,
    Code.NOT_PERMITTED: errno.EPERM,
    Code.NAME_TOO_LONG: errno.ENAMETOOLONG,
}
PATHS = ("a", "b", "c", "a/a", "a/b", "b/a", "b/b", "a/a/a", "a/a/b", "b/a/a")
OFFSETS = (0, 5, 4090, REGION_BYTES - 7, REGION_BYTES + 3)
WINDOWS = ((0, 8192), (REGION_BYTES - 4096, 16384))
MODES = (0o600, 0o755, 0o2755, 0o1777)
CHUNK = 7


class Posix:
    """System calls on a working set."""

    def __init__(self, inode: os.stat_result) -> None:
        self.ws = MemorySet.with_root(1, stat.S_IMODE(inode.st_mode), inode.st_uid, inode.st_gid)
        self.chunk = bytearray()
        self.open: list[int] = []
        self._next_id = FIRST_FREE_ID

    def _id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _locate(self, path: str) -> tuple[int, bytes, Inode | None]:
        """The folder, the name in it, and what that leads to."""
        *above, last = path.encode().split(b"/")
        parent = ROOT_INODE
        for name in above:
            parent = self._child(parent, name).ino
        self._enter(parent)
        dentry = self.ws.dentry(parent, last)
        return parent, last, dentry and self.ws.inodes[dentry.ino]

    def _child(self, parent: int, name: bytes) -> Inode:
        self._enter(parent)
        dentry = self.ws.dentry(parent, name)
        if dentry is None:
            raise Refused(Code.NOT_FOUND)
        return self.ws.inodes[dentry.ino]

    def _enter(self, ino: int) -> None:
        inode = self.ws.inodes[ino]
        if stat.S_ISLNK(inode.mode):
            raise Refused(Code.NOT_FOUND)  # all symlinks here lead nowhere
        if not inode.is_dir:
            raise Refused(Code.NOT_DIR)

    def _found(self, path: str) -> tuple[int, bytes, Inode]:
        parent, name, inode = self._locate(path)
        if inode is None:
            raise Refused(Code.NOT_FOUND)
        return parent, name, inode

    def make(self, path: str, mode: int, target: bytes = b"") -> None:
        parent, name, _ = self._locate(path)
        owner = os.geteuid(), os.getegid()
        apply(ops.Create(parent, name, self._id(), self._id(), mode, *owner, 2, 0, target), self.ws)

    def link(self, path: str, new: str) -> None:
        inode = self._found(path)[2]
        parent, name, _ = self._locate(new)
        apply(ops.Link(inode.ino, parent, name, self._id(), 3), self.ws)

    def unlink(self, path: str) -> None:
        parent, name, inode = self._found(path)
        apply(ops.Unlink(parent, name, inode.ino, inode.ino in self.open, 4), self.ws)

    def rmdir(self, path: str) -> None:
        parent, name, inode = self._found(path)
        apply(ops.Rmdir(parent, name, inode.ino, False, 5), self.ws)

    def rename(self, path: str, new: str, flags: int) -> None:
        self._locate(path)  # both folders are looked up before either name
        self._locate(new)
        parent, name, inode = self._found(path)
        new_parent, new_name, target = self._locate(new)
        ino = target.ino if target else 0
        if target and not flags and f"{path}/".startswith(f"{new}/") and path != new:
            raise Refused(Code.NOT_EMPTY)  # the kernel sees an ancestor before it asks
        keep = ino in self.open
        op = ops.Rename(
            parent, name, new_parent, new_name, inode.ino, ino, flags, keep, self._id(), self._id(), 6
        )
        apply(op, self.ws)

    def chmod(self, path: str, mode: int) -> None:
        inode = self._found(path)[2]
        if stat.S_ISLNK(inode.mode):
            raise Refused(Code.NOT_FOUND)
        apply(ops.Setattr(inode.ino, 7, mode), self.ws)

    def _file(self, path: str) -> Inode:
        inode = self._found(path)[2]
        if stat.S_ISLNK(inode.mode):
            raise Refused(Code.NOT_FOUND)
        if inode.is_dir:
            raise Refused(Code.IS_DIR)
        return inode

    def write(self, path: str, offset: int, data: bytes) -> None:
        inode = self._file(path)
        extent = Extent(offset, len(data), CHUNK, len(self.chunk))
        self.chunk += data
        apply(ops.Write(inode.ino, (extent,), max(inode.size, extent.end), 8, 8), self.ws)

    def truncate(self, path: str, size: int) -> None:
        apply(ops.Truncate(self._file(path).ino, size, 9), self.ws)

    def punch(self, path: str, offset: int, length: int) -> None:
        apply(ops.PunchHole(self._file(path).ino, offset, length, 9), self.ws)

    def copy(self, path: str, start: int, new: str, to: int, length: int) -> None:
        src, dst = self._file(path), self._file(new)
        length = min(length, src.size - start)
        if length > 0:
            apply(ops.CloneRange(src.ino, start, length, dst.ino, to, 10), self.ws)

    def hold(self, path: str) -> None:
        self.open.append(self._file(path).ino)

    def let_go(self, index: int) -> None:
        ino = self.open.pop(index)
        if ino not in self.open and self.ws.is_orphan(ino):
            apply(ops.Reap(ino), self.ws)

    def content(self, ino: int, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.ws.inodes[ino].size - offset))
        plan = plan_read(self.ws.file_extents(ino), offset, length)
        return b"".join(
            self.chunk[part.chunk_offset : part.chunk_offset + count] if part else bytes(count)
            for _, count, part in plan
        )

    def describe(self, inode: Inode) -> tuple[object, ...]:
        content = tuple(self.content(inode.ino, *window) for window in WINDOWS) if inode.is_file else ()
        size = inode.size if inode.is_file else 0
        return inode.mode, inode.nlink, size, inode.uid, inode.gid, inode.target, content

    def walk(self, ino: int = ROOT_INODE, path: str = "") -> Iterator[tuple[str, int, Inode]]:
        for dentry in self.ws.listing(ino):
            here = f"{path}{dentry.name.decode()}"
            yield here, dentry.ino, self.ws.inodes[dentry.ino]
            if dentry.kind == stat.S_IFDIR:
                yield from self.walk(dentry.ino, f"{here}/")


class Real:
    """The same system calls on a directory of this machine."""

    def __init__(self) -> None:
        memory = "/dev/shm"
        self.root = tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None)
        self.open: list[int] = []
        self._libc = ctypes.CDLL(None, use_errno=True)

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}"

    def make(self, path: str, mode: int, target: bytes = b"") -> None:
        if stat.S_ISDIR(mode):
            os.mkdir(self._at(path), stat.S_IMODE(mode))
        elif stat.S_ISLNK(mode):
            os.symlink(target, self._at(path).encode())
        elif stat.S_ISREG(mode):
            os.close(os.open(self._at(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, stat.S_IMODE(mode)))
        else:
            os.mknod(self._at(path), mode)

    def link(self, path: str, new: str) -> None:
        os.link(self._at(path), self._at(new), follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def rename(self, path: str, new: str, flags: int) -> None:
        old, there, here = self._at(path).encode(), self._at(new).encode(), -100
        if self._libc.renameat2(here, old, here, there, flags):
            raise OSError(ctypes.get_errno(), "renameat2")

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        fd = os.open(self._at(path), os.O_RDWR)
        try:
            yield fd
        finally:
            os.close(fd)

    def write(self, path: str, offset: int, data: bytes) -> None:
        with self._opened(path) as fd:
            os.pwrite(fd, data, offset)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self._at(path), size)

    def punch(self, path: str, offset: int, length: int) -> None:
        keep_size_punch_hole = 3
        with self._opened(path) as fd:
            if self._libc.fallocate(fd, keep_size_punch_hole, ctypes.c_long(offset), ctypes.c_long(length)):
                raise OSError(ctypes.get_errno(), "fallocate")

    def copy(self, path: str, start: int, new: str, to: int, length: int) -> None:
        with self._opened(path) as src, self._opened(new) as dst:
            os.copy_file_range(src, dst, length, start, to)

    def hold(self, path: str) -> None:
        self.open.append(os.open(self._at(path), os.O_RDWR))

    def let_go(self, index: int) -> None:
        os.close(self.open.pop(index))

    def describe(self, at: str | int) -> tuple[object, ...]:
        row = os.stat(at, follow_symlinks=False) if isinstance(at, str) else os.fstat(at)
        is_file = stat.S_ISREG(row.st_mode)
        target = os.readlink(os.fsencode(at)) if isinstance(at, str) and stat.S_ISLNK(row.st_mode) else b""
        content = tuple(self._content(at, *window) for window in WINDOWS) if is_file else ()
        size = row.st_size if is_file else 0
        return row.st_mode, row.st_nlink, size, row.st_uid, row.st_gid, target, content

    def _content(self, at: str | int, offset: int, length: int) -> bytes:
        if isinstance(at, int):
            return os.pread(at, length, offset)
        with open(at, "rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)

    def walk(self) -> Iterator[tuple[str, int, str]]:
        for folder, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                path = os.path.join(folder, name)
                yield os.path.relpath(path, self.root), os.lstat(path).st_ino, path

    def close(self) -> None:
        for fd in self.open:
            os.close(fd)
        shutil.rmtree(self.root)


def grouped(names: list[tuple[str, int]]) -> set[frozenset[str]]:
    """Which names are names of one inode, whatever its number."""
    groups: dict[int, set[str]] = {}
    for name, ino in names:
        groups.setdefault(ino, set()).add(name)
    return {frozenset(group) for group in groups.values()}


paths = st.sampled_from(PATHS)
modes = st.sampled_from(MODES)


class Comparison(RuleBasedStateMachine):
    """Does each call on both sides and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.umask = os.umask(0)
        self.real = Real()
        self.ours = Posix(os.stat(self.real.root))

    def both(self, call: str, *arguments: object) -> None:
        assert self._errno(self.ours, call, *arguments) == self._errno(self.real, call, *arguments)
        self._compare()

    def _errno(self, side: Posix | Real, call: str, *arguments: object) -> int:
        run: Callable[..., None] = getattr(side, call)
        try:
            run(*arguments)
        except Refused as error:
            return ERRNOS[error.code]
        except OSError as error:
            return error.errno or -1
        return 0

    def _compare(self) -> None:
        ours, real = list(self.ours.walk()), list(self.real.walk())
        assert {path: self.ours.describe(inode) for path, _, inode in ours} == {
            path: self.real.describe(at) for path, _, at in real
        }
        assert grouped([(path, ino) for path, ino, _ in ours]) == grouped(
            [(path, ino) for path, ino, _ in real]
        )
        for ino, fd in zip(self.ours.open, self.real.open, strict=True):
            assert self.ours.describe(self.ours.ws.inodes[ino]) == self.real.describe(fd)
        root = os.stat(self.real.root)
        assert self.ours.ws.inodes[ROOT_INODE].nlink == root.st_nlink

    @initialize(ready=st.booleans())
    def prepare(self, ready: bool) -> None:
        if ready:
            for path in ("a", "b", "a/a"):
                self.both("make", path, stat.S_IFDIR | 0o755)
            for path in ("a/a/a", "c"):
                self.both("make", path, stat.S_IFREG | 0o644)

    @rule(path=paths, mode=modes)
    def mkdir(self, path: str, mode: int) -> None:
        self.both("make", path, stat.S_IFDIR | mode & 0o1777)

    @rule(path=paths)
    def create(self, path: str) -> None:
        self.both("make", path, stat.S_IFREG | 0o640)

    @rule(path=paths)
    def symlink(self, path: str) -> None:
        self.both("make", path, stat.S_IFLNK | 0o777, b"nowhere/at/all")

    @rule(path=paths)
    def mkfifo(self, path: str) -> None:
        self.both("make", path, stat.S_IFIFO | 0o600)

    @rule(path=paths, new=paths)
    def link(self, path: str, new: str) -> None:
        self.both("link", path, new)

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        self.both("unlink", path)

    @rule(path=paths)
    def rmdir(self, path: str) -> None:
        self.both("rmdir", path)

    @rule(path=paths, new=paths, flags=st.sampled_from((0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE)))
    def rename(self, path: str, new: str, flags: int) -> None:
        self.both("rename", path, new, flags)

    @rule(path=paths, mode=modes)
    def chmod(self, path: str, mode: int) -> None:
        self.both("chmod", path, mode)

    def _is_fifo(self, *names: str) -> bool:
        fifos = {path for path, _, inode in self.ours.walk() if stat.S_ISFIFO(inode.mode)}
        return bool(fifos & {*names})

    @rule(path=paths, offset=st.sampled_from(OFFSETS), data=st.binary(min_size=1, max_size=40))
    def write(self, path: str, offset: int, data: bytes) -> None:
        if not self._is_fifo(path):
            self.both("write", path, offset, data)

    @rule(path=paths, size=st.sampled_from((*OFFSETS, 3)))
    def truncate(self, path: str, size: int) -> None:
        if not self._is_fifo(path):
            self.both("truncate", path, size)

    @rule(path=paths, offset=st.sampled_from((*OFFSETS, 3)), length=st.sampled_from((1, 30, REGION_BYTES)))
    def punch(self, path: str, offset: int, length: int) -> None:
        if not self._is_fifo(path):
            self.both("punch", path, offset, length)

    @rule(
        path=paths,
        new=paths,
        start=st.sampled_from(OFFSETS),
        to=st.sampled_from(OFFSETS),
        length=st.integers(1, 50),
    )
    def copy(self, path: str, new: str, start: int, to: int, length: int) -> None:
        if not self._is_fifo(path, new):
            self.both("copy", path, start, new, to, length)

    @rule(path=paths)
    def hold(self, path: str) -> None:
        if not self._is_fifo(path) and len(self.ours.open) < 3:
            self.both("hold", path)

    @rule(index=st.integers(0, 2))
    def let_go(self, index: int) -> None:
        if index < len(self.ours.open):
            self.both("let_go", index)

    def teardown(self) -> None:
        self.real.close()
        os.umask(self.umask)


TestRulesAgainstLinux = Comparison.TestCase
TestRulesAgainstLinux.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
