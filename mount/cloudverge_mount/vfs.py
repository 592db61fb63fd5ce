"""The file system behind the binding: one class that satisfies ``filesystem.FileSystem``, and how it is started.

Reading order of the names side: rowkeys, records, journal (what is kept) -> replica, rows, localset (what is
known) -> holding, ledger (what is accepted, in which order) -> outbox, shipper, aside (how it is committed) ->
loader, rebase, replay, recovery (how it is brought back) -> core and the parts of ``Vfs``: names, files,
attributes, listing, xattrs.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
import trio

from cloudverge_mount import recovery
from cloudverge_mount.aside import Aside
from cloudverge_mount.contentport import ContentPort
from cloudverge_mount.core import Content, Core, OwnerPolicy
from cloudverge_mount.files import Files
from cloudverge_mount.gate import Gate
from cloudverge_mount.journal import Journal
from cloudverge_mount.ledger import Ledger
from cloudverge_mount.listing import Listing
from cloudverge_mount.loader import Loader, TreeSource
from cloudverge_mount.localset import NotLoaded
from cloudverge_mount.rebase import Rebase
from cloudverge_mount.records import FORMAT, HeaderRecord
from cloudverge_mount.recovery import CatchUp, FeedSource
from cloudverge_mount.replay import Verdicts, read_journal
from cloudverge_mount.replicawriter import ReplicaWriter
from cloudverge_mount.rights import Rights
from cloudverge_mount.rowkeys import nothing_touched
from cloudverge_mount.rows import Rows
from cloudverge_mount.shipper import BatchTarget, Shipper
from cloudverge_mount.sink import Sink
from cloudverge_mount.xattrs import Xattrs
from cloudverge_protocol.errors import ChunkFault, CloudVergeError, Code, Refused
from cloudverge_protocol.ids import ROOT_INODE, InodeId

__all__ = ["Meta", "OwnerPolicy", "Vfs", "open_vfs"]

RETRY_EVERY_S: Final = 1.0
CHANGED_ELSEWHERE: Final = "the space was changed elsewhere meanwhile"

_log = structlog.get_logger()


class Meta(TreeSource, BatchTarget, FeedSource, Protocol):
    """What of the metaserver's client the names side uses."""


class Vfs(Files, Listing, Xattrs):
    """Satisfies ``filesystem.FileSystem``; made by ``open_vfs``."""

    def __init__(self, core: Core, rebase: Rebase, catch_up: CatchUp, seq: int) -> None:
        self.core = core
        self.rebase = rebase
        self._catch_up = catch_up
        self.seq = seq
        self._behind = trio.Event()  # others have changed the space, or the session is a new one
        core.ledger.on_freed = self.freed
        core.rights.on_reopened(self._reopened)

    @property
    def invalidate(self) -> Callable[[list[int], list[tuple[int, bytes]]], None] | None:
        """Set by the process: drop these inodes and names from the kernel's caches (from a thread)."""
        return self.core.aside.invalidate

    @invalidate.setter
    def invalidate(self, drop: Callable[[list[int], list[tuple[int, bytes]]], None] | None) -> None:
        self.core.aside.invalidate = drop

    # --- background --------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The background work (shipping, writing the replica, catching up); runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.core.shipper.run)
            nursery.start_soon(self.core.writer.run)
            nursery.start_soon(self._keep_trying)
            nursery.start_soon(self._keep_up)
            task_status.started()

    async def _keep_trying(self) -> None:
        """What the journal could not take, it may take later."""
        while True:
            await trio.sleep(RETRY_EVERY_S)
            if self.core.shipper.old:
                self.core.shipper.wake()
            if self.core.gate.closed is None:
                try:
                    self.core.ledger.retry()
                except CloudVergeError as error:
                    _log.warning("the journal still takes nothing", reason=error.message)

    async def _keep_up(self) -> None:
        while True:
            await self._behind.wait()
            self._behind = trio.Event()
            try:
                await self._take_in_foreign()
            except CloudVergeError as error:
                _log.warning("the oplog could not be read", reason=error.message)
                await trio.sleep(RETRY_EVERY_S)
                self._behind.set()

    async def _take_in_foreign(self) -> None:
        found = await self._catch_up.foreign(self.seq, _everything())
        if found is None:
            _log.error("too much has happened in the space meanwhile: mount it again")
            self.core.aside.reasons.append("the space was changed elsewhere: mount it again")
            return
        touched, seq = found
        if touched.inodes:
            async with self.core.shipper.paused(), self.core.gate.shut():
                refused = await self.rebase.rebase(touched)
                await self.core.aside.held(refused, Refused(Code.STALE, CHANGED_ELSEWHERE))
            if self.core.aside.invalidate is not None:
                self.core.aside.invalidate(list(touched.inodes), list(touched.names))
        self.seq = max(self.seq, seq)

    def _reopened(self) -> None:
        old = self.core.ledger.incarnation
        self.core.ledger.renumber()
        self.core.shipper.old_orphans = set(self.core.rows.orphans)
        self.core.shipper.old.update({old, *self.core.rights.high_water} - {self.core.rights.incarnation})
        self.core.shipper.wake()
        self._behind.set()

    def note_seq(self, seqs: Sequence[int], seq: int) -> None:
        """A batch of ours has been committed with these seqs, and the space is at ``seq``."""
        fresh = [number for number in seqs if number]
        if seq == self.seq + len(fresh) and len(fresh) == len(seqs):
            self.seq = seq
        elif seq > self.seq:
            self._behind.set()

    # --- for the process ---------------------------------------------------------------------------------

    async def sync(self) -> None:
        """Everything done so far is durable and committed."""
        await self.core.sync()

    def status(self) -> dict[str, Any]:
        """pending_entries, journal_bytes, open_handles, degraded (list of reasons)."""
        core = self.core
        degraded = list(core.aside.reasons)
        degraded += [trouble for trouble in (core.shipper.trouble, core.writer.trouble) if trouble]
        return {
            "pending_entries": len(core.ledger.outbox) + len(core.holding),
            "journal_bytes": core.ledger.journal.size_bytes,
            "open_handles": len(core.handles),
            "degraded": degraded,
        }

    async def forget(self, pairs: Sequence[tuple[int, int]]) -> None:
        """The kernel's node ids are inode numbers: nothing is kept for them."""

    async def aclose(self) -> None:
        """Write what memory holds to the replica and close the files; call it after ``run`` has ended."""
        try:
            await self.core.writer.write()
        finally:
            self.core.ledger.journal.close()
            self.core.rows.replica.close()


