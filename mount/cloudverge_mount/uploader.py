"""From dirty to entered: watches over the lanes, reports what has landed, and lets callers wait for it.

The life of a byte: written (``DirtyFile``) -> queued (``Packer``) -> under way in a parcel (``Lane``, ``Chain``)
-> landed when every replica has given its receipt -> entered with ``Sink.enter_write`` as soon as the order of
the file's bytes allows. Nothing is taken out of the dirty map before the sink has taken it; whatever fails on
the way leaves the byte dirty and due again.

Waiting (``flush``, room for a write) is bounded by time without progress: as long as bytes become durable in
the lane a caller depends on, it waits; after ``PATIENCE_S`` without any it gets the last error. A refusal that
more time will not change (no room, no right) is reported at the first failure after the call.
"""

from collections.abc import Callable, Iterable
from functools import partial

import structlog
import trio

from cloudverge_mount.budget import Budget
from cloudverge_mount.chain import Chain
from cloudverge_mount.chunkclient import ChunkClients
from cloudverge_mount.chunkyard import ChunkYard
from cloudverge_mount.dirty import DirtyFile
from cloudverge_mount.keeper import Keeper
from cloudverge_mount.lane import Lane
from cloudverge_mount.metaclient import MetaClient
from cloudverge_mount.packer import LaneName, Packer, Parcel
from cloudverge_mount.pieces import Report
from cloudverge_mount.sink import MAX_EXTENTS, Sink
from cloudverge_mount.steady import keep_going
from cloudverge_mount.ticketbook import Rights, TicketBook
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import ChunkFault, CloudVergeError, Code, Denied, Unavailable
from cloudverge_protocol.ids import ChunkId, InodeId
from cloudverge_protocol.messages import Place, Receipt

log = structlog.get_logger(__name__)

PATIENCE_S = 20.0  # without progress; the caller's own limit is 30 s
TEND_EVERY_S = 1.0
SYNC_BYTES = 8 * 1024 * 1024


