"""Attributes: getattr, setattr, truncate, readlink, access, statfs."""

import os
import stat
from typing import Final

from cloudverge_mount.aclkeeping import AclKeeping
from cloudverge_mount.core import Core, NotStored
from cloudverge_mount.filesystem import Caller, SetattrRequest, Statfs
from cloudverge_mount.localset import NotLoaded
from cloudverge_mount.pending import Pending
from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import FILE_BYTES_MAX, InodeId
from cloudverge_protocol.inodes import Inode
from cloudverge_protocol.operations import Setattr, Truncate

GROUP_RUN: Final = stat.S_ISGID | stat.S_IXGRP
ANY_X: Final = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


def without_setid(mode: int) -> int | None:
    """The permission bits without setuid and setgid, as a write by somebody else leaves them; None: no change."""
    kept = mode & 0o7777 & ~stat.S_ISUID
    if kept & GROUP_RUN == GROUP_RUN:
        kept &= ~stat.S_ISGID
    return None if kept == mode & 0o7777 else kept


class Attributes(AclKeeping):
    """The part of ``Vfs`` that deals in attributes."""

    core: Core

    async def getattr(self, ino: int) -> Inode:
        """The inode as it is seen here."""
        core = self.core
        try:
            if core.gate.closed is None:
                try:
                    return core.shown(core.row(ino))
                except NotLoaded:
                    pass
            return core.shown(await core.retry(core.row, ino))
        except Refused:
            if ino not in core.departed:
                raise
            return core.shown(core.departed[ino])

    async def readlink(self, ino: int) -> bytes:
        """Where a symlink points."""
        row = await self.core.retry(self.core.row, ino)
        if not stat.S_ISLNK(row.mode):
            raise Refused(Code.INVALID, f"inode {ino} is no symlink")
        return row.target

    async def access(self, ino: int, mode: int, ctx: Caller) -> bool:
        """access(2) by root, which may do all but run what nobody may; others the kernel checks itself."""
        if not mode & os.X_OK:
            return True
        row = await self.core.retry(self.core.row, ino)
        return row.is_dir or bool(self.core.shown(row).mode & ANY_X)

    async def statfs(self) -> Statfs:
        """Room in the space."""
        return self.core.ledger.quota.statfs()

    async def setattr(self, ino: int, changes: SetattrRequest, ctx: Caller) -> Inode:
        """chmod, chown, truncate, utimensat."""
        core = self.core
        if changes.mode is None and (changes.uid, changes.gid, changes.size) != (None, None, None):
            changes = changes._replace(mode=await self._mode_after(ino, changes, ctx))
        if changes.size is not None:
            await self.truncate(ino, changes.size, changes.mode)
            changes = changes._replace(size=None, mode=None)
            if changes == _NOTHING:
                return core.shown(core.row(ino))
        if core.is_calm():
            try:
                return self._setattr(ino, changes)
            except NotLoaded:
                pass
        return await core.retry(self._setattr, ino, changes)

    async def _mode_after(self, ino: int, changes: SetattrRequest, ctx: Caller) -> int | None:
        """What chown (by anybody) and truncate (by others than root) leave of a file's mode; None: all of it."""
        row = self.core.shown(await self.core.retry(self.core.row, ino))
        given_away = changes.uid is not None or changes.gid is not None
        return without_setid(row.mode) if not row.is_dir and (given_away or ctx.uid) else None

    def _setattr(self, ino: int, changes: SetattrRequest) -> Inode:
        core = self.core
        core.check_writable()
        core.row(ino)
        now_ns = core.clock_ns()
        if changes.mode is not None:
            self.before_chmod(ino, changes.mode, now_ns)
        op = Setattr(
            InodeId(ino),
            now_ns,
            changes.mode,
            changes.uid,
            changes.gid,
            changes.atime_ns,
            changes.mtime_ns,
        )
        core.ledger.accept(op)
        return core.shown(core.row(ino))

    # --- size --------------------------------------------------------------------------------------------

    async def truncate(self, ino: int, size: int, mode: int | None = None) -> None:
        """Set the size. Bytes that a held rename or link waits for are uploaded first: they must not vanish."""
        await self.core.retry(self._truncate, ino, size, mode)

    def _truncate(self, ino: int, size: int, mode: int | None) -> None:
        core = self.core
        core.check_writable()
        row, pending = core.row(ino), core.pendings.get(ino)
        if not row.is_file:
            raise Refused(Code.IS_DIR if row.is_dir else Code.INVALID, f"inode {ino} is no regular file")
        if not 0 <= size <= FILE_BYTES_MAX:
            raise Refused(Code.FILE_TOO_BIG if size > 0 else Code.INVALID, f"{size} bytes")
        shown_size = row.size if pending is None else pending.size
        if size < shown_size and core.holding.waits_for(ino):
            raise NotStored(ino)
        if pending is None or size < row.size:
            core.ledger.accept(Truncate(InodeId(ino), size, core.clock_ns(), mode))
        if pending is not None:
            self._cut_pending(row, pending, size, mode)

    def _cut_pending(self, row: Inode, pending: Pending, size: int, mode: int | None) -> None:
        """The same for what is dirty; a Truncate has been accepted if journaled bytes go."""
        core = self.core
        shrunk = size < pending.size
        if size < row.size:
            core.ledger.spills.resized(row.ino, size)
            pending.entered()
        else:
            now_ns, mode = core.clock_ns(), pending.mode if mode is None else mode
            core.ledger.log_coming(row.ino, size, now_ns, mode)
            pending.touch(now_ns)
            pending.mode = mode
        pending.size = size
        if shrunk:
            core.ledger.shrink_growth(pending, max(0, size - row.size))
            core.content.cut(row.ino, size)
        if not core.content.is_dirty(row.ino):
            core.ledger.content_settled(row.ino)


_NOTHING: Final = SetattrRequest()
