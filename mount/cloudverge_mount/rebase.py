"""Rebuilding rows: the local view is the server's state with our own uncommitted operations done to it.

``rebase`` forgets what may be wrong (rows that others changed, rows that committed entries touched behind the
replica's back, rows of everything uncommitted) and does the uncommitted operations again, in their order, over
rows loaded afresh. So it needs no thought about which of several changes a row had seen. It must run while
nothing ships and behind the closed gate.

An uncommitted operation that the rules refuse now (another device was here meanwhile) is left out of the view;
an entry among those will be refused by the metaserver too, and set aside then.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import structlog
import trio

from cloudverge_mount.holding import Held
from cloudverge_mount.ledger import Ledger, made
from cloudverge_mount.loader import Loader
from cloudverge_mount.localset import LocalSet, NotLoaded
from cloudverge_mount.outbox import entry_of
from cloudverge_mount.replicawriter import ReplicaWriter
from cloudverge_mount.rowkeys import Touched, nothing_touched
from cloudverge_protocol.errors import CloudVergeError, Refused
from cloudverge_protocol.ids import InodeId
from cloudverge_protocol.operations import Link, Operation, Write
from cloudverge_protocol.rules import apply

SLICE = 500  # operations whose rows are loaded together

_log = structlog.get_logger()


class Rebase:
    """Over the parts of the names side."""

    def __init__(self, ledger: Ledger, loader: Loader, writer: ReplicaWriter) -> None:
        self._ledger = ledger
        self._loader = loader
        self._writer = writer

    async def rebase(self, touched: Touched) -> list[Held]:
        """Rebuild these rows. Returns held operations that are refused now."""
        all_touched = nothing_touched()
        all_touched.inodes.update(touched.inodes)
        all_touched.names.update(touched.names)
        for op, _ in self._uncommitted():
            all_touched.add(op)
        if not all_touched.inodes:
            return []
        self._loader.generation += 1
        await self._writer.forget(all_touched.inodes, all_touched.names)
        self._loader.generation += 1
        refused = await self._again()
        await self._load_dirty(all_touched.inodes)
        await self._prune_orphans(all_touched.inodes)
        return refused

    def _uncommitted(self) -> Iterator[tuple[Operation, Held | None]]:
        for item in self._ledger.outbox:
            yield entry_of(item).op, None
        for held in self._ledger.holding.held.values():
            yield held.op, held

    async def _again(self) -> list[Held]:
        refused: list[Held] = []
        operations = iter(list(self._uncommitted()))
        while part := list(islice(operations, SLICE)):
            await self._preload(op for op, _ in part)
            await trio.lowlevel.checkpoint()
            for op, held in part:
                try:
                    await self._do(op)
                except Refused as error:
                    _log.warning(
                        "an uncommitted change no longer fits", operation=str(op), reason=error.message
                    )
                    if held is not None:
                        refused.append(held)
            await self._writer.relief()
        return refused

    async def _preload(self, ops: Iterable[Operation]) -> None:
        needed, newborn = nothing_touched(), set()
        for op in ops:
            needed.add(op)
            newborn.add(made(op))
        rows = self._ledger.rows
        inodes = [ino for ino in needed.inodes - newborn if rows.node(ino) is None]
        await self._loader.inodes(inodes)
        names = [key for key in needed.names if key[0] not in newborn]
        await self._loader.names(names)

    async def _do(self, op: Operation) -> None:
        local = LocalSet(self._ledger.rows)
        while True:
            local.begin(made(op))
            if isinstance(op, Link):
                self._know_orphan(op.ino)
            try:
                apply(op, local)
            except NotLoaded as missing:
                await self._loader.load(missing)
                continue
            local.commit()
            return

    def _know_orphan(self, ino: int) -> None:
        """A file without a name that we have given one was ours: a replica that is new does not know that."""
        node = self._ledger.rows.node(ino)
        if node is not None and node.row is not None and not node.row.nlink:
            self._ledger.rows.add_orphan(ino)

    async def _load_dirty(self, among: set[int]) -> None:
        """Files that are dirty need their rows at hand: their Writes enter without waiting."""
        for ino in list(self._ledger.pendings):
            if ino in among:
                await self.load_whole(ino)

    async def _prune_orphans(self, among: set[int]) -> None:
        """An inode whose unlink is undone has its name again, or never was."""
        rows = self._ledger.rows
        for ino in [ino for ino in rows.orphans if ino in among]:
            while (node := rows.node(ino)) is None:
                await self._loader.inodes((ino,))
            if node.row is None or node.row.nlink:
                rows.drop_orphan(ino)

    async def load_whole(self, ino: int) -> bool:
        """Load a file's row and extents; whether it exists."""
        local = LocalSet(self._ledger.rows)
        while True:
            try:
                row = local.inode(InodeId(ino))
                if row is not None:
                    local.extents(InodeId(ino), 0)
                return row is not None
            except NotLoaded as missing:
                await self._loader.load(missing)


def describe(op: Operation, error: CloudVergeError | None = None) -> str:
    """One line for people."""
    text = f"{type(op).__name__.lower()}"
    for field in ("name", "new_name"):
        name = getattr(op, field, None)
        if name is not None:
            text += f" {name.decode('utf-8', 'backslashreplace')!r}"
    if isinstance(op, Write):
        text += f" of {sum(extent.length for extent in op.extents)} bytes"
    return text if error is None else f"{text}: {error.message}"