class Uploader:
    """``files`` is the dirty map of every file that has dirty bytes; shared with ``Content``."""

    def __init__(
        self,
        files: dict[InodeId, DirtyFile],
        meta: MetaClient,
        rights: Rights,
        tickets: TicketBook,
        clients: ChunkClients,
        keeper: Keeper,
        budget: Budget,
        sink: Sink,
        *,
        note: Callable[[str], None],
    ) -> None:
        self.packer = Packer()
        self._files = files
        self._tickets = tickets
        self._keeper = keeper
        self._budget = budget
        self._sink = sink
        self._note = note
        self._yard = ChunkYard(
            meta, rights, tickets, is_named=self._is_named, done=sink.chunk_done, short=self._fell_short
        )
        self._lanes: dict[LaneName, Lane] = {
            name: Lane(
                name,
                self.packer,
                self._yard,
                clients,
                tickets,
                load=self.load,
                settle=self.settle,
                trouble=self._trouble,
                borrow=partial(self._chain_beside, name),
                sync_bytes=min(SYNC_BYTES, budget.limit_bytes // 4),
            )
            for name in LaneName
        }
        self._both = tuple(self._lanes.values())
        self._waiting: dict[DirtyFile, trio.Event] = {}
        self._held: set[DirtyFile] = set()  # files with landed bytes that may not be entered yet

    async def run(self) -> None:
        """Upload for ever."""
        async with trio.open_nursery() as nursery:
            for lane in self._both:
                nursery.start_soon(lane.run)
            nursery.start_soon(keep_going, "spare chunks", self._yard.keep_spares)
            nursery.start_soon(keep_going, "sealing", self._yard.seal_retired)
            nursery.start_soon(keep_going, "tending", self._tend)

    # --- what happens to files --------------------------------------------------------------------------

    def wrote(self, file: DirtyFile) -> None:
        """Bytes were written to ``file``."""
        self._wake(self.packer.wrote(file, trio.current_time()))

    def closed(self, file: DirtyFile) -> None:
        """``file`` was closed; its bytes go soon."""
        self._wake(self.packer.closed(file, trio.current_time()))

    def forgot(self, file: DirtyFile) -> None:
        """Bytes of ``file`` were cut or dropped; what landed above them may be reportable now."""
        if file.landed_count or not file.size:
            self.settle((file,))

    def press(self) -> None:
        """Room is short: send everything."""
        self.packer.press()
        for lane in self._both:
            lane.wake()

    def hurry(self, file: DirtyFile) -> Lane:
        """The file's bytes must go at once; the lane they go by."""
        lane = self._lanes[self.packer.hurry(file)]
        if file.unsent:
            lane.wake()
        else:
            for each in self._both:
                each.ask_sync()
        return lane

    def want_chunk(self) -> None:
        """Bytes will have to go somewhere soon."""
        if self._lanes[LaneName.SMALL].chain is None and self._lanes[LaneName.BULK].chain is None:
            self._yard.want()

    def _wake(self, due: float) -> None:
        for lane in self._both:
            lane.wake(due)

    def reopened(self) -> None:
        """The session has a new incarnation: chunks of the old one are never appended to or named again."""
        for lane in self._both:
            lane.reset()
        for chain in self._yard.reset():
            self._both[0].ground(chain, Unavailable(Code.FENCED, "the session was opened again"))
        for file in self._held:
            file.lift()
            self.packer.retry(file)
        self._held.clear()
        self._wake(0.0)

    # --- waiting ----------------------------------------------------------------------------------------

    async def flush(self, file: DirtyFile, seq: int) -> None:
        """Until every byte of ``file`` written at or before ``seq`` is entered (or gone). Raises why not."""
        lane = self.hurry(file)
        refusals, progress = self.refusals, lane.progress
        if file.unsent and lane.name is LaneName.SMALL:
            await lane.ship_now()
        deadline = trio.current_time() + PATIENCE_S
        while not file.settled_through(seq):
            self._raise_if_hopeless(file, lane, refusals)
            lane = self.hurry(file)
            if lane.progress != progress:
                progress, deadline = lane.progress, trio.current_time() + PATIENCE_S
            with trio.move_on_at(deadline) as waited:
                await self._waiting.setdefault(file, trio.Event()).wait()
            if waited.cancelled_caught and lane.progress == progress and not file.settled_through(seq):
                raise self._why(lane)

    @property
    def refusals(self) -> int:
        """Grows whenever an upload was refused for a reason that waiting will not mend."""
        return sum(lane.refusals for lane in self._both)

    @property
    def progress(self) -> int:
        """Grows whenever bytes have become durable."""
        return sum(lane.progress for lane in self._both)

    @property
    def stall(self) -> CloudVergeError | None:
        """Why bytes that wait do not get through; None while none wait or all is well."""
        if not self._files:
            return None
        return next((lane.stall for lane in self._both if lane.stall is not None), None)

    def last_error(self) -> CloudVergeError:
        """Why uploading does not get on, as far as is known."""
        for lane in self._both:
            if lane.last_error is not None:
                return self._why(lane)
        return Unavailable(
            Code.TIMEOUT, "no chunkserver has taken bytes for too long; they stay in this cache"
        )

    def _raise_if_hopeless(self, file: DirtyFile, lane: Lane, refusals: int) -> None:
        if file.is_stuck():
            raise ChunkFault(Code.DAMAGED, f"bytes of inode {file.ino} are lost from this mount's spill")
        if self.refusals > refusals:
            raise self._why(lane)

    def _why(self, lane: Lane) -> CloudVergeError:
        error = lane.last_error
        if error is None:
            return Unavailable(Code.TIMEOUT, "no chunkserver has taken these bytes in time; they stay dirty")
        if isinstance(error, Denied) and error.code not in (Code.FORBIDDEN, Code.READ_ONLY):
            return Unavailable(Code.UNAVAILABLE, f"the session is being renewed: {error.message}")
        return type(error)(error.code, f"bytes stay in this mount's cache, not stored yet: {error.message}")

    def _trouble(self) -> None:
        self._stir(list(self._waiting))
        self._budget.wake_all()

    def _stir(self, files: Iterable[DirtyFile]) -> None:
        for file in files:
            event = self._waiting.pop(file, None)
            if event is not None:
                event.set()

    # --- settling ---------------------------------------------------------------------------------------

    def settle(self, files: Iterable[DirtyFile]) -> None:
        """Ranges of these files may have landed: enter what may be entered."""
        for file in files:
            before = file.weight
            try:
                self._enter(file)
            except Exception as error:
                log.error("settling failed", ino=file.ino, exc_info=error)
            self._budget.charge(file.weight - before)
            if file.landed_count:
                self._held.add(file)
            else:
                self._held.discard(file)
            if not file.size:
                self._clean(file)
            if file in self._waiting:
                self._stir((file,))
        self._yard.look_for_done()

    def _clean(self, file: DirtyFile) -> None:
        self.packer.forget(file)
        if self._files.get(file.ino) is file:
            del self._files[file.ino]
            self._sink.content_settled(file.ino)
        if not self._files:
            for lane in self._both:
                lane.calm()

    def _enter(self, file: DirtyFile) -> None:
        if not file.landed_count:
            return
        while report := file.report(self._sink.journaled_size(file.ino), MAX_EXTENTS):
            try:
                place = self._sink.enter_write(
                    file.ino,
                    report.extents,
                    self._receipts(report),
                    report.durable_below,
                    report.spilled_through,
                )
            except Exception as error:
                file.unreport(report)
                log.error("durable bytes could not be journaled", ino=file.ino, exc_info=error)
                self._note(f"inode {file.ino}: durable bytes wait for the journal: {error}")
                return
            self._keeper.entered(file.ino, report, place)

    def _receipts(self, report: Report) -> tuple[Receipt, ...]:
        receipts: list[Receipt] = []
        for chunk in dict.fromkeys(extent.chunk for extent in report.extents):
            chain = self._chain_of(chunk)
            assert chain is not None, "a landed chunk keeps its chain until nothing waits in it"
            receipts += chain.receipts
        return tuple(receipts)

    def _fell_short(self, chunk: ChunkId) -> None:
        """A sealed chunk lacks bytes it had receipts for: what is not entered yet goes elsewhere."""
        self._note(f"chunk {chunk}: no reachable copy holds all of its durable bytes yet")
        for file in list(self._held):
            if file.lands_in(chunk):
                file.lift()
                self.packer.retry(file)
        self._wake(0.0)

    def _chain_beside(self, name: LaneName) -> Chain | None:
        """The chain of the other lane."""
        return next(lane.chain for lane in self._both if lane.name is not name)

    def _chain_of(self, chunk: ChunkId) -> Chain | None:
        for lane in self._both:
            if lane.chain is not None and lane.chain.grant.chunk == chunk:
                return lane.chain
        return self._yard.proofs(chunk)

    def places_of(self, chunk: ChunkId) -> tuple[Place, ...]:
        """The replicas of a chunk of ours; empty if it is none."""
        chain = self._chain_of(chunk)
        return () if chain is None or chain.broken is not None else chain.grant.places

    def _is_named(self, chunk: ChunkId) -> bool:
        return any(file.lands_in(chunk) for file in self._held)

    async def _tend(self) -> None:
        while True:
            await trio.sleep(TEND_EVERY_S)
            if self._held:
                self.settle(list(self._held))
            if not self._files:
                self._rest(trio.current_time())

    def _rest(self, now: float) -> None:
        had_chunk = any(lane.chain is not None for lane in self._both)
        for lane in self._both:
            lane.rest(now)
        if had_chunk and all(lane.chain is None for lane in self._both):
            self._yard.rest()

    # --- bytes ------------------------------------------------------------------------------------------

    def load(self, parcel: Parcel) -> list[Buffer]:
        """The bytes of a parcel; ranges whose spilled bytes are lost are taken out of it and get stuck."""
        body: list[Buffer] = []
        for index, (file, taken) in enumerate(parcel.items):
            good = []
            for item in taken:
                data = self._keeper.bytes_of(item.piece, item.start, item.end)
                if data is None:
                    file.strand(parcel.flight, item.start, item.end)
                    parcel.length -= item.end - item.start
                else:
                    good.append(item)
                    body.append(data)
            if len(good) < len(taken):
                parcel.items[index] = (file, good)
                self._stir((file,))
        parcel.items = [item for item in parcel.items if item[1]]
        return body
