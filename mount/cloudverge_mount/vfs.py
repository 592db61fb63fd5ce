"""Starting the file system behind the binding: ``open_vfs`` makes a ``Vfs`` out of a cache folder and a session.

Reading order of the names side: rowkeys, records, journal (what is kept) -> replica, rows, localset (what is
known) -> holding, entries, writes, ledger (what is accepted, in which order) -> outbox, shipper, aside (how it
is committed) -> loader, rebase, replay, recovery (how it is brought back) -> core and the parts of ``Vfs``:
names, files, holes, copying, attributes, listing, xattrs, facade.
"""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from cloudverge_mount import recovery
from cloudverge_mount.aside import Aside
from cloudverge_mount.contentport import ContentPort
from cloudverge_mount.core import Content, Core, OwnerPolicy
from cloudverge_mount.facade import CHANGED_ELSEWHERE, Vfs
from cloudverge_mount.gate import Gate
from cloudverge_mount.holding import Held
from cloudverge_mount.journal import Journal
from cloudverge_mount.ledger import Ledger
from cloudverge_mount.loader import Loader, TreeSource
from cloudverge_mount.localset import NotLoaded
from cloudverge_mount.pending import Pending
from cloudverge_mount.rebase import Rebase
from cloudverge_mount.records import FORMAT, HeaderRecord
from cloudverge_mount.recovery import CatchUp, FeedSource
from cloudverge_mount.replay import Verdicts, read_journal
from cloudverge_mount.replica import Replica
from cloudverge_mount.replicawriter import ReplicaWriter
from cloudverge_mount.rights import Rights
from cloudverge_mount.rowkeys import Touched, nothing_touched
from cloudverge_mount.rows import Rows
from cloudverge_mount.shipper import BatchTarget, Shipper
from cloudverge_mount.sink import Sink
from cloudverge_protocol.errors import ChunkFault, CloudVergeError, Code, Refused
from cloudverge_protocol.ids import ROOT_INODE, InodeId

__all__ = ["Meta", "OwnerPolicy", "Vfs", "open_vfs"]


