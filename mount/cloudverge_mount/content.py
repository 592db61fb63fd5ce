"""The bytes of files, dirty and clean: the facade of everything about bytes in the mount.

Reading order: dirty (the map), packer (what goes when), chain and lane (appends), chunkyard (chunks), uploader
(entering, waiting), spill and keeper; then reader, sources, readahead and the caches; troubles.

What it promises: a written byte is readable at once and stays so; it leaves the dirty map only when a Write
that names it has been journaled, and a Write names it only when every replica of its chunk has fsynced it;
bytes of a closed file survive a kill of the mount; every clean byte handed out passed its checksum here. All
buffers have budgets. ``write``, ``flush`` and ``read`` fail with an error rather than wait for ever.

``write``, ``cut``, ``drop``, ``close`` and all settling run on the loop without suspension, so each is atomic.
"""

import itertools
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
import trio

from cloudverge_mount.blockcache import BlockCache
from cloudverge_mount.budget import Budget
from cloudverge_mount.chunkclient import ChunkClients
from cloudverge_mount.dirty import DirtyFile
from cloudverge_mount.diskcache import DiskCache
from cloudverge_mount.exactreader import ExactReader
from cloudverge_mount.keeper import Keeper
from cloudverge_mount.locations import Locations
from cloudverge_mount.metaclient import MetaClient
from cloudverge_mount.pieces import Piece
from cloudverge_mount.rangebook import RangeBook
from cloudverge_mount.reader import Reader
from cloudverge_mount.room import Room
from cloudverge_mount.sink import Sink
from cloudverge_mount.sources import Sources
from cloudverge_mount.spill import Spill
from cloudverge_mount.spillrecord import Spilled
from cloudverge_mount.steady import keep_going
from cloudverge_mount.ticketbook import Rights, TicketBook
from cloudverge_mount.troubles import DamageSeen, Troubles
from cloudverge_mount.uncommitted import Uncommitted
from cloudverge_mount.uploader import Uploader
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import ChunkFault, Code, NoRoom
from cloudverge_protocol.ids import FILE_BYTES_MAX, PROTOCOL_VERSION, InodeId, ServerId
from cloudverge_protocol.inodes import Extents
from cloudverge_protocol.messages import Hello

log = structlog.get_logger(__name__)

MIB = 1024 * 1024
SHOWN_S = 25.0  # a ticket that introduces us is good for as long, and shown again before


@dataclass(frozen=True)
class Budgets:
    """How much of what may be held."""

    dirty_bytes: int = 48 * MIB
    cache_bytes: int = 48 * MIB
    disk_cache_bytes: int = 2048 * MIB
    spill_bytes: int = 8192 * MIB
    dirty_files: int = 100_000


