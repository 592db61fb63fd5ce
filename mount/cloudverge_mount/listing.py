"""Listing folders, opened (opendir, readdir, releasedir, fsyncdir) or not (listdir).

A listing goes by dentry ids, which grow and are never used again: names that stay are given exactly once, in
whatever order others come and go. '.' and '..' have cookies 1 and 2, below all ids. A part of a listing is
fetched ahead; each of its names is looked at again before it is given, so none that is gone is ever shown.
"""

from bisect import bisect_right
from collections import OrderedDict
from operator import itemgetter
from typing import Final

from cloudverge_mount.core import Core
from cloudverge_mount.handles import FolderHandle
from cloudverge_mount.localset import NotLoaded
from cloudverge_mount.names import Names
from cloudverge_mount.replica import LISTED, Listed
from cloudverge_protocol.codec import decode
from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.inodes import Inode

PAGE: Final = 256  # names fetched at once
DOT: Final = 1
DOT_DOT: Final = 2
UNOPENED_MAX: Final = 64  # folders that are being listed without having been opened

Given = tuple[bytes, Inode, int]


class Listing(Names):
    """The part of ``Vfs`` that deals in open folders."""

    core: Core
    unopened: OrderedDict[int, FolderHandle]

    async def opendir(self, ino: int) -> int:
        """Open a folder."""
        row = await self.core.retry(self.core.row, ino)
        if not row.is_dir:
            raise Refused(Code.NOT_DIR, f"inode {ino} is not a folder")
        self.core.loader.ahead.opened(ino)
        return self.core.handles.open_folder(ino)

    async def releasedir(self, fh: int) -> None:
        """Close it."""
        ino = self.core.handles.close_folder(fh)
        if ino:
            self.reap(ino)

    async def fsyncdir(self, fh: int) -> None:
        """Everything under it is durable and committed: everything there is, in fact."""
        if fh:
            self.core.handles.folder(fh)
        await self.core.sync()

    async def readdir(self, fh: int, after: int, budget: int) -> list[Given]:
        """At most ``budget`` names after cookie ``after``."""
        return await self._after(self.core.handles.folder(fh), after, budget)

    async def listdir(self, ino: int, after: int, budget: int) -> list[Given]:
        """The same of a folder that was not opened.

        Whoever lists one asks once more when he has been given all. What has come since he began he need not be
        given, so what was found to be the end remains it until somebody begins.
        """
        handle = self.unopened.pop(ino, None)
        if not after:
            self.core.loader.ahead.opened(ino)
        elif handle is not None and after >= handle.end:
            return []
        if handle is None or not after:
            handle = FolderHandle(ino)
        given = await self._after(handle, after, budget)
        if len(given) < budget:
            handle.end, handle.page = given[-1][2] if given else after, []
        self.unopened[ino] = handle
        if len(self.unopened) > UNOPENED_MAX:
            self.unopened.popitem(last=False)
        return given

    async def _after(self, handle: FolderHandle, after: int, budget: int) -> list[Given]:
        if self.core.gate.closed is None:
            try:
                return self._part(handle, after, budget)
            except NotLoaded:
                pass
        return await self.core.retry(self._part, handle, after, budget)

    def _part(self, handle: FolderHandle, after: int, budget: int) -> list[Given]:
        given: list[Given] = []
        if after < DOT_DOT:
            self._add_dots(handle.ino, after, given)
            after = DOT_DOT
        if len(given) >= budget:
            return given[:budget]
        node = self.core.rows.node(handle.ino)
        if node is None or node.row is None:
            return given  # removed while it was open
        if not node.known & LISTED:
            raise NotLoaded(folder=handle.ino)
        while len(given) < budget:
            page = self._page(handle, after)
            if not page:
                return given
            after = self._give(handle, page, after, budget, given)
        return given

    def _add_dots(self, ino: int, after: int, given: list[Given]) -> None:
        core = self.core
        row = core.row(ino)
        if after < DOT:
            given.append((b".", core.shown(row), DOT))
        try:
            above = core.row(row.parent) if row.parent else row
        except Refused:
            above = row
        given.append((b"..", core.shown(above), DOT_DOT))

    def _page(self, handle: FolderHandle, after: int) -> list[Listed]:
        """The names the handle holds, if some are beyond ``after`` and still valid; else the next ones, fetched."""
        rows, page = self.core.rows, handle.page
        if handle.epoch == rows.epoch and page and handle.start <= after < page[-1][0]:
            return page
        handle.page = rows.page(handle.ino, after, PAGE)
        handle.start, handle.epoch = after, rows.epoch
        return handle.page

    def _give(
        self, handle: FolderHandle, page: list[Listed], after: int, budget: int, given: list[Given]
    ) -> int:
        """Give names of ``page`` beyond ``after``; the cookie reached."""
        core, rows = self.core, self.core.rows
        changed = rows.changed_names(handle.ino)
        for dentry, name, ino, _, stored, _ in page[bisect_right(page, after, key=itemgetter(0)) :]:
            if len(given) >= budget:
                break
            after = dentry
            if changed and name in changed:
                entry = changed[name]
                if entry is None or entry.dentry != dentry:
                    continue
            node = rows.node_in_memory(ino)
            if node is not None:
                if node.row is None:
                    continue
                row = node.row
            else:
                row = core.row(ino) if stored is None else decode(Inode, stored)
            given.append((name, core.shown(row), dentry))
        return after
