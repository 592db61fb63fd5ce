"""Names: lookup, making, linking, removing, renaming."""

import stat
from typing import Final

from cloudverge_mount.aclkeeping import AclKeeping
from cloudverge_mount.core import Core, OutOfIds
from cloudverge_mount.filesystem import Caller
from cloudverge_mount.localset import NotLoaded
from cloudverge_mount.quota import Spent
from cloudverge_mount.rows import UNKNOWN
from cloudverge_protocol.errors import CloudVergeError, Code, Refused
from cloudverge_protocol.ids import NAME_MAX, DentryId, InodeId
from cloudverge_protocol.inodes import Dentry, Inode
from cloudverge_protocol.operations import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    Create,
    Link,
    Reap,
    Rename,
    Rmdir,
    Unlink,
)

_FLAGS: Final = RENAME_NOREPLACE | RENAME_EXCHANGE
_AGAIN: Final = (NotLoaded, OutOfIds, Spent)


class Names(AclKeeping):
    """The part of ``Vfs`` that deals in names."""

    core: Core

    async def lookup(self, parent: int, name: bytes) -> Inode:
        """The inode behind a name."""
        if self.core.gate.closed is None:
            try:
                return self._lookup(parent, name)
            except NotLoaded:
                pass
        return await self.core.retry(self._lookup, parent, name)

    def _lookup(self, parent: int, name: bytes) -> Inode:
        core = self.core
        entry = core.rows.name(parent, name)
        if type(entry) is Dentry:
            return core.shown(core.row(entry.ino))
        if name == b"." or name == b"..":
            row = core.row(parent)
            return core.shown(row if name == b"." or not row.parent else core.row(row.parent))
        if len(name) > NAME_MAX:
            raise Refused(Code.NAME_TOO_LONG, f"a name of {len(name)} bytes")
        if entry is UNKNOWN:
            core.row(parent)
            raise NotLoaded(name=(parent, name))
        raise Refused(Code.NOT_FOUND, "no such name")

    def _entry(self, parent: int, name: bytes) -> Dentry:
        """The dentry of a name that must exist."""
        entry = self._entry_or_none(parent, name)
        if entry is None:
            raise Refused(Code.NOT_FOUND, "no such name")
        return entry

    def _entry_or_none(self, parent: int, name: bytes) -> Dentry | None:
        entry = self.core.rows.name(parent, name)
        if entry is UNKNOWN:
            self.core.row(parent)
            raise NotLoaded(name=(parent, name))
        return entry  # type: ignore[return-value]

    # --- making ------------------------------------------------------------------------------------------

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Caller) -> Inode:
        """Make a file, fifo, socket or device."""
        return await self._made(parent, name, mode, ctx, rdev, b"")

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Caller) -> Inode:
        """Make a folder."""
        return await self._made(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), ctx, 0, b"")

    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: Caller) -> Inode:
        """Make a symlink."""
        return await self._made(parent, name, stat.S_IFLNK | 0o777, ctx, 0, target)

    async def _made(
        self, parent: int, name: bytes, mode: int, ctx: Caller, rdev: int, target: bytes
    ) -> Inode:
        if self.core.is_calm():
            try:
                return self._make(parent, name, mode, ctx, rdev, target)
            except _AGAIN:
                pass
        return await self.core.retry(self._make, parent, name, mode, ctx, rdev, target)

    def _make(self, parent: int, name: bytes, mode: int, ctx: Caller, rdev: int, target: bytes) -> Inode:
        core = self.core
        core.check_writable()
        core.ledger.quota.check_inode()
        if name and self._entry_or_none(parent, name) is not None:
            raise Refused(Code.EXISTS, "the name exists")
        mode, inherited = self.inherit(parent, mode, ctx.umask) if self.acl else (mode, None)
        ino, now_ns = InodeId(core.take_id()), core.clock_ns()
        op = Create(
            InodeId(parent),
            name,
            ino,
            DentryId(core.take_id() if name else 0),
            mode,
            ctx.uid,
            ctx.gid,
            now_ns,
            rdev,
            target,
        )
        core.ledger.accept(op, newborn=ino)
        if inherited is not None:
            self.bequeath(ino, inherited, now_ns)
        return core.shown(core.row(ino))

    async def link(self, ino: int, new_parent: int, new_name: bytes) -> Inode:
        """Give a file one more name."""
        if self.core.is_calm():
            try:
                return self._link(ino, new_parent, new_name)
            except _AGAIN:
                pass
        return await self.core.retry(self._link, ino, new_parent, new_name)

    def _link(self, ino: int, parent: int, name: bytes) -> Inode:
        core = self.core
        core.check_writable()
        if self._entry_or_none(parent, name) is not None:
            raise Refused(Code.EXISTS, "the name exists")
        if not core.row(ino).nlink and not core.handles.may_link(ino):
            raise Refused(Code.NOT_FOUND, "the file has been removed")
        op = Link(InodeId(ino), InodeId(parent), name, DentryId(core.take_id()), core.clock_ns())
        core.ledger.accept(op, sources=self._sources(ino))
        core.handles.allow_link(ino, allowed=False)
        return core.shown(core.row(ino))

    def _sources(self, *inos: int) -> tuple[int, ...]:
        """Those of ``inos`` that are dirty; what they have now is spilled, so that a crash cannot lose it."""
        content = self.core.content
        dirty = tuple(ino for ino in inos if ino and content.is_dirty(InodeId(ino)))
        for ino in dirty:
            content.close(InodeId(ino))
        return dirty

    # --- removing ----------------------------------------------------------------------------------------

    async def unlink(self, parent: int, name: bytes) -> None:
        """Take a name of anything but a folder away."""
        if self.core.is_calm():
            try:
                return self._unlink(parent, name)
            except NotLoaded:
                pass
        return await self.core.retry(self._unlink, parent, name)

    def _unlink(self, parent: int, name: bytes) -> None:
        core = self.core
        core.check_writable()
        ino = self._entry(parent, name).ino
        core.ledger.accept(Unlink(InodeId(parent), name, ino, self._keeps(ino), core.clock_ns()))
        self._pin_waited(ino)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty folder."""
        if self.core.is_calm():
            try:
                return self._rmdir(parent, name)
            except NotLoaded:
                pass
        return await self.core.retry(self._rmdir, parent, name)

    def _rmdir(self, parent: int, name: bytes) -> None:
        core = self.core
        core.check_writable()
        if name == b"." or name == b"..":
            raise Refused(Code.INVALID if name == b"." else Code.NOT_EMPTY, "not a removable name")
        entry = self._entry(parent, name)
        keep, row = core.handles.keeps(entry.ino), core.row(entry.ino)
        core.ledger.accept(Rmdir(InodeId(parent), name, entry.ino, keep, core.clock_ns()))
        if not keep:
            core.depart(row)

    def _keeps(self, ino: int) -> bool:
        """Whether an inode must outlive its last name: it is open, or a held operation waits for its bytes."""
        return self.core.handles.keeps(ino) or self.core.holding.waits_for(ino)

    def _pin_waited(self, ino: int) -> None:
        core = self.core
        if ino in core.rows.orphans and core.holding.waits_for(ino):
            core.handles.pin(ino)

    def reap(self, ino: int) -> None:
        """Nobody holds this inode any more: if it has no name, it ends."""
        if ino in self.core.rows.orphans:
            try:
                self.core.ledger.accept(Reap(InodeId(ino)))
            except CloudVergeError:
                pass  # the metaserver reaps it when this incarnation is closed

    def freed(self, ino: int) -> None:
        """No held operation waits for the bytes of this inode any more."""
        gone = self.core.handles.unpin(ino)
        if gone:
            self.reap(gone)

    # --- renaming ----------------------------------------------------------------------------------------

    async def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        """Move a name; flags as in renameat2(2)."""
        if self.core.is_calm():
            try:
                return self._rename(parent, name, new_parent, new_name, flags)
            except _AGAIN:
                pass
        return await self.core.retry(self._rename, parent, name, new_parent, new_name, flags)

    def _rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        core = self.core
        core.check_writable()
        if flags & ~_FLAGS:
            raise Refused(Code.INVALID, f"rename flags {flags} are not supported")
        ino = self._entry(parent, name).ino
        there = self._entry_or_none(new_parent, new_name)
        target = InodeId(0) if there is None else there.ino
        if target == ino:
            if flags & RENAME_NOREPLACE:
                raise Refused(Code.EXISTS, "the new name exists")
            return
        exchange = bool(flags & RENAME_EXCHANGE)
        replaced = core.row(target) if target and not exchange else None
        op = Rename(
            InodeId(parent),
            name,
            InodeId(new_parent),
            new_name,
            ino,
            target,
            flags,
            bool(target) and self._keeps(target),
            DentryId(core.take_id()),
            DentryId(core.take_id() if exchange else 0),
            core.clock_ns(),
        )
        core.ledger.accept(op, sources=self._sources(ino, target if exchange else 0))
        if target:
            self._pin_waited(target)
        if replaced is not None and replaced.is_dir and not op.keep:
            core.depart(replaced)
