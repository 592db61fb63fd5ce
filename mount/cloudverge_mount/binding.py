"""The FUSE binding: translate a request, call the file system, translate the answer. Nothing else.

pyfuse3 ends its loop and unmounts on anything but FUSEError out of a handler, so ``_guarded`` stands around
every handler of ``Binding``, put there by ``_guard_all``: no handler can be forgotten. What is not a
``CloudVergeError`` is a bug: it is logged and becomes EIO, and the mount lives on.

The node id is the inode number. Attributes and names are cached by the kernel for ``cache_s`` seconds, names
that do not exist too; with an exclusive lease that may be long, because every change passes through here.
"""

import errno
import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import partial, wraps
from typing import Any, Final

import pyfuse3
import structlog
import trio
from pyfuse3 import (
    EntryAttributes,
    FileInfo,
    FUSEError,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

from cloudverge_mount.barred import BARRED
from cloudverge_mount.errnos import errno_of
from cloudverge_mount.filesystem import Caller, FileSystem, SetattrRequest
from cloudverge_mount.kernelspans import EXCLUSIVE_CACHE_S, absence_s, attributes_s
from cloudverge_mount.listingpace import ListingPace
from cloudverge_mount.shim import Workers
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.ids import NAME_MAX
from cloudverge_protocol.inodes import Inode

BLOCK_BYTES_SHOWN: Final = 64 * 1024  # st_blksize: what programs take as a good buffer
SECTOR_BYTES: Final = 512  # the unit of st_blocks
PERMISSION_BITS: Final = 0o7777

_log = structlog.get_logger()


def _caller(ctx: RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.pid, ctx.umask)


def _setattr_request(attr: EntryAttributes, fields: SetattrFields) -> SetattrRequest:
    return SetattrRequest(
        attr.st_mode & PERMISSION_BITS if fields.update_mode else None,
        attr.st_uid if fields.update_uid else None,
        attr.st_gid if fields.update_gid else None,
        attr.st_size if fields.update_size else None,
        attr.st_atime_ns if fields.update_atime else None,
        attr.st_mtime_ns if fields.update_mtime else None,
    )


class Binding(pyfuse3.Operations):
    """pyfuse3's operations over a ``FileSystem``."""

    supports_dot_lookup = True
    enable_writeback_cache = False  # size and times would belong to the kernel
    enable_acl = False

    def __init__(self, files: FileSystem, workers: Workers, cache_s: float = EXCLUSIVE_CACHE_S) -> None:
        super().__init__()
        self._files: FileSystem = files
        self._workers = workers
        self._cache_s = cache_s
        self._listing = ListingPace()
        self._is_barred = False

    def bar(self) -> None:
        """The right to the files is lost: every request fails from now on, those under way too."""
        self._files = BARRED
        self._is_barred = True
        self._workers.give_up_all()

    def _entry(self, inode: Inode) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino = inode.ino
        entry.st_mode = inode.mode
        entry.st_nlink = inode.nlink
        entry.st_uid = inode.uid
        entry.st_gid = inode.gid
        entry.st_rdev = inode.rdev
        entry.st_size = inode.size
        entry.st_blocks = -(-inode.size // SECTOR_BYTES)
        entry.st_blksize = BLOCK_BYTES_SHOWN
        entry.st_atime_ns = inode.atime_ns
        entry.st_mtime_ns = inode.mtime_ns
        entry.st_ctime_ns = inode.ctime_ns
        entry.entry_timeout = self._cache_s
        entry.attr_timeout = attributes_s(inode.mode, self._cache_s)
        return entry

    def _absent(self, parent_inode: int) -> EntryAttributes:
        """That a name is not there."""
        entry = EntryAttributes()
        entry.st_ino = 0
        entry.entry_timeout = absence_s(parent_inode, self._cache_s)
        return entry

    # --- names -------------------------------------------------------------------------------------------

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if len(name) > NAME_MAX:
            raise FUSEError(errno.ENAMETOOLONG)
        try:
            return self._entry(await self._files.lookup(parent_inode, name))
        except CloudVergeError as error:
            if error.code != Code.NOT_FOUND:
                raise
            return self._absent(parent_inode)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        await self._files.forget(inode_list)

    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._entry(await self._files.mknod(parent_inode, name, mode, rdev, _caller(ctx)))

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(await self._files.mkdir(parent_inode, name, mode, _caller(ctx)))

    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self._entry(await self._files.symlink(parent_inode, name, target, _caller(ctx)))

    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self._entry(await self._files.link(inode, new_parent_inode, new_name))

    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._files.unlink(parent_inode, name)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._files.rmdir(parent_inode, name)

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        await self._files.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    # --- attributes --------------------------------------------------------------------------------------

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(await self._files.getattr(inode))

    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        request = _setattr_request(attr, fields)
        return self._entry(await self._files.setattr(inode, request, _caller(ctx)))

    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return await self._files.readlink(inode)

    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        return await self._files.access(inode, mode, _caller(ctx))

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        room = await self._files.statfs()
        data = StatvfsData()
        data.f_bsize = data.f_frsize = room.block_bytes
        data.f_blocks = room.blocks
        data.f_bfree = data.f_bavail = room.blocks_free
        data.f_files = room.inodes
        data.f_ffree = data.f_favail = room.inodes_free
        data.f_namemax = NAME_MAX
        return data

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        return await self._files.getxattr(inode, name)

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        await self._files.setxattr(inode, name, value, 0)  # pyfuse3 has looked at CREATE and REPLACE

    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        return await self._files.listxattr(inode)

    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._files.removexattr(inode, name)

    # --- files -------------------------------------------------------------------------------------------

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        fh, inode = await self._files.create(parent_inode, name, mode, flags, _caller(ctx))
        return FileInfo(fh=fh, keep_cache=True), self._entry(inode)

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        opened = await self._files.open(inode, flags, _caller(ctx))
        return FileInfo(fh=opened.fh, keep_cache=opened.keep_cache, direct_io=opened.direct_io)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return await self._files.read(fh, off, size)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._files.write(fh, off, buf)

    async def flush(self, fh: int) -> None:
        await self._files.flush(fh)

    async def release(self, fh: int) -> None:
        await self._files.release(fh)

    async def fsync(self, fh: int, datasync: bool) -> None:
        with self._workers.patient():
            await self._files.fsync(fh, datasync)

    # --- folders -----------------------------------------------------------------------------------------

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return await self._files.opendir(inode)

    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        def add(name: bytes, inode: Inode, cookie: int) -> bool:
            return bool(pyfuse3.readdir_reply(token, name, self._entry(inode), cookie))

        await self._listing.give(partial(self._files.readdir, fh), start_id, add)

    async def releasedir(self, fh: int) -> None:
        await self._files.releasedir(fh)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        with self._workers.patient():
            await self._files.fsyncdir(fh)


def _refusal(operation: str, workers: Workers, error: BaseException, *, is_barred: bool) -> BaseException:
    """What a handler raises instead of ``error``."""
    if isinstance(error, FUSEError):
        return error
    if is_barred and (isinstance(error, Exception) or workers.has_expired()):
        return FUSEError(errno.EACCES)  # whatever it met when the ground went from under it
    if isinstance(error, CloudVergeError):
        return FUSEError(errno_of(error))
    if isinstance(error, trio.Cancelled) and workers.has_expired():
        _log.error("a request took too long and was given up", operation=operation)
        return FUSEError(errno.ETIMEDOUT)
    if not isinstance(error, Exception):
        return error  # the mount is ending
    _log.error("a request failed unexpectedly", operation=operation, exc_info=error)
    return FUSEError(errno.EIO)


Handler = Callable[..., Awaitable[Any]]


def _guarded(operation: str, handler: Handler) -> Handler:
    @wraps(handler)
    async def guarded(self: Binding, *arguments: Any) -> Any:  # noqa: ANN401
        try:
            return await handler(self, *arguments)
        except BaseException as error:
            raise _refusal(operation, self._workers, error, is_barred=self._is_barred) from None

    return guarded


def _guarded_silent(operation: str, handler: Handler) -> Handler:
    """FORGET has no answer: it may not even raise FUSEError."""

    @wraps(handler)
    async def guarded(self: Binding, *arguments: Any) -> None:  # noqa: ANN401
        try:
            await handler(self, *arguments)
        except BaseException as error:
            refusal = _refusal(operation, self._workers, error, is_barred=self._is_barred)
            if not isinstance(refusal, FUSEError):
                raise refusal from None

    return guarded


def _guard_all(kind: type[Binding]) -> None:
    for operation, handler in list(vars(kind).items()):
        if not operation.startswith("_") and inspect.iscoroutinefunction(handler):
            guard = _guarded_silent if operation == "forget" else _guarded
            setattr(kind, operation, guard(operation, handler))


_guard_all(Binding)