def _everything() -> dict[int, int]:
    """Every entry of ours is known while we run."""
    return _Everything()


class _Everything(dict[int, int]):
    def get(self, key: int, default: Any = None) -> int:  # noqa: ANN401
        return 1 << 63


async def open_vfs(
    cache_dir: Path,
    session: Rights,
    meta: Meta,
    make_content: Callable[[Sink], Content],
    owners: OwnerPolicy,
    *,
    clock_ns: Callable[[], int] = time.time_ns,
) -> Vfs:
    """Recover what the cache folder holds and make the file system ready; ``make_content(sink)`` makes Content.

    The session must be open, and Content's ``run`` not started. Afterwards start that, then ``vfs.run``.
    """
    start = _Start(cache_dir, session, meta)
    return await start.open(make_content, owners, clock_ns)


class _Start:
    """The steps of ``recovery`` over one cache folder."""

    def __init__(self, cache_dir: Path, rights: Rights, meta: Meta) -> None:
        self._rights = rights
        self._meta = meta
        self._cache_dir = cache_dir
        self._path = cache_dir / "replica.sqlite3"
        self._journal = Journal(cache_dir / "journal", self._header)
        self._verdicts = Verdicts({int(key): int(value) for key, value in rights.high_water.items()})
        self._numbers: dict[int, int] = {}

    def _header(self, valid_end: int) -> HeaderRecord:
        rights = self._rights
        return HeaderRecord(
            FORMAT, rights.cluster, rights.history, int(rights.space), int(rights.session), valid_end
        )

    async def open(
        self, make_content: Callable[[Sink], Content], owners: OwnerPolicy, clock_ns: Callable[[], int]
    ) -> Vfs:
        read_journal(self._journal, self._verdicts)
        replica = recovery.open_replica(self._path)
        if not recovery.belongs(replica, self._rights, self._journal):
            replica.close()
            replica = recovery.new_replica(self._path)
        position, seq = replica.state("position") or 0, replica.state("seq") or 0
        catch_up = CatchUp(self._rights, self._meta)
        touched = nothing_touched()
        if replica.state("position") is not None:
            self._numbers = {int(k): v for k, v in json.loads(replica.state("numbers") or "{}").items()}
            found = await catch_up.foreign(seq, self._known())
            if found is None:
                replica.close()
                replica, position = recovery.new_replica(self._path), 0
                seq = int(self._rights.seq)
            else:
                touched, seq = found
        else:
            seq = int(self._rights.seq)
        ledger = Ledger(Rows(replica), self._journal, self._rights)
        port = ContentPort()
        vfs = self._assemble(ledger, port, catch_up, owners, clock_ns, seq)
        ledger.content = vfs.core.content = make_content(port)
        replay = recovery.replay_into(ledger, vfs.core.content, self._verdicts, position)
        touched.inodes.update(replay.committed_since.inodes)
        touched.names.update(replay.committed_since.names)
        await self._finish(vfs, touched, replay.incarnations)
        return vfs

    def _known(self) -> dict[int, int]:
        """Of each incarnation of ours the highest entry number that replica or journal hold."""
        return {
            key: max(self._numbers.get(key, 0), self._verdicts.last_number.get(key, 0))
            for key in self._numbers.keys() | self._verdicts.last_number.keys()
        }

    def _assemble(
        self,
        ledger: Ledger,
        port: ContentPort,
        catch_up: CatchUp,
        owners: OwnerPolicy,
        clock_ns: Callable[[], int],
        seq: int,
    ) -> Vfs:
        gate = Gate()
        writer = ReplicaWriter(ledger.rows, lambda: self._state(ledger, vfs), ledger.trim)
        loader = Loader(ledger.rows, self._meta, self._rights.space, writer.relief)
        rebase = Rebase(ledger, loader, writer)
        aside = Aside(ledger, rebase, gate, self._cache_dir / "recovery")
        shipper = Shipper(ledger, self._meta, aside.entry, lambda seqs, now: vfs.note_seq(seqs, now))
        core = port.core = Core(ledger, loader, writer, shipper, aside, gate, owners, clock_ns)
        vfs = Vfs(core, rebase, catch_up, seq)
        return vfs

    def _state(self, ledger: Ledger, vfs: Vfs) -> dict[str, Any]:
        rights = self._rights
        numbers = {**self._known(), int(ledger.incarnation): ledger.number}
        return {
            "cluster": rights.cluster,
            "history": rights.history,
            "space": int(rights.space),
            "position": ledger.journal.end,
            "seq": vfs.seq,
            "numbers": json.dumps({key: value for key, value in sorted(numbers.items())[-16:]}),
        }

    async def _finish(self, vfs: Vfs, touched: Any, incarnations: set[int]) -> None:  # noqa: ANN401
        core, rights = vfs.core, self._rights
        ledger = core.ledger
        recovery.forget_clean(ledger)
        refused = await vfs.rebase.rebase(touched)
        self._drop_orphans(core)
        for ino in list(ledger.pendings):
            if not await vfs.rebase.load_whole(ino):
                ledger.forget_content(InodeId(ino))
        ledger.drop_dead_spill()
        lost = core.content.finish_restore()
        await self._set_lost_aside(vfs, lost, refused)
        self._note_high_water(core)
        core.shipper.old.update((incarnations | set(map(int, rights.high_water))) - {int(rights.incarnation)})
        ledger.settle_clean()
        while True:
            try:
                ledger.local.inode(ROOT_INODE)
                return
            except NotLoaded as missing:
                await core.loader.load(missing)

    def _note_high_water(self, core: Core) -> None:
        """The metaserver forgets what a closed incarnation had reached; the journal must not."""
        for incarnation, number in self._rights.high_water.items():
            if number > 0 and self._verdicts.last_number.get(incarnation, 0) >= number:
                core.shipper.record_acked(incarnation, number)

    def _drop_orphans(self, core: Core) -> None:
        """Nothing is open at a start. Those of old incarnations are reaped by the metaserver."""
        for ino in list(core.rows.orphans):
            if core.holding.waits_for(ino):
                core.handles.pin(ino)
            else:
                core.rows.drop_inode(ino)
                core.rows.drop_orphan(ino)

    async def _set_lost_aside(self, vfs: Vfs, lost: dict[InodeId, str], refused: Any) -> None:  # noqa: ANN401
        """Files whose closed bytes are gone: what waits for them can never enter."""
        core, holding = vfs.core, vfs.core.holding
        for ino, why in lost.items():
            error = ChunkFault(Code.DAMAGED, why)
            waiting = [held for held in holding.held.values() if ino in held.sources]
            core.ledger.abandon_content(ino)
            await core.aside.held(waiting, error)
            core.aside.fail([ino], error)
            core.aside.reasons.append(f"bytes of a closed file were lost: {why}")
        still = [held for held in refused if held.hold in holding.held]
        await core.aside.held(still, Refused(Code.STALE, CHANGED_ELSEWHERE))
