"""The direct binding: from the kernel's requests to the file system and back. Translation, and nothing else.

The counterpart of ``binding``, which does the same over pyfuse3; what both show of a file is the same. Each handler
takes a request and its body and returns the bytes of the answer. What it raises becomes an errno in ``refuse``, the one
place for that; what is not a ``CloudVergeError`` is a bug: it is logged and becomes EIO, and the mount lives on.

The node id is the inode number. Handlers of open files are in ``directfiles``.
"""

import errno
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog

from cloudverge_mount.barred import BARRED
from cloudverge_mount.directfiles import DirectFiles, caller_of
from cloudverge_mount.errnos import errno_of
from cloudverge_mount.filesystem import FileSystem, SetattrRequest
from cloudverge_mount.fuse import abi, bodies, replies
from cloudverge_mount.fuse.abi import Opcode, SetattrValid
from cloudverge_mount.fuse.dirents import Dirents
from cloudverge_mount.fuse.requestloop import Handler
from cloudverge_mount.fuse.requests import Request
from cloudverge_mount.kernelmount import LONG_PATIENCE_S
from cloudverge_mount.kernelspans import EXCLUSIVE_CACHE_S, absence_s, attributes_s
from cloudverge_mount.listingpace import ListingPace, Names
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.ids import NAME_MAX
from cloudverge_protocol.inodes import Inode

LONGER_S: Final = {
    int(Opcode.FSYNC): LONG_PATIENCE_S,
    int(Opcode.FSYNCDIR): LONG_PATIENCE_S,
    int(Opcode.SETLKW): math.inf,
}
INTERRUPTIBLE: Final = (int(Opcode.SETLKW),)
PERMISSION_BITS: Final = 0o7777
_LISTED: Final = abi.FOPEN_KEEP_CACHE | abi.FOPEN_CACHE_DIR

# Plain numbers, for tests of bits
_MODE: Final = int(SetattrValid.MODE)
_UID: Final = int(SetattrValid.UID)
_GID: Final = int(SetattrValid.GID)
_SIZE: Final = int(SetattrValid.SIZE)
_ATIME: Final = int(SetattrValid.ATIME)
_MTIME: Final = int(SetattrValid.MTIME)
_ATIME_NOW: Final = int(SetattrValid.ATIME_NOW)
_MTIME_NOW: Final = int(SetattrValid.MTIME_NOW)

_log = structlog.get_logger()


def changes_of(body: bodies.Setattr, now_ns: int) -> SetattrRequest:
    """What a SETATTR asks for. Pure."""
    valid = body.valid
    return SetattrRequest(
        body.mode & PERMISSION_BITS if valid & _MODE else None,
        body.uid if valid & _UID else None,
        body.gid if valid & _GID else None,
        body.size if valid & _SIZE else None,
        (now_ns if valid & _ATIME_NOW else body.atime_ns) if valid & _ATIME else None,
        (now_ns if valid & _MTIME_NOW else body.mtime_ns) if valid & _MTIME else None,
    )


