"""Open files: create, tmpfile, open, read, write, flush, release, fsync."""

import os
import stat
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from cloudverge_mount.attributes import Attributes, without_setid
from cloudverge_mount.filesystem import Caller, Opened
from cloudverge_mount.handles import FileHandle
from cloudverge_mount.localset import NotLoaded
from cloudverge_mount.locking import Locking
from cloudverge_mount.names import Names
from cloudverge_mount.pending import Pending
from cloudverge_mount.quota import Spent
from cloudverge_mount.replica import EXTENTS
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import CloudVergeError, Code, Refused
from cloudverge_protocol.ids import FILE_BYTES_MAX, InodeId
from cloudverge_protocol.inodes import Inode

SETID: Final = stat.S_ISUID | stat.S_ISGID


class Files(Names, Attributes, Locking):
    """The part of ``Vfs`` that deals in open files."""

    async def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Caller) -> tuple[int, Inode]:
        """Make a file and open it; without O_EXCL one that exists is opened."""
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        try:
            row = await self._made(parent, name, mode, ctx, 0, b"")
        except Refused as error:
            if error.code != Code.EXISTS or flags & os.O_EXCL:
                raise
            row = await self.lookup(parent, name)
            return (await self.open(row.ino, flags, ctx)).fh, row
        return self._handle(row.ino, flags, ctx), row

    async def tmpfile(self, parent: int, mode: int, flags: int, ctx: Caller) -> tuple[int, Inode]:
        """Make a file without a name and open it (O_TMPFILE); ``link`` may give it one, but with O_EXCL.

        It is an orphan from birth (see ``operations.Create``): closed without a name it ends, and so it does when
        this process is killed, because its incarnation ends then.
        """
        row = await self._made(parent, b"", stat.S_IFREG | stat.S_IMODE(mode), ctx, 0, b"")
        fh = self._handle(row.ino, flags, ctx)
        self.core.handles.allow_link(row.ino, not flags & os.O_EXCL)
        return fh, row

    def _handle(self, ino: int, flags: int, ctx: Caller) -> int:
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        return self.core.handles.open_file(ino, ctx.uid, bool(flags & os.O_APPEND), writable)

    async def open(self, ino: int, flags: int, ctx: Caller) -> Opened:
        """Open a file; O_TRUNC empties it, and clears setuid and setgid as a write would."""
        core = self.core
        row = await core.retry(core.row, ino)
        if not row.is_file:
            raise Refused(Code.IS_DIR if row.is_dir else Code.INVALID, f"inode {ino} is no regular file")
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            core.check_writable()
        fh = self._handle(ino, flags, ctx)
        if flags & os.O_TRUNC:
            try:
                await self.truncate(ino, 0, without_setid(core.shown(row).mode) if ctx.uid else None)
            except BaseException:
                await self.release(fh)
                raise
        return Opened(fh)

    async def release(self, fh: int, flock_owner: int = 0) -> None:
        """The last user of a handle has closed it: its locks end, that of ``flock_owner`` among them."""
        await self.unlock_released(fh)
        ino = self.core.handles.close_file(fh)
        if ino:
            self.reap(ino)

    async def flush(self, fh: int, lock_owner: int = 0) -> None:
        """A descriptor was closed: what was written must survive a kill of this process. Then its locks end."""
        ino = InodeId(self.core.handles.file(fh).ino)
        try:
            if self.core.content.is_dirty(ino):
                self.core.content.close(ino)
        finally:
            if lock_owner:
                await self.unlock_closed(ino, fh, lock_owner)

    async def fsync(self, fh: int, datasync: bool) -> None:
        """Durable on all replicas and committed, or an error; datasync makes no difference."""
        await self.core.fsync(self.core.handles.file(fh).ino)

    # --- bytes -------------------------------------------------------------------------------------------

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        """The bytes there are of a range."""
        return b"".join(await self.views(fh, offset, size))

    async def views(self, fh: int, offset: int, size: int) -> Sequence[Buffer]:
        """The same in pieces, which are to be used at once."""
        core = self.core
        ino = InodeId(core.handles.file(fh).ino)
        pending = core.pendings.get(ino)
        if pending is not None:
            end = pending.size
        else:
            node = core.rows.node(ino)
            row = None if node is None else node.row
            end = (await core.retry(core.row, ino) if row is None else row).size
        length = min(size, end - offset)
        if length <= 0:
            return ()
        return await core.content.views(ino, offset, length)

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        """Write a range; O_APPEND lands at the end as it is here."""
        core = self.core
        handle = core.handles.file(fh)
        pending = core.pendings.get(handle.ino)
        if pending is None or not core.is_calm():
            pending = await core.retry(self._begin_dirty, handle.ino)
        if handle.append:
            offset = pending.size
        end = offset + len(data)
        check = partial(self._check_growth, end, pending.size, len(data))
        try:
            await self._take(handle.ino, offset, data, check)
        except BaseException:  # whoever waited for room may have been interrupted, too
            self._end_clean(handle.ino)
            raise
        if handle.ino not in core.pendings:  # all that was dirty has entered while these waited for room
            await self._dirty_again(handle.ino, offset, end)
        self._written(handle, end, len(data))
        return len(data)

    async def _take(self, ino: int, offset: int, data: bytes, check: Callable[[], None]) -> None:
        while True:
            try:
                check()
                return await self.core.content.write(InodeId(ino), offset, data, check)
            except Spent:
                await self.core.retry(check)

    def _begin_dirty(self, ino: int) -> Pending:
        """The pending attributes of a file that is about to be dirty; its extents are known from here on."""
        core = self.core
        core.check_writable()
        pending = core.pendings.get(ino)
        if pending is None:
            row = core.row(ino)
            node = core.rows.node(ino)
            if row.size and node is not None and not node.known & EXTENTS:
                raise NotLoaded(extents=ino)
            pending = core.pendings[ino] = Pending(row.size)
        return pending

    async def _dirty_again(self, ino: int, start: int, end: int) -> None:
        try:
            await self.core.retry(self._begin_dirty, ino)
        except CloudVergeError:
            self.core.content.drop(InodeId(ino))  # the file has gone meanwhile
            raise
        except BaseException:  # interrupted: nothing was written
            self.core.content.cut(InodeId(ino), start, end)
            raise

    def _check_growth(self, end: int, size: int, length: int) -> None:
        if end > FILE_BYTES_MAX:
            raise Refused(Code.FILE_TOO_BIG, f"{end} bytes, a file can have {FILE_BYTES_MAX}")
        if end > size:
            self.core.ledger.quota.check_bytes(min(length, end - size))

    def _written(self, handle: FileHandle, end: int, length: int) -> None:
        """The bytes are dirty: so are size, times and mode."""
        core, ino = self.core, handle.ino
        pending = core.pendings[ino]
        if end > pending.size:
            core.ledger.grow(pending, min(length, end - pending.size))
            pending.size = end
        pending.touch(core.clock_ns())
        if handle.uid:
            self._clear_setid(ino, pending)

    def _clear_setid(self, ino: int, pending: Pending) -> None:
        node = self.core.rows.node(ino)
        if node is not None and node.row is not None and node.row.mode & SETID and pending.mode is None:
            pending.mode = without_setid(node.row.mode)

    def _end_clean(self, ino: int) -> None:
        """A write has failed: if nothing is dirty, nothing is pending."""
        if not self.core.content.is_dirty(InodeId(ino)):
            self.core.ledger.content_settled(InodeId(ino))