class Content:
    """File bytes by inode. ``await nursery.start(content.run)`` before the first read or write."""

    def __init__(
        self,
        meta: MetaClient,
        rights: Rights,
        cluster: str,
        cache_dir: Path,
        sink: Sink,
        budgets: Budgets | None = None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._meta = meta
        self._rights = rights
        self._cluster = cluster
        self._tls = tls
        self._sink = sink
        self._budgets = budgets or Budgets()
        self._files: dict[InodeId, DirtyFile] = {}
        self._budget = Budget(self._budgets.dirty_bytes)
        self._spill = Spill(cache_dir / "spill", self._budgets.spill_bytes, time.time_ns() // 1000)
        self._cache = BlockCache(self._budgets.cache_bytes)
        self._disk = DiskCache(cache_dir / "blocks", self._budgets.disk_cache_bytes)
        self._tickets = TicketBook(meta, rights)
        self._seqs = itertools.count(1)
        self._seq = 0
        self._clients: ChunkClients | None = None
        self._reader: Reader | ExactReader | None = None
        self._uploader: Uploader | None = None
        self._room: Room | None = None
        self._troubles = Troubles(meta, rights)
        self._uncommitted = Uncommitted(cache_dir)
        self._keeper = Keeper(self._files, self._spill, sink, self._uncommitted, self._troubles.note)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The background work, until cancelled; whatever is dirty then stays in the spill or is lost."""
        async with trio.open_nursery() as nursery:
            self._assemble(nursery)
            assert self._uploader is not None
            assert self._reader is not None
            nursery.start_soon(keep_going, "tickets", self._tickets.run)
            nursery.start_soon(keep_going, "disk cache", self._disk.run)
            nursery.start_soon(self._uploader.run)
            nursery.start_soon(self._reader.run)
            task_status.started()

    def _assemble(self, nursery: trio.Nursery) -> None:
        clients = self._clients = ChunkClients(self._hello, nursery, tls=self._tls)
        uploader = self._uploader = Uploader(
            self._files, self._meta, self._rights, self._tickets, clients, self._keeper, self._budget,
            self._sink, note=self._troubles.note,
        )  # fmt: skip
        locations = Locations(self._meta, self._rights, uploader.places_of)
        sources = Sources(locations, clients, self._tickets, partial(self._troubles.saw_damage, nursery))
        if self._rights.confined:
            ranges = RangeBook(self._meta, self._rights)
            self._reader = ExactReader(self._sink, sources, ranges, self._budgets.cache_bytes)
        else:
            self._reader = Reader(self._sink, sources, self._cache, self._disk)
        files_max = self._budgets.dirty_files
        self._room = Room(self._files, files_max, self._budget, self._keeper, uploader)
        self._queue_restored(uploader)

    async def _hello(self, server: ServerId) -> Hello:
        """A chunkserver is shown what is good there only, never who we are."""
        return Hello(PROTOCOL_VERSION, await self._tickets.read(server, left_s=SHOWN_S), self._cluster)

    def _queue_restored(self, uploader: Uploader) -> None:
        for file in self._keeper.take_restored():
            uploader.closed(file)

    async def aclose(self) -> None:
        """Close files and connections; call after ``run`` has been cancelled."""
        if self._clients is not None:
            self._clients.close()
        self._spill.close()
        self._uncommitted.close()
        self._disk.close()

    # --- state ------------------------------------------------------------------------------------------

    def is_dirty(self, ino: InodeId) -> bool:
        """Whether any byte of ``ino`` is not entered as a Write yet."""
        return ino in self._files

    def dirty_ranges(self, ino: InodeId, start: int, end: int) -> list[tuple[int, int]]:
        """Where in [start, end) bytes are dirty, in order."""
        file = self._files.get(ino)
        return [] if file is None else [(piece.start, piece.end) for piece in file.overlapping(start, end)]

    def unstored_inodes(self) -> list[InodeId]:
        """Files with bytes that are not known to be committed."""
        return self._keeper.unstored_inodes()

    def unstored_pieces(self, ino: InodeId) -> Iterator[tuple[int, bytes]]:
        """Such bytes of a file with their offsets, older ones first, as far as they can be had."""
        return self._keeper.unstored_pieces(ino)

    @property
    def pending_files(self) -> int:
        """Files with dirty bytes."""
        return len(self._files)

    @property
    def pending_bytes(self) -> int:
        """Dirty bytes."""
        return sum(file.size for file in self._files.values())

    @property
    def cache_bytes(self) -> int:
        """Clean bytes cached, in RAM and on disk."""
        exact = self._reader.held_bytes if isinstance(self._reader, ExactReader) else 0
        return self._cache.held_bytes + self._disk.held_bytes + exact

    @property
    def dirty_ram_bytes(self) -> int:
        """RAM held by dirty bytes."""
        return self._budget.held_bytes

    @property
    def damage(self) -> deque[DamageSeen]:
        """Replicas that failed us, the last ones."""
        return self._troubles.damage

    @property
    def notes(self) -> list[str]:
        """Trouble of the last minutes that is worth a person's look (bad replicas stand in ``damage``)."""
        stall = self._uploader.stall if self._uploader is not None else None
        return [
            *self._troubles.notes,
            *([f"uploading does not get on: {stall.message}"] if stall else []),
        ]

    # --- writing ----------------------------------------------------------------------------------------

    async def write(
        self, ino: InodeId, offset: int, data: bytes, check: Callable[[], None] | None = None
    ) -> None:
        """Write ``data`` (kept, not copied) at ``offset``. Raises NoRoom or Unavailable if there is no room.

        If it had to wait for room, ``check`` is called before the bytes are taken, and may raise.

        While what was accepted before finds no room on the servers, nothing more is accepted: the spill could
        take it, but whoever writes without fsync would hear of it too late.
        """
        length = len(data)
        if not length:
            return
        room, uploader = self._room, self._uploader
        assert room is not None
        assert uploader is not None
        if isinstance(uploader.stall, NoRoom):
            raise uploader.last_error()
        if self._budget.waiting or not room.has(ino, length):
            await room.make(ino, length)
            if check is not None:
                check()
        file = self._files.get(ino)
        if file is None:
            file = self._new_file(ino)
        before = file.weight
        self._seq = next(self._seqs)
        file.write(offset, data, self._seq)
        self._budget.charge(file.weight - before)
        uploader.wrote(file)

    def _new_file(self, ino: InodeId) -> DirtyFile:
        file = self._files[ino] = DirtyFile(ino)
        file.last_record = self._keeper.last_record(ino)
        if self._uploader is not None:
            self._uploader.want_chunk()
        return file

    def drop(self, ino: InodeId) -> None:
        """The inode is gone: forget all its dirty bytes."""
        self.cut(ino, 0)

    def cut(self, ino: InodeId, start: int, end: int = FILE_BYTES_MAX) -> None:
        """A local truncation, or with ``end`` a hole: forget the dirty bytes of [start, end)."""
        file = self._files.get(ino)
        if file is None:
            return
        before = file.weight
        replayable = file.forget(start, end)
        self._budget.charge(file.weight - before)
        if self._uploader is None:  # replaying: the journal says so already
            self._keeper.drop_if_clean(file)
            return
        if replayable:
            self._keeper.forgot(file, start, end)
        self._uploader.forgot(file)

    # --- spill ------------------------------------------------------------------------------------------

    def close(self, ino: InodeId) -> None:
        """A descriptor of ``ino`` was closed: spill what is not durable, upload it soon.

        A full cache disk is noted and makes the upload urgent; it does not fail the close.
        """
        file = self._files.get(ino)
        if file is None:
            return
        uploader = self._uploader
        try:
            self._keeper.keep(file)
        except NoRoom as error:
            log.warning("closed bytes could not be spilled", ino=ino, error=str(error))
            self._troubles.note(str(error))
            if uploader is not None:
                uploader.hurry(file)
        if uploader is not None:
            uploader.closed(file)

    def is_spilled(self, ino: InodeId) -> bool:
        """Whether a kill would lose no byte of ``ino``: a ``close`` may find the cache disk full."""
        file = self._files.get(ino)
        return file is None or not file.unspilled

    def spilled_through(self, ino: InodeId) -> int:
        """Spill records of ``ino`` numbered this or lower are superseded by what is entered or cut so far.

        For entries that supersede them without a Write (truncate, unlink): once such an entry is committed,
        call ``spill_committed`` with this number.
        """
        return self._keeper.superseded(ino)

    def spill_committed(self, ino: InodeId, through: int) -> None:
        """What superseded the records of ``ino`` numbered ``through`` or lower is committed: free their space."""
        self._spill.release(ino, through)

    def committed(self, settled: int, given: int, waiting: bool) -> None:
        """So many entries are settled, of so many that have a place; ``waiting``: operations wait for theirs."""
        self._uncommitted.settled(settled, given, waiting)

    def restore(self, record: Spilled) -> None:
        """Recovery: replay a journaled record, in the journal's order. See ``Sink``."""
        self._keeper.restore(record)

    def rewritten(self, ino: InodeId, extents: Extents) -> None:
        """Recovery: a journaled Write names these ranges; records before it no longer hold for them."""
        self._keeper.rewritten(ino, extents)

    def finish_restore(self) -> dict[InodeId, str]:
        """Recovery is over: verify what was restored. Inodes whose bytes are missing or bad, and why.

        Those stay dirty and stuck (reads of the lost bytes and flushes fail) until cut or dropped.
        """
        lost = self._keeper.verify()
        for reason in lost.values():
            self._troubles.note(reason)
        if self._uploader is not None:
            self._queue_restored(self._uploader)
        return lost

    # --- barriers ---------------------------------------------------------------------------------------

    async def flush(self, ino: InodeId) -> None:
        """Until everything dirty of ``ino`` as of now is entered. On failure it stays dirty; try again."""
        file = self._files.get(ino)
        if file is not None:
            assert self._uploader is not None
            await self._uploader.flush(file, self._seq)

    async def flush_all(self) -> None:
        """``flush`` of every file."""
        uploader, seq = self._uploader, self._seq
        files = list(self._files.values())
        if uploader is None or not files:
            return
        uploader.press()
        for file in files:
            await uploader.flush(file, seq)

    def reopened(self) -> None:
        """The session was opened again with a new incarnation: drop its chunks, send what was under way again."""
        self._tickets.reset()
        if self._uploader is not None:
            self._uploader.reopened()

    # --- reading ----------------------------------------------------------------------------------------

    async def read(self, ino: InodeId, offset: int, length: int) -> bytes:
        """The bytes [offset, offset + length), dirty over clean over zeroes; the caller clips to the size."""
        return b"".join(await self.views(ino, offset, length))

    async def views(self, ino: InodeId, offset: int, length: int) -> list[Buffer]:
        """The same in pieces, which lie in caches where they can: they are to be used at once, and not changed."""
        if length <= 0:
            return []
        reader = self._reader
        assert reader is not None
        file = self._files.get(ino)
        pieces = file.overlapping(offset, offset + length) if file is not None else ()
        if not pieces:
            return await reader.views(ino, offset, length)
        end = offset + length
        dirty = [
            (max(offset, p.start), self._dirty_bytes(p, max(offset, p.start), min(end, p.end)))
            for p in pieces
        ]
        if sum(len(data) for _, data in dirty) == length:
            return [data for _, data in dirty]
        result = bytearray().join(await reader.views(ino, offset, length))
        for start, data in dirty:
            result[start - offset : start - offset + len(data)] = data
        return [result]

    def _dirty_bytes(self, piece: Piece, start: int, end: int) -> Buffer:
        data = self._keeper.bytes_of(piece, start, end)
        if data is None:
            raise ChunkFault(Code.DAMAGED, "these bytes are lost from this mount's spill")
        return data