class Meta(TreeSource, BatchTarget, FeedSource, Protocol):
    """What of the metaserver's client the names side uses."""


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
    try:
        return await start.open(make_content, owners, clock_ns)
    except BaseException:
        start.close()
        raise


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
        self._replica: Replica | None = None

    def close(self) -> None:
        """The start has failed; the folder is left as it is."""
        self._journal.close()
        if self._replica is not None:
            self._replica.close()

    async def open(
        self, make_content: Callable[[Sink], Content], owners: OwnerPolicy, clock_ns: Callable[[], int]
    ) -> Vfs:
        read_journal(self._journal, self._verdicts)
        catch_up = CatchUp(self._rights, self._meta)
        replica, touched, seq = await self._open_replica(catch_up)
        position = int(replica.state("position") or 0)
        ledger = Ledger(Rows(replica), self._journal, self._rights)
        port = ContentPort()
        vfs = self._assemble(ledger, port, catch_up, owners, clock_ns, seq)
        ledger.content = vfs.core.content = make_content(port)
        replay = recovery.replay_into(ledger, vfs.core.content, self._verdicts, position)
        touched.inodes.update(replay.doubtful.inodes)
        touched.names.update(replay.doubtful.names)
        await self._rebuild(vfs, touched, replay.last)
        self._note_high_water(vfs.core)
        old = replay.incarnations | {int(incarnation) for incarnation in self._rights.high_water}
        vfs.core.shipper.retire(old - {int(self._rights.incarnation)}, ())
        await self._load_root(vfs.core)
        return vfs

    async def _open_replica(self, catch_up: CatchUp) -> tuple[Replica, Touched, int]:
        """The replica to go on with, the rows in it that others have changed, and the seq it then stands for."""
        replica = self._replica = recovery.open_replica(self._path)
        if recovery.belongs(replica, self._rights, self._journal):
            self._numbers = {int(k): v for k, v in json.loads(replica.state("numbers") or "{}").items()}
            found = await catch_up.foreign(int(replica.state("seq") or 0), self._known())
            if found is not None:
                return replica, *found
        replica.close()
        replica = self._replica = recovery.new_replica(self._path)
        return replica, nothing_touched(), int(self._rights.seq)

    def _header(self, valid_end: int) -> HeaderRecord:
        rights = self._rights
        return HeaderRecord(
            FORMAT, rights.cluster, rights.history, int(rights.space), int(rights.session), valid_end
        )

    def _known(self) -> dict[int, int]:
        """Of each incarnation of ours the highest entry number that replica or journal hold."""
        in_journal = self._verdicts.last_number
        return {
            key: max(self._numbers.get(key, 0), in_journal.get(key, 0))
            for key in self._numbers.keys() | in_journal.keys()
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
        """What the replica stands for."""
        rights = self._rights
        numbers = {**self._known(), int(ledger.incarnation): ledger.number}
        return {
            "cluster": rights.cluster,
            "history": rights.history,
            "space": int(rights.space),
            "position": ledger.journal.end,
            "seq": vfs.seq,
            "numbers": json.dumps(dict(sorted(numbers.items())[-16:])),
        }

    # --- rebuilding --------------------------------------------------------------------------------------

    async def _rebuild(self, vfs: Vfs, touched: Touched, last: dict[int, Pending]) -> None:
        """Bring rows and dirty files to what was accepted, and set aside what cannot be."""
        core, ledger = vfs.core, vfs.core.ledger
        recovery.forget_clean(ledger)
        refused = await vfs.rebase.rebase(touched)
        await core.aside.held(refused, Refused(Code.STALE, CHANGED_ELSEWHERE))
        self._drop_orphans(core)
        for ino in list(ledger.pendings):
            if not await vfs.rebase.load_whole(ino) or self._has_ended(core, ino):
                ledger.forget_content(InodeId(ino))
        for ino, why in core.content.finish_restore().items():
            await self._set_lost_aside(core, ino, ChunkFault(Code.DAMAGED, why))
        for ino, said in last.items():
            if await vfs.rebase.load_whole(ino):
                ledger.show_last(ino, said)
        ledger.settle_clean()
        ledger.drop_dead_spill()

    def _drop_orphans(self, core: Core) -> None:
        """Nothing is open at a start. Those of old incarnations are reaped by the metaserver."""
        for ino in list(core.rows.orphans):
            if core.holding.waits_for(ino):
                core.handles.pin(ino)
            else:
                core.rows.drop_inode(ino)
                core.rows.drop_orphan(ino)

    def _has_ended(self, core: Core, ino: int) -> bool:
        """Whether this file has no name: a replica that is new does not know that it is an orphan."""
        node = core.rows.node(ino)
        return (
            node is not None
            and node.row is not None
            and not node.row.nlink
            and not core.holding.waits_for(ino)
        )

    async def _set_lost_aside(self, core: Core, ino: InodeId, error: CloudVergeError) -> None:
        """Closed bytes of this file are gone: what waits for them can never enter."""
        waiting: Iterable[Held] = [held for held in core.holding.held.values() if ino in held.sources]
        await core.aside.held(waiting, error)
        core.ledger.abandon_content(ino)
        core.aside.fail([ino], error)
        core.aside.reasons.append(f"bytes of a closed file were lost: {error.message}")

    def _note_high_water(self, core: Core) -> None:
        """The metaserver forgets what a closed incarnation had reached; the journal must not."""
        for incarnation, number in self._rights.high_water.items():
            if number > 0 and self._verdicts.last_number.get(incarnation, 0) >= number:
                core.shipper.record_acked(incarnation, number)

    async def _load_root(self, core: Core) -> None:
        while True:
            try:
                core.ledger.local.inode(ROOT_INODE)
                return
            except NotLoaded as missing:
                await core.loader.load(missing)
