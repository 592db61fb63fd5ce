"""A file system in memory behind the FUSE binding's seam: the protocol's rules over a MemorySet.

Stands in for the real one where the binding and the shim are what is tested. Not a model of anything else:
no owner policy, no quota, no durability.
"""

import itertools
import os
import stat
import time
from collections.abc import Sequence

from msgspec.structs import replace

from cloudverge_mount.filesystem import Caller, Opened, SetattrRequest, Statfs
from cloudverge_protocol import operations as ops
from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import FIRST_FREE_ID, ROOT_INODE, InodeId
from cloudverge_protocol.inodes import Inode
from cloudverge_protocol.memoryset import MemorySet
from cloudverge_protocol.rules import apply

BLOCK_BYTES = 4096


class MemoryFiles:
    def __init__(self, uid: int, gid: int) -> None:
        self.rows = MemorySet.with_root(time.time_ns(), 0o755, uid, gid)
        self.data: dict[int, bytearray] = {}
        self.handles: dict[int, int] = {}
        self.flags: dict[int, int] = {}
        self._ids = itertools.count(FIRST_FREE_ID)
        self._fhs = itertools.count(1)

    def _inode(self, ino: int) -> Inode:
        inode = self.rows.inode(InodeId(ino))
        if inode is None:
            raise Refused(Code.STALE, f"inode {ino}")
        return inode

    def _is_open(self, ino: int) -> bool:
        return ino in self.handles.values()

    async def lookup(self, parent: int, name: bytes) -> Inode:
        if name == b".":
            return self._inode(parent)
        if name == b"..":
            return self._inode(self._inode(parent).parent or ROOT_INODE)
        dentry = self.rows.dentry(InodeId(parent), name)
        if dentry is None:
            raise Refused(Code.NOT_FOUND)
        return self._inode(dentry.ino)

    async def forget(self, pairs: Sequence[tuple[int, int]]) -> None:
        pass

    async def getattr(self, ino: int) -> Inode:
        return self._inode(ino)

    async def setattr(self, ino: int, changes: SetattrRequest, ctx: Caller) -> Inode:
        now = time.time_ns()
        if changes.size is not None:
            self._resize(ino, changes.size)
        apply(
            ops.Setattr(
                InodeId(ino), now, changes.mode, changes.uid, changes.gid, changes.atime_ns, changes.mtime_ns
            ),
            self.rows,
        )
        return self._inode(ino)

    def _resize(self, ino: int, size: int) -> None:
        data = self.data.setdefault(ino, bytearray())
        del data[size:]
        data.extend(bytes(size - len(data)))
        self._touch(ino, size)

    def _touch(self, ino: int, size: int) -> None:
        now = time.time_ns()
        self.rows.put_inode(replace(self._inode(ino), size=size, mtime_ns=now, ctime_ns=now))

    async def readlink(self, ino: int) -> bytes:
        return self._inode(ino).target

    def _make(
        self, parent: int, name: bytes, mode: int, ctx: Caller, rdev: int = 0, target: bytes = b""
    ) -> Inode:
        ino, dentry = InodeId(next(self._ids)), next(self._ids) if name else 0
        apply(
            ops.Create(
                InodeId(parent), name, ino, dentry, mode, ctx.uid, ctx.gid, time.time_ns(), rdev, target
            ),
            self.rows,
        )
        return self._inode(ino)

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Caller) -> Inode:
        return self._make(parent, name, mode & ~ctx.umask, ctx, rdev)

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Caller) -> Inode:
        return self._make(parent, name, stat.S_IFDIR | (mode & ~ctx.umask), ctx)

    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: Caller) -> Inode:
        return self._make(parent, name, stat.S_IFLNK | 0o777, ctx, 0, target)

    async def link(self, ino: int, new_parent: int, new_name: bytes) -> Inode:
        apply(
            ops.Link(InodeId(ino), InodeId(new_parent), new_name, next(self._ids), time.time_ns()), self.rows
        )
        return self._inode(ino)

    async def unlink(self, parent: int, name: bytes) -> None:
        ino = (await self.lookup(parent, name)).ino
        apply(ops.Unlink(InodeId(parent), name, ino, self._is_open(ino), time.time_ns()), self.rows)

    async def rmdir(self, parent: int, name: bytes) -> None:
        ino = (await self.lookup(parent, name)).ino
        apply(ops.Rmdir(InodeId(parent), name, ino, self._is_open(ino), time.time_ns()), self.rows)

    async def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        ino = (await self.lookup(parent, name)).ino
        there = self.rows.dentry(InodeId(new_parent), new_name)
        target = there.ino if there else InodeId(0)
        apply(
            ops.Rename(
                InodeId(parent), name, InodeId(new_parent), new_name, ino, target, flags,
                self._is_open(target), next(self._ids), next(self._ids), time.time_ns(),
            ),
            self.rows,
        )  # fmt: skip

    def _handle(self, ino: int) -> int:
        fh = next(self._fhs)
        self.handles[fh] = ino
        return fh

    async def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Caller) -> tuple[int, Inode]:
        inode = self._make(parent, name, stat.S_IFREG | (mode & ~ctx.umask & 0o7777), ctx)
        return self._handle(inode.ino), inode

    async def tmpfile(self, parent: int, mode: int, flags: int, ctx: Caller) -> tuple[int, Inode]:
        inode = self._make(parent, b"", stat.S_IFREG | (mode & ~ctx.umask & 0o7777), ctx)
        return self._handle(inode.ino), inode

    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        ino, end = self.handles[fh], offset + length
        content = self.data.setdefault(ino, bytearray())
        size = len(content)
        if mode not in (0, 1, 3, 16, 17):
            raise Refused(Code.NOT_SUPPORTED)
        if mode & 18:
            content[offset : min(end, size)] = bytes(max(0, min(end, size) - offset))
        if not mode & 1 and end > size:
            content.extend(bytes(end - size))
        self._touch(ino, len(content))

    async def lseek(self, fh: int, offset: int, whence: int) -> int:
        size = len(self.data.get(self.handles[fh], b""))
        if not 0 <= offset < size:
            raise Refused(Code.BEYOND_END)
        return offset if whence == os.SEEK_DATA else size

    async def copy_file_range(
        self, fh_in: int, offset_in: int, fh_out: int, offset_out: int, length: int
    ) -> int:
        return await self.write(fh_out, offset_out, await self.read(fh_in, offset_in, length))

    async def open(self, ino: int, flags: int, ctx: Caller) -> Opened:
        if flags & 0o1000:  # O_TRUNC
            self._resize(ino, 0)
        return Opened(self._handle(ino))

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        return bytes(self.data.get(self.handles[fh], b"")[offset : offset + size])

    async def views(self, fh: int, offset: int, size: int) -> list[bytes]:
        return [await self.read(fh, offset, size)]

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        ino = self.handles[fh]
        content = self.data.setdefault(ino, bytearray())
        if offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data
        self._touch(ino, len(content))
        return len(data)

    async def flush(self, fh: int, lock_owner: int = 0) -> None:
        pass

    async def release(self, fh: int, flock_owner: int = 0) -> None:
        ino = InodeId(self.handles.pop(fh))
        if self.rows.is_orphan(ino) and not self._is_open(ino):
            apply(ops.Reap(ino), self.rows)
            self.data.pop(ino, None)

    async def fsync(self, fh: int, datasync: bool) -> None:
        pass

    async def opendir(self, ino: int) -> int:
        return self._handle(ino)

    async def readdir(self, fh: int, after: int, budget: int) -> list[tuple[bytes, Inode, int]]:
        return await self.listdir(self.handles[fh], after, budget)

    async def listdir(self, ino: int, after: int, budget: int) -> list[tuple[bytes, Inode, int]]:
        names: list[tuple[bytes, Inode, int]] = [(b".", self._inode(ino), 1)]
        names.append((b"..", self._inode(self._inode(ino).parent or ROOT_INODE), 2))
        mine = [dentry for dentry in self.rows.dentries.values() if dentry.parent == ino]
        names += [(d.name, self._inode(d.ino), d.dentry) for d in sorted(mine, key=lambda d: d.dentry)]
        return [row for row in names if row[2] > after][:budget]

    async def releasedir(self, fh: int) -> None:
        await self.release(fh)

    async def fsyncdir(self, fh: int) -> None:
        pass

    async def statfs(self) -> Statfs:
        return Statfs(BLOCK_BYTES, 1 << 20, 1 << 19, 1 << 20, (1 << 20) - len(self.rows.inodes))

    async def getxattr(self, ino: int, name: bytes) -> bytes:
        value = self.rows.xattrs(InodeId(ino)).get(name)
        if value is None:
            raise Refused(Code.NO_ATTR)
        return value

    async def setxattr(
        self, ino: int, name: bytes, value: bytes, flags: int, kill_sgid: bool = False
    ) -> None:
        apply(ops.Setxattr(InodeId(ino), name, value, flags, time.time_ns()), self.rows)

    async def listxattr(self, ino: int) -> list[bytes]:
        return list(self.rows.xattrs(InodeId(ino)))

    async def removexattr(self, ino: int, name: bytes) -> None:
        apply(ops.Removexattr(InodeId(ino), name, time.time_ns()), self.rows)

    async def access(self, ino: int, mode: int, ctx: Caller) -> bool:
        return True
