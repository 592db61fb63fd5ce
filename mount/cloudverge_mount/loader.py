"""The loader: fetches the rows that an operation found missing, and what will likely be missing next.

What we have seen or done ourselves always wins over what the server sends: nobody else changes the space
while we are its active mount, so a row that is known here is at least as new. A reply may have been on its
way while rows were forgotten and changed (``Rebase`` does that); such a reply is stale and asked for again.

A folder is loaded with its subtree, as far as one TREE reply goes, and with those that earlier replies left out
and a walk comes to next (see ``ahead``), so that a walk over a fresh mount costs few round trips. Where none are
known but a sibling has been loaded before, the reply starts at this folder in its parent and goes on with the
siblings that follow. In a folder too large for one reply single names are asked for first; after
``NAMES_BEFORE_LISTING`` of them, or for a listing, all its pages are fetched.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import trio

from cloudverge_mount.ahead import Ahead
from cloudverge_mount.changes import Node
from cloudverge_mount.localset import NotLoaded
from cloudverge_mount.replica import EXTENTS, HAS_XATTRS, LISTED, XATTRS
from cloudverge_mount.rows import UNKNOWN, Rows
from cloudverge_protocol import extents as arithmetic
from cloudverge_protocol.ids import DentryId, InodeId, SpaceId, region_of
from cloudverge_protocol.inodes import Dentry, Extents, Inode
from cloudverge_protocol.messages import Folder, Load, LoadReply, Tree, TreeReply

BUDGET: Final = 2000
NAMES_BEFORE_LISTING: Final = 16
LOAD_MAX: Final = 2000  # keys of one LOAD
REGIONS_MAX: Final = 2000
STRIDE: Final = 400  # names put into the rows before the loop gets its turn


class TreeSource(Protocol):
    """What of the metaserver's client is used here."""

    async def tree(self, request: Tree) -> TreeReply: ...
    async def load(self, request: Load) -> LoadReply: ...