class DirectBinding(DirectFiles):
    """``handlers`` by opcode, over a ``FileSystem``. ``opens_folders``: whether folders are opened and closed here.

    If they are not, ``listed`` are those that the kernel may hold a listing of.
    """

    def __init__(
        self, files: FileSystem, cache_s: float = EXCLUSIVE_CACHE_S, *, opens_folders: bool = True
    ) -> None:
        self._files: FileSystem = files
        self._cache_s = cache_s
        self._listing = ListingPace()
        self._opens_folders = opens_folders
        self.listed: set[int] = set()
        self._is_barred = False
        self._ragged = set()
        table: dict[Opcode, Handler] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.FORGET: self._forget,
            Opcode.BATCH_FORGET: self._batch_forget,
            Opcode.GETATTR: self._getattr,
            Opcode.STATX: self._statx,
            Opcode.SETATTR: self._setattr,
            Opcode.READLINK: self._readlink,
            Opcode.SYMLINK: self._symlink,
            Opcode.MKNOD: self._mknod,
            Opcode.MKDIR: self._mkdir,
            Opcode.UNLINK: self._unlink,
            Opcode.RMDIR: self._rmdir,
            Opcode.RENAME: self._rename,
            Opcode.RENAME2: self._rename,
            Opcode.LINK: self._link,
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.RELEASEDIR: self._releasedir,
            Opcode.FSYNCDIR: self._fsyncdir,
            Opcode.STATFS: self._statfs,
            Opcode.GETXATTR: self._getxattr,
            Opcode.SETXATTR: self._setxattr,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.REMOVEXATTR: self._removexattr,
            Opcode.ACCESS: self._access,
            Opcode.IOCTL: self._ioctl,
            Opcode.DESTROY: self._destroy,
            **self._handlers_of_files(),
        }
        self.handlers = {int(opcode): handler for opcode, handler in table.items()}

    def bar(self) -> None:
        """The right to the files is lost: every request fails from now on."""
        self._files = BARRED
        self._is_barred = True

    def refuse(self, request: Request, error: Exception) -> int:
        """The errno of what a handler raised."""
        if self._is_barred:
            return errno.EACCES  # whatever it met when the ground went from under it
        if isinstance(error, CloudVergeError):
            return errno_of(error)
        _log.error("a request failed unexpectedly", operation=_name_of(request.opcode), exc_info=error)
        return errno.EIO

    def _entry(self, request: Request, inode: Inode) -> bytes:
        cache_s = self._cache_s
        return replies.entry(request.unique, inode, cache_s, attributes_s(inode.mode, cache_s))

    def _attributes(self, request: Request, inode: Inode) -> bytes:
        return replies.attr(request.unique, inode, attributes_s(inode.mode, self._cache_s))

    # --- names -------------------------------------------------------------------------------------------

    async def _lookup(self, request: Request, body: bodies.Lookup) -> bytes:
        if len(body.name) > NAME_MAX:
            return replies.error(request.unique, errno.ENAMETOOLONG)
        try:
            return self._entry(request, await self._files.lookup(request.node, body.name))
        except CloudVergeError as error:
            if error.code != Code.NOT_FOUND:
                raise
            return replies.absent(request.unique, absence_s(request.node, self._cache_s))

    async def _forget(self, request: Request, body: bodies.Forget) -> None:
        await self._let_go(request, ((request.node, body.nlookup),))

    async def _batch_forget(self, request: Request, body: bodies.BatchForget) -> None:
        await self._let_go(request, body.pairs)

    async def _let_go(self, request: Request, pairs: tuple[tuple[int, int], ...]) -> None:
        """Nobody waits for an answer, and the kernel takes none."""
        if self.listed:
            self.listed.difference_update(ino for ino, _ in pairs)
        try:
            await self._files.forget(pairs)
        except Exception as error:
            self.refuse(request, error)

    async def _mknod(self, request: Request, body: bodies.Mknod) -> bytes:
        caller = caller_of(request, body.umask)
        made = await self._files.mknod(request.node, body.name, body.mode, body.rdev, caller)
        return self._entry(request, made)

    async def _mkdir(self, request: Request, body: bodies.Mkdir) -> bytes:
        caller = caller_of(request, body.umask)
        return self._entry(request, await self._files.mkdir(request.node, body.name, body.mode, caller))

    async def _symlink(self, request: Request, body: bodies.Symlink) -> bytes:
        caller = caller_of(request)
        return self._entry(request, await self._files.symlink(request.node, body.name, body.target, caller))

    async def _link(self, request: Request, body: bodies.Link) -> bytes:
        return self._entry(request, await self._files.link(body.ino, request.node, body.new_name))

    async def _unlink(self, request: Request, body: bodies.Unlink) -> bytes:
        await self._files.unlink(request.node, body.name)
        return replies.ok(request.unique)

    async def _rmdir(self, request: Request, body: bodies.Rmdir) -> bytes:
        await self._files.rmdir(request.node, body.name)
        return replies.ok(request.unique)

    async def _rename(self, request: Request, body: bodies.Rename) -> bytes:
        await self._files.rename(request.node, body.name, body.new_parent, body.new_name, body.flags)
        return replies.ok(request.unique)

    # --- attributes --------------------------------------------------------------------------------------

    async def _getattr(self, request: Request, body: bodies.Getattr) -> bytes:
        return self._attributes(request, await self._files.getattr(request.node))

    async def _statx(self, request: Request, body: bodies.Statx) -> bytes:
        inode = await self._files.getattr(request.node)
        return replies.statx(request.unique, inode, attributes_s(inode.mode, self._cache_s))

    async def _setattr(self, request: Request, body: bodies.Setattr) -> bytes:
        changes = changes_of(body, time.time_ns())
        return self._attributes(request, await self._files.setattr(request.node, changes, caller_of(request)))

    async def _readlink(self, request: Request, body: bodies.Readlink) -> bytes:
        return replies.data(request.unique, await self._files.readlink(request.node))

    async def _access(self, request: Request, body: bodies.Access) -> bytes:
        if await self._files.access(request.node, body.mask, caller_of(request)):
            return replies.ok(request.unique)
        return replies.error(request.unique, errno.EACCES)

    async def _statfs(self, request: Request, body: bodies.Statfs) -> bytes:
        room = await self._files.statfs()
        return replies.statfs(
            request.unique,
            blocks=room.blocks,
            free=room.blocks_free,
            available=room.blocks_free,
            files=room.inodes,
            files_free=room.inodes_free,
            block_bytes=room.block_bytes,
            name_max=NAME_MAX,
        )

    async def _getxattr(self, request: Request, body: bodies.Getxattr) -> bytes:
        return _sized(request, await self._files.getxattr(request.node, body.name), body.size)

    async def _setxattr(self, request: Request, body: bodies.Setxattr) -> bytes:
        kills_sgid = bool(body.setxattr_flags & abi.SETXATTR_ACL_KILL_SGID)
        await self._files.setxattr(request.node, body.name, body.value, body.flags, kills_sgid)
        return replies.ok(request.unique)

    async def _listxattr(self, request: Request, body: bodies.Listxattr) -> bytes:
        names = await self._files.listxattr(request.node)
        return _sized(request, b"".join(name + b"\0" for name in names), body.size)

    async def _removexattr(self, request: Request, body: bodies.Removexattr) -> bytes:
        await self._files.removexattr(request.node, body.name)
        return replies.ok(request.unique)

    async def _ioctl(self, request: Request, body: bodies.Ioctl) -> bytes:
        return replies.error(request.unique, errno.ENOTTY)

    async def _destroy(self, request: Request, body: bodies.Destroy) -> bytes:
        return replies.ok(request.unique)

    # --- folders -----------------------------------------------------------------------------------------

    async def _opendir(self, request: Request, body: bodies.Opendir) -> bytes:
        if not self._opens_folders:
            return replies.error(request.unique, errno.ENOSYS)  # the kernel opens all of them by itself then
        return replies.opened(request.unique, await self._files.opendir(request.node), _LISTED)

    def _names(self, request: Request, body: bodies.Readdir) -> Callable[[int, int], Awaitable[Names]]:
        if self._opens_folders:
            return partial(self._files.readdir, body.fh)
        self.listed.add(request.node)
        return partial(self._files.listdir, request.node)

    async def _readdir(self, request: Request, body: bodies.Readdir) -> bytes:
        dirents = Dirents(body.size)
        await self._listing.give(self._names(request, body), body.offset, dirents.add)
        return dirents.reply(request.unique)

    async def _readdirplus(self, request: Request, body: bodies.Readdir) -> bytes:
        dirents, cache_s = Dirents(body.size), self._cache_s

        def add(name: bytes, inode: Inode, cookie: int) -> bool:
            return dirents.add_plus(name, inode, cookie, cache_s, attributes_s(inode.mode, cache_s))

        await self._listing.give(self._names(request, body), body.offset, add)
        return dirents.reply(request.unique)

    async def _releasedir(self, request: Request, body: bodies.Release) -> bytes:
        await self._files.releasedir(body.fh)
        return replies.ok(request.unique)

    async def _fsyncdir(self, request: Request, body: bodies.Fsync) -> bytes:
        await self._files.fsyncdir(body.fh)
        return replies.ok(request.unique)


def _sized(request: Request, value: bytes, size: int) -> bytes:
    """What a caller gets who has ``size`` bytes of room; with none he asks how much he needs."""
    if not size:
        return replies.xattr_size(request.unique, len(value))
    if len(value) > size:
        return replies.error(request.unique, errno.ERANGE)
    return replies.data(request.unique, value)


def _name_of(opcode: int) -> str:
    return Opcode(opcode).name.lower() if opcode in Opcode._value2member_map_ else str(opcode)
