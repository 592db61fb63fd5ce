#!/usr/bin/env python3
"""noopfs MOUNTPOINT: the cheapest honest filesystem on pyfuse3, the floor that CloudVerge stands on.

Names, attributes and bytes live in memory; no journal, no network, no locks. It uses CloudVerge's scheduling
shim and cache timeouts where they are installed, so the difference to CloudVerge is what CloudVerge itself costs.
"""

import contextlib
import errno
import os
import stat
import sys
import time

import pyfuse3
import trio

TIMEOUT_S = 3600


class Node:
    __slots__ = ("data", "entries", "ino", "mode", "mtime", "nlink", "parent", "target", "xattrs")

    def __init__(self, ino, mode, parent):
        self.ino, self.mode, self.parent, self.nlink = ino, mode, parent, 1
        self.mtime, self.target, self.xattrs = time.time_ns(), b"", {}
        self.entries = {} if stat.S_ISDIR(mode) else None
        self.data = bytearray()


class Noop(pyfuse3.Operations):
    enable_writeback_cache = False

    def __init__(self):
        super().__init__()
        self.nodes = {1: Node(1, stat.S_IFDIR | 0o755, 1)}
        self.next = 2

    def attr(self, node):
        e = pyfuse3.EntryAttributes()
        e.st_ino, e.st_mode, e.st_nlink = node.ino, node.mode, node.nlink
        e.st_size = len(node.target or node.data)
        e.st_atime_ns = e.st_mtime_ns = e.st_ctime_ns = node.mtime
        e.entry_timeout = e.attr_timeout = TIMEOUT_S
        return e

    def child(self, parent, name):
        try:
            return self.nodes[self.nodes[parent].entries[name]]
        except KeyError:
            raise pyfuse3.FUSEError(errno.ENOENT) from None

    def add(self, parent, name, mode):
        node = self.nodes[self.next] = Node(self.next, mode, parent)
        self.nodes[parent].entries[name] = self.next
        self.next += 1
        return node

    async def lookup(self, parent, name, ctx):
        ino = self.nodes[parent].entries.get(name)
        if ino is None:
            e = pyfuse3.EntryAttributes()
            e.st_ino, e.entry_timeout = 0, TIMEOUT_S
            return e
        return self.attr(self.nodes[ino])

    async def getattr(self, ino, ctx):
        return self.attr(self.nodes[ino])

    async def setattr(self, ino, attr, fields, fh, ctx):
        node = self.nodes[ino]
        if fields.update_size:
            del node.data[attr.st_size :]
            node.data.extend(bytes(attr.st_size - len(node.data)))
        if fields.update_mode:
            node.mode = attr.st_mode
        if fields.update_mtime:
            node.mtime = attr.st_mtime_ns
        return self.attr(node)

    async def mknod(self, parent, name, mode, rdev, ctx):
        return self.attr(self.add(parent, name, mode))

    async def mkdir(self, parent, name, mode, ctx):
        return self.attr(self.add(parent, name, stat.S_IFDIR | mode))

    async def symlink(self, parent, name, target, ctx):
        node = self.add(parent, name, stat.S_IFLNK | 0o777)
        node.target = target
        return self.attr(node)

    async def readlink(self, ino, ctx):
        return self.nodes[ino].target

    async def link(self, ino, parent, name, ctx):
        self.nodes[parent].entries[name] = ino
        self.nodes[ino].nlink += 1
        return self.attr(self.nodes[ino])

    async def unlink(self, parent, name, ctx):
        node = self.child(parent, name)
        del self.nodes[parent].entries[name]
        node.nlink -= 1

    async def rmdir(self, parent, name, ctx):
        if self.child(parent, name).entries:
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)
        del self.nodes[parent].entries[name]

    async def rename(self, parent, name, new_parent, new_name, flags, ctx):
        node = self.child(parent, name)
        del self.nodes[parent].entries[name]
        self.nodes[new_parent].entries[new_name] = node.ino

    async def forget(self, pairs):
        for ino, _ in pairs:
            node = self.nodes.get(ino)
            if node is not None and node.nlink <= 0:
                del self.nodes[ino]

    async def open(self, ino, flags, ctx):
        if flags & os.O_TRUNC:
            del self.nodes[ino].data[:]
        return pyfuse3.FileInfo(fh=ino, keep_cache=True)

    async def create(self, parent, name, mode, flags, ctx):
        node = self.add(parent, name, mode)
        return pyfuse3.FileInfo(fh=node.ino, keep_cache=True), self.attr(node)

    async def read(self, fh, off, size):
        return bytes(memoryview(self.nodes[fh].data)[off : off + size])

    async def write(self, fh, off, buf):
        data = self.nodes[fh].data
        if off > len(data):
            data.extend(bytes(off - len(data)))
        data[off : off + len(buf)] = buf
        return len(buf)

    async def flush(self, fh):
        pass

    async def release(self, fh):
        pass

    async def fsync(self, fh, datasync):
        pass

    async def opendir(self, ino, ctx):
        return ino

    async def readdir(self, fh, start, token):
        for ino_of in sorted(self.nodes[fh].entries.items(), key=lambda e: e[1]):
            name, ino = ino_of
            if ino > start and not pyfuse3.readdir_reply(token, name, self.attr(self.nodes[ino]), ino):
                return

    async def releasedir(self, fh):
        pass

    async def statfs(self, ctx):
        s = pyfuse3.StatvfsData()
        s.f_bsize = s.f_frsize = 4096
        s.f_blocks = s.f_bfree = s.f_bavail = 1 << 30
        s.f_files = s.f_ffree = s.f_favail = 1 << 30
        s.f_namemax = 255
        return s

    async def getxattr(self, ino, name, ctx):
        try:
            return self.nodes[ino].xattrs[name]
        except KeyError:
            raise pyfuse3.FUSEError(errno.ENODATA) from None

    async def setxattr(self, ino, name, value, ctx):
        self.nodes[ino].xattrs[name] = value

    async def listxattr(self, ino, ctx):
        return list(self.nodes[ino].xattrs)


async def serve():
    with contextlib.suppress(ImportError):
        from cloudverge_mount import shim

        shim.install(shim.Workers())
    await pyfuse3.main()


def main():
    options = {*pyfuse3.default_options, "fsname=noop", "default_permissions"}
    pyfuse3.init(Noop(), sys.argv[1], options)
    try:
        trio.run(serve)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