class Loader:
    """``relief``: waits until the rows' changes have been written somewhat."""

    def __init__(
        self, rows: Rows, meta: TreeSource, space: SpaceId, relief: Callable[[], Awaitable[None]]
    ) -> None:
        self._rows = rows
        self._meta = meta
        self._space = space
        self._relief = relief
        self._under_way: dict[object, trio.Event] = {}
        self._asked_names: dict[int, int] = {}  # of large folders: names asked for one by one
        self.ahead = Ahead(self._entries_to_load)
        self.generation = 0  # raised when rows are forgotten: replies to older requests are stale
        self.round_trips = 0

    async def load(self, missing: NotLoaded) -> None:
        """Fetch what ``missing`` names; returns when it makes sense to try again."""
        if missing.inode:
            await self._once(("inode", missing.inode), lambda: self.inodes((missing.inode,)))
        elif missing.name is not None:
            await self._load_name(*missing.name)
        elif missing.folder:
            await self.ahead.arrived()
            await self._load_folder(missing.folder)
        elif missing.extents:
            await self._once(("extents", missing.extents), lambda: self.extents(missing.extents))
        elif missing.xattrs:
            await self._once(("xattrs", missing.xattrs), lambda: self.xattrs((missing.xattrs,)))

    async def _once(self, key: object, fetch: Callable[[], Awaitable[None]]) -> None:
        """Those who miss the same thing wait for one fetch; if it failed, each tries again."""
        under_way = self._under_way.get(key)
        if under_way is not None:
            await under_way.wait()
            return
        self._under_way[key] = event = trio.Event()
        try:
            await fetch()
        finally:
            del self._under_way[key]
            event.set()

    async def run_ahead(self) -> None:
        """Load what will be missing next, for ever."""
        await self.ahead.run(self._load_folder)

    async def _load_folder(self, ino: int) -> None:
        if not self._is_listed(ino):
            await self._once(("folder", ino), lambda: self.folder(ino))

    # --- names -------------------------------------------------------------------------------------------

    async def _load_name(self, parent: int, name: bytes) -> None:
        asked = self._asked_names.get(parent)
        if asked is None:
            await self._once(("folder", parent), lambda: self._first_look(parent))
        elif asked < NAMES_BEFORE_LISTING:
            self._asked_names[parent] = asked + 1
            await self._once((parent, name), lambda: self.names(((parent, name),)))
        else:
            await self._once(("folder", parent), lambda: self.folder(parent))

    async def _first_look(self, parent: int) -> None:
        if not await self._tree(parent, 0):
            if len(self._asked_names) > 1000:
                self._asked_names.clear()
            self._asked_names[parent] = 0

    async def names(self, keys: Sequence[tuple[int, bytes]]) -> None:
        """Load single names."""
        for start in range(0, len(keys), LOAD_MAX):
            part = tuple((InodeId(parent), name) for parent, name in keys[start : start + LOAD_MAX])
            generation, reply = self.generation, await self._load(Load(self._space, dentries=part))
            if generation != self.generation:
                return
            self._put_names(part, reply)

    def _put_names(self, keys: Iterable[tuple[InodeId, bytes]], reply: LoadReply) -> None:
        rows, inodes = self._rows, {inode.ino: inode for inode in reply.inodes}
        found = {(entry.parent, entry.name): entry for entry in reply.dentries}
        for key in keys:
            if rows.name(*key) is not UNKNOWN:
                continue
            entry = found.get(key)
            if entry is None:
                rows.drop_name(*key)
            elif entry.ino in inodes:
                if rows.node(entry.ino) is None:
                    rows.changes.nodes[entry.ino] = Node(inodes[entry.ino], 0)
                rows.put_name(entry)

    # --- folders -----------------------------------------------------------------------------------------

    async def folder(self, ino: int) -> None:
        """Load all names of a folder."""
        self._asked_names.pop(ino, None)
        generation = self.generation
        more = self.ahead.take(ino, BUDGET)
        start = None if more else self._start_in_parent(ino)
        if start is not None:
            await self._tree(*start)
        elif more:
            await self._tree(ino, 0, more)
        cursor = 0
        while not self._is_listed(ino):
            before, cursor = cursor, await self._page(ino, cursor, generation)
            if cursor <= before:
                return  # gone meanwhile, or rows were forgotten: whoever asked looks again

    def _is_listed(self, ino: int) -> bool:
        node = self._rows.node(ino)
        return node is not None and bool(node.known & LISTED)

    def _entries_to_load(self, ino: int) -> int | None:
        node = self._rows.node(ino)
        if node is None or node.row is None or not node.row.is_dir or node.known & LISTED:
            return None
        return node.row.entries if node.row.entries <= BUDGET else None

    def _start_in_parent(self, ino: int) -> tuple[int, int] | None:
        """(parent, cursor) for a TREE request that begins with this folder and goes on with its siblings."""
        node = self._rows.node(ino)
        if node is None or node.row is None or node.row.parent in (0, ino):
            return None
        above = self._rows.node(node.row.parent)
        if above is None or above.row is None or not above.known & LISTED:
            return None
        if above.row.nlink < 4 or above.row.entries > BUDGET // 4:
            return None
        for dentry, _, child, _, _, _ in self._rows.page(above.row.ino, 0, BUDGET):
            if child == ino:
                return above.row.ino, dentry - 1
        return None

    async def _page(self, ino: int, cursor: int, generation: int) -> int:
        """Load a part of a listing from after ``cursor``; the cursor of the next part."""
        reply = await self._ask(Tree(self._space, InodeId(ino), DentryId(cursor), BUDGET, deep=cursor == 0))
        if generation != self.generation:
            return 0
        await self._put_tree(reply, generation, {ino: cursor})
        self.ahead.took((ino,), reply)
        for folder in reply.folders:
            if folder.ino == ino and folder.dentries:
                return folder.dentries[-1].dentry
        return 0

    async def _tree(self, ino: int, cursor: int, more: Sequence[int] = ()) -> bool:
        """One TREE reply; whether folder ``ino`` is whole afterwards."""
        generation = self.generation
        also = tuple(InodeId(each) for each in more)
        reply = await self._ask(Tree(self._space, InodeId(ino), DentryId(cursor), BUDGET, more=also))
        if generation == self.generation:
            await self._put_tree(reply, generation, {ino: 0} if not cursor else {})
            self.ahead.took((ino, *more), reply)
        return self._is_listed(ino)

    async def _ask(self, request: Tree) -> TreeReply:
        if self._rows.crowded:
            await self._relief()
        self.round_trips += 1
        return await self._meta.tree(request)

    async def _put_tree(self, reply: TreeReply, generation: int, reached: dict[int, int]) -> None:
        """Put a reply into the rows; ``reached``: for its folders that continue, from where they were asked.

        Only a folder whose names are all here, from the first on, is LISTED: one asked for from a cursor
        must have been loaded up to there by the caller.
        """
        putter = _Putter(self._rows, reply)
        for folder in reply.folders:
            await putter.put_names(folder, lambda: generation == self.generation)
            if generation != self.generation:
                return
            if folder.complete and (folder.after == 0 or reached.get(folder.ino) == folder.after):
                self._rows.mark(folder.ino, LISTED)

    # --- single rows -------------------------------------------------------------------------------------

    async def inodes(self, inos: Sequence[int]) -> None:
        """Load inodes by number."""
        for start in range(0, len(inos), LOAD_MAX):
            part = tuple(InodeId(ino) for ino in inos[start : start + LOAD_MAX])
            generation, reply = self.generation, await self._load(Load(self._space, inodes=part))
            if generation != self.generation:
                return
            found = {inode.ino: inode for inode in reply.inodes}
            for ino in part:
                if self._rows.node(ino) is not None:
                    continue
                if ino in found:
                    self._rows.changes.nodes[ino] = Node(found[ino], 0)
                else:
                    self._rows.put_absent(ino)

    async def extents(self, ino: int) -> None:
        """Load all extents of a file."""
        node = self._rows.node(ino)
        if node is None or node.row is None:
            return
        last = region_of(max(0, node.row.size - 1))
        generation, found = self.generation, dict[int, Extents]()
        for start in range(0, last + 1, REGIONS_MAX):
            part = tuple(
                (InodeId(ino), region) for region in range(start, min(last + 1, start + REGIONS_MAX))
            )
            reply = await self._load(Load(self._space, regions=part))
            found.update({region: extents for _, region, extents in reply.regions if extents})
        if generation == self.generation and not node.known & EXTENTS and node.row is not None:
            for region, extents in found.items():
                self._rows.put_extents(ino, region, extents)
            self._rows.mark(ino, EXTENTS)

    async def xattrs(self, inos: Sequence[int]) -> None:
        """Load the extended attributes of inodes."""
        for start in range(0, len(inos), LOAD_MAX):
            part = tuple(InodeId(ino) for ino in inos[start : start + LOAD_MAX])
            generation, reply = self.generation, await self._load(Load(self._space, xattrs=part))
            if generation != self.generation:
                return
            found = dict(reply.xattrs)
            for ino in part:
                node = self._rows.node(ino)
                if node is None or node.row is None or node.known & XATTRS:
                    continue
                if found.get(ino):
                    self._rows.put_xattrs(ino, dict(found[ino]))
                self._rows.mark(ino, XATTRS)

    async def _load(self, request: Load) -> LoadReply:
        self.round_trips += 1
        return await self._meta.load(request)


