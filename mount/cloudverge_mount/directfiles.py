"""The direct binding's handlers of open files: opening, reading, writing, ranges, locks. See ``directbinding``.

The kernel keeps what is written through it, but a page that was not written as a whole it must ask for when it is read.
A file written in pieces that end within pages is full of such pages, and asking for one after the other takes longer
than reading all of it anew. So a file that was written on from within a page (*ragged*) is taken back from the kernel
when it is opened next.
"""

import mmap
import os
from collections.abc import Sequence
from typing import Final

from cloudverge_mount.filesystem import Caller, FileSystem, Lock
from cloudverge_mount.fuse import abi, bodies, replies
from cloudverge_mount.fuse.abi import Opcode
from cloudverge_mount.fuse.requestloop import Handler
from cloudverge_mount.fuse.requests import Request
from cloudverge_mount.kernelspans import attributes_s
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.inodes import Inode

COPY_MAX: Final = 0x7FFF_F000  # of COPY_FILE_RANGE, whose answer has 32 bits; the kernel asks for the rest
VIEWS_MAX: Final = 512  # buffers of one reply; IOV_MAX is 1024
UNLOCKED: Final = 2  # F_UNLCK
IN_PAGE: Final = mmap.PAGESIZE - 1
RAGGED_MAX: Final = 50_000  # files; of others it is forgotten, and they are read page by page
_WAITING: Final = int(Opcode.SETLKW)


def caller_of(request: Request, umask: int = 0) -> Caller:
    """Who asks."""
    return Caller(request.uid, request.gid, request.pid, umask)


class DirectFiles:
    """The part of ``DirectBinding`` that deals in open files."""

    _files: FileSystem
    _cache_s: float
    _ragged: set[int]

    def _handlers_of_files(self) -> dict[Opcode, Handler]:
        return {
            Opcode.OPEN: self._open,
            Opcode.CREATE: self._create,
            Opcode.TMPFILE: self._tmpfile,
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.FLUSH: self._flush,
            Opcode.RELEASE: self._release,
            Opcode.FSYNC: self._fsync,
            Opcode.FALLOCATE: self._fallocate,
            Opcode.LSEEK: self._lseek,
            Opcode.COPY_FILE_RANGE: self._copy_file_range,
            Opcode.COPY_FILE_RANGE_64: self._copy_file_range,
            Opcode.GETLK: self._getlk,
            Opcode.SETLK: self._setlk,
            Opcode.SETLKW: self._setlk,
        }

    async def _create(self, request: Request, body: bodies.Create) -> bytes:
        caller = caller_of(request, body.umask)
        fh, inode = await self._files.create(request.node, body.name, body.mode, body.flags, caller)
        return self._created(request, inode, fh)

    async def _tmpfile(self, request: Request, body: bodies.Create) -> bytes:
        caller = caller_of(request, body.umask)
        fh, inode = await self._files.tmpfile(request.node, body.mode, body.flags, caller)
        return self._created(request, inode, fh)

    def _created(self, request: Request, inode: Inode, fh: int) -> bytes:
        cache_s = self._cache_s
        valid_s = attributes_s(inode.mode, cache_s)
        return replies.created(request.unique, inode, cache_s, valid_s, fh, abi.FOPEN_KEEP_CACHE)

    async def _open(self, request: Request, body: bodies.Open) -> bytes:
        opened = await self._files.open(request.node, body.flags, caller_of(request))
        keep_cache = opened.keep_cache
        if request.node in self._ragged:
            self._ragged.remove(request.node)
            keep_cache = False
        flags = abi.FOPEN_KEEP_CACHE if keep_cache else 0
        if opened.direct_io:
            flags |= abi.FOPEN_DIRECT_IO
        if body.flags & os.O_ACCMODE == os.O_RDONLY:
            flags |= abi.FOPEN_NOFLUSH  # nothing of it can be left to be kept
        return replies.opened(request.unique, opened.fh, flags)

    async def _read(self, request: Request, body: bodies.Read) -> Sequence[Buffer]:
        views = await self._files.views(body.fh, body.offset, body.size)
        if len(views) > VIEWS_MAX:
            views = (b"".join(views),)
        return replies.header(request.unique, sum(map(len, views))), *views

    async def _write(self, request: Request, body: bodies.Write) -> bytes:
        if body.offset & IN_PAGE and len(self._ragged) < RAGGED_MAX:
            self._ragged.add(request.node)
        return replies.written(request.unique, await self._files.write(body.fh, body.offset, body.data))

    async def _flush(self, request: Request, body: bodies.Flush) -> bytes:
        await self._files.flush(body.fh, body.lock_owner)
        return replies.ok(request.unique)

    async def _release(self, request: Request, body: bodies.Release) -> bytes:
        is_flock = body.release_flags & abi.RELEASE_FLOCK_UNLOCK
        await self._files.release(body.fh, body.lock_owner if is_flock else 0)
        return replies.ok(request.unique)

    async def _fsync(self, request: Request, body: bodies.Fsync) -> bytes:
        await self._files.fsync(body.fh, body.datasync)
        return replies.ok(request.unique)

    # --- ranges ------------------------------------------------------------------------------------------

    async def _fallocate(self, request: Request, body: bodies.Fallocate) -> bytes:
        await self._files.fallocate(body.fh, body.mode, body.offset, body.length)
        return replies.ok(request.unique)

    async def _lseek(self, request: Request, body: bodies.Lseek) -> bytes:
        return replies.seeked(request.unique, await self._files.lseek(body.fh, body.offset, body.whence))

    async def _copy_file_range(self, request: Request, body: bodies.CopyFileRange) -> bytes:
        is_long = request.opcode == Opcode.COPY_FILE_RANGE_64
        length = body.length if is_long else min(body.length, COPY_MAX)
        copied = await self._files.copy_file_range(
            body.fh_in, body.offset_in, body.fh_out, body.offset_out, length
        )
        return replies.copied(request.unique, copied) if is_long else replies.written(request.unique, copied)

    # --- locks -------------------------------------------------------------------------------------------

    async def _getlk(self, request: Request, body: bodies.Lock) -> bytes:
        found = await self._files.getlk(request.node, body.fh, _lock_of(body))
        if found is None:
            return replies.lock(request.unique, body.start, body.end, UNLOCKED, 0)
        return replies.lock(request.unique, found.start, found.end, found.type, found.pid)

    async def _setlk(self, request: Request, body: bodies.Lock) -> bytes:
        await self._files.setlk(request.node, body.fh, _lock_of(body), request.opcode == _WAITING)
        return replies.ok(request.unique)


def _lock_of(body: bodies.Lock) -> Lock:
    is_flock = bool(body.lk_flags & abi.LK_FLOCK)
    return Lock(body.owner, body.start, body.end, body.type, body.pid, is_flock)