class _Putter:
    """Puts the names of a TREE reply, and the inodes behind them, where nothing is known yet."""

    def __init__(self, rows: Rows, reply: TreeReply) -> None:
        self._rows = rows
        self._inodes: dict[int, Inode] = {inode.ino: inode for inode in reply.inodes}
        self._extents: dict[int, Extents] = dict(reply.extents)
        self._with_xattrs = frozenset(reply.with_xattrs)
        self._many_extents = frozenset(reply.many_extents)
        self._folders = [folder.ino for folder in reply.folders]
        self._stored: set[int] = set()  # inodes that SQLite has
        self._named: set[int] = set()  # folders of which it has names
        self._epoch = -1  # of the rows, when that was so
        self._since_turn = 0

    async def put_names(self, folder: Folder, still_right: Callable[[], bool]) -> None:
        """In strides: after each the loop gets its turn, and the reply may have become stale."""
        if folder.ino in self._inodes and self._rows.node(folder.ino) is None:
            self._put_inode(folder.ino)
        for start in range(0, len(folder.dentries), STRIDE):
            node = self._rows.node(folder.ino)
            if node is None or node.known & LISTED or not still_right():
                return  # what is not here now does not exist
            self._put_some(folder.ino, folder.dentries[start : start + STRIDE])
            self._since_turn += min(STRIDE, len(folder.dentries) - start)
            if self._since_turn >= STRIDE:
                self._since_turn = 0
                await trio.lowlevel.checkpoint()

    def _put_some(self, parent: int, entries: Sequence[Dentry]) -> None:
        rows = self._rows
        if self._epoch != rows.epoch:
            self._look()
        stored = rows.stored_among(parent, [entry.name for entry in entries], self._named)
        inodes = self._stored
        changed = rows.changed_names(parent)
        for entry in entries:
            if entry.name in stored or entry.name in changed or entry.ino not in self._inodes:
                continue
            if entry.ino not in inodes and rows.node_in_memory(entry.ino) is None:
                self._put_inode(entry.ino)
            rows.put_loaded_name(entry)

    def _look(self) -> None:
        """What SQLite has of all that the reply names: one question, since a reply may name a thousand folders."""
        self._epoch = self._rows.epoch
        self._stored = self._rows.replica.which(self._inodes)
        self._named = self._rows.replica.named(self._folders)

    def _put_inode(self, ino: int) -> None:
        inode = self._inodes[ino]
        known = 0 if ino in self._many_extents else EXTENTS
        known |= HAS_XATTRS if ino in self._with_xattrs else XATTRS
        self._rows.changes.nodes[ino] = Node(inode, known)
        extents = self._extents.get(ino)
        if extents:
            held = self._rows.changes.regions.setdefault(ino, {})
            held.update(arithmetic.by_region(extents))
