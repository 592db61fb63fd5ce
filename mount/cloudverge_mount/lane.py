"""A lane: one chunk at a time, and the workers that keep appends to it under way.

The workers take turns in leading: the leader waits for something to send, makes sure of chunk, connection and
ticket, and then in one step without suspension takes the parcel, its place in the chunk, and starts the call;
so appends leave in the order of their offsets while several are under way. ``ship_now`` does the same from
the task of a caller who waits for an fsync, and spares it two scheduler turns.

When an append fails in any way the chain is broken: its parcels that are not durable become unsent, the chunk
is retired (sealed in the background), and the next parcel opens another chunk. Nothing is given up: a failing
lane slows down to one try every two seconds; who waits decides how long.
"""

from collections.abc import Callable, Iterable

import structlog
import trio

from cloudverge_mount.chain import Chain, blames_server, joined, landings
from cloudverge_mount.chunkclient import ChunkClients
from cloudverge_mount.chunkyard import ChunkYard
from cloudverge_mount.connection import Connection
from cloudverge_mount.dirty import DirtyFile
from cloudverge_mount.packer import NEVER, LaneName, Packer, Parcel
from cloudverge_mount.steady import keep_going
from cloudverge_mount.ticketbook import TicketBook
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import CloudVergeError, Code, Denied, NoRoom, Unavailable

log = structlog.get_logger(__name__)

SYNC_IDLE_S = 0.1  # and this long after the last append of a stream
SLOWEST_PARCEL_BYTES = 64 * 1024
PARCEL_TIME_S = 1.0  # a parcel should not take longer than this on the wire
LONGEST_PAUSE_S = 2.0
WORKERS = 4
REST_AFTER_S = 600.0  # an idle lane gives up its chunk, and with it the room kept for it on the servers
SLOWER = 8  # how much a timeout lowers what we think of the line
PASSING = {Code.FENCED, Code.UNAUTHORIZED, Code.QUOTA}
FULL_TRIES = 3  # chunks in a row that met a full server
STALL_TRIES = 4  # failures in a row that people are told of


class Prepared:
    """An append that has its place and waits only to be called."""

    __slots__ = ("body", "chain", "connection", "offset", "parcel", "sync", "ticket")

    def __init__(self, chain: Chain, connection: Connection, ticket: str) -> None:
        self.chain = chain
        self.connection = connection
        self.ticket = ticket
        self.parcel: Parcel | None = None
        self.body: list[Buffer] = []
        self.offset = 0
        self.sync = False


class Lane:
    """Appends of one kind; ``settle(files)`` is called when ranges of them have landed."""

    def __init__(
        self,
        name: LaneName,
        packer: Packer,
        yard: ChunkYard,
        clients: ChunkClients,
        tickets: TicketBook,
        *,
        load: Callable[[Parcel], list[Buffer]],
        settle: Callable[[Iterable[DirtyFile]], None],
        trouble: Callable[[], None],
        borrow: Callable[[], Chain | None],
        sync_bytes: int,
    ) -> None:
        self.name = name
        self.chain: Chain | None = None
        self.progress = 0  # grows with every byte that became durable
        self.refusals = 0  # grows with every failure that trying again at once would not mend
        self.last_error: CloudVergeError | None = None
        self._packer = packer
        self._yard = yard
        self._clients = clients
        self._tickets = tickets
        self._load = load
        self._settle = settle
        self._trouble = trouble
        self._borrow = borrow  # the other lane's chain, for when no chunk can be had
        self._sync_bytes = sync_bytes  # a receipt is asked for at least this often
        self._wake = trio.Event()
        self._wakes_at = 0.0  # when the leader looks again by itself (0: it is not waiting)
        self._sync_wanted = False
        self._turn = trio.Lock()
        self._streak = 0  # failures since the last progress
        self._bytes_per_s = 64e6
        self._last_append_at = 0.0
        self._last_ack_at = 0.0

    @property
    def stall(self) -> CloudVergeError | None:
        """Why nothing has got through for some tries; None while all is well."""
        return self.last_error if self._streak >= STALL_TRIES else None

    def calm(self) -> None:
        """Nothing waits any more: what failed before says nothing about what comes next."""
        self._streak = 0

    def wake(self, due: float = 0.0) -> None:
        """There may be something to do at ``due``."""
        if due < self._wakes_at:
            self._wake.set()

    def ask_sync(self) -> None:
        """Somebody waits for what is under way: ask for receipts now."""
        self._sync_wanted = True
        self.wake()

    async def run(self) -> None:
        """Work for ever."""
        async with trio.open_nursery() as nursery:
            for _ in range(WORKERS):
                nursery.start_soon(keep_going, f"{self.name} lane", self._work)

    def reset(self) -> None:
        """Drop the chain without sealing it: its incarnation has ended."""
        chain, self.chain = self.chain, None
        if chain is not None:
            self.ground(chain, Unavailable(Code.FENCED, "the session was opened again"))

    def rest(self, now: float) -> None:
        """Give the chunk up if nothing has been appended for long."""
        chain = self.chain
        if chain is not None and not chain.parcels and now > self._last_append_at + REST_AFTER_S:
            self.chain = None
            self._retire(chain)

    # --- workers ----------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            await self._turn.acquire()
            try:
                await self._wait_for_work()
                prepared = await self._prepare()
            except CloudVergeError as error:
                self._note(error, is_final(error))
                continue
            finally:
                self._turn.release()
            if prepared is not None:
                await self._ship(prepared)

    async def ship_now(self) -> bool:
        """Send the next parcel from the caller's task, if the lane is in order; whether that was done."""
        chain = self.chain
        if chain is None or self._streak or chain.retired or chain.is_full_with():
            return False
        if not self._clients.is_connected(chain.grant.places[0], chain.purpose):
            return False
        try:
            prepared = await self._prepare()
        except CloudVergeError as error:
            self._note(error, is_final(error))
            return False
        if prepared is None:
            return False
        await self._ship(prepared)
        return True

    async def _wait_for_work(self) -> None:
        if self._streak > 1:
            await trio.sleep(min(LONGEST_PAUSE_S, 0.05 * 2 ** min(self._streak, 8)))
        while True:
            now = trio.current_time()
            if self._packer.is_ready(self.name, now) or now >= self._sync_due():
                return
            self._wake = trio.Event()
            self._wakes_at = min(self._packer.next_due(), self._sync_due()) + 0.001
            with trio.move_on_at(self._wakes_at):
                await self._wake.wait()
            self._wakes_at = 0.0

    def _sync_due(self) -> float:
        if self.chain is None or not self.chain.unasked:
            return NEVER
        return 0.0 if self._sync_wanted else self._last_append_at + SYNC_IDLE_S

    async def _prepare(self) -> Prepared | None:
        """Chunk, connection, ticket, and then at one go the parcel and its place."""
        chain = await self._chain_with_room()
        connection = await self._connection(chain)
        if connection is None:
            return None
        ticket = await self._tickets.append(chain.grant.chunk)
        if self.chain is not chain or chain.retired or connection.closed:
            return None  # lost while we waited: start again
        return self._take(Prepared(chain, connection, ticket))

    async def _connection(self, chain: Chain) -> Connection | None:
        first = chain.grant.places[0]
        try:
            return await self._clients.connection(first, chain.purpose)
        except CloudVergeError as error:
            if blames_server(error):
                chain.failed_server = first.server
            self._break(chain, error)
            return None

    async def _chain_with_room(self) -> Chain:
        chain = self.chain
        if chain is not None and (chain.retired or chain.is_full_with()):
            self.chain = None
            self._retire(chain)
        if self.chain is None:
            self.chain = await self._new_chain()
        return self.chain

    async def _new_chain(self) -> Chain:
        try:
            return Chain(await self._yard.take(), self.name)
        except NoRoom:
            chain = self._borrow()
            if chain is None or chain.retired or chain.is_full_with():
                raise
            return chain

    def _retire(self, chain: Chain) -> None:
        if not chain.retired:  # the other lane may have done it
            self._yard.retire(chain)

    def _take(self, prepared: Prepared) -> Prepared | None:
        chain, now = prepared.chain, trio.current_time()
        limit = max(SLOWEST_PARCEL_BYTES, int(self._bytes_per_s * PARCEL_TIME_S))
        parcel = self._packer.fill(self.name, min(limit, chain.room), now)
        if parcel is not None:
            prepared.body = self._load(parcel)
            if not parcel.items:
                parcel = None  # its bytes could not be had
        if parcel is None and not chain.unasked:
            return None
        prepared.parcel = parcel
        prepared.sync = parcel is None or self._wants_sync(chain, parcel, now)
        if prepared.sync:
            self._sync_wanted = False
        prepared.offset = chain.begin(parcel, prepared.sync)
        prepared.body = joined(prepared.body)
        self._last_append_at = now
        return prepared

    def _wants_sync(self, chain: Chain, parcel: Parcel, now: float) -> bool:
        if self._sync_wanted or parcel.hurried or chain.is_full_with(parcel.length):
            return True
        if chain.unasked + parcel.length >= self._sync_bytes:
            return True
        return self.name is LaneName.SMALL and not self._packer.is_ready(self.name, now)

    async def _ship(self, prepared: Prepared) -> None:
        chain, sent_at = prepared.chain, trio.current_time()
        try:
            await chain.append(
                prepared.connection, prepared.ticket, prepared.offset, prepared.body, prepared.sync
            )
        except CloudVergeError as error:
            self._break(chain, error)
            return
        except BaseException:  # given up half way: what became of it is not known
            self._break(chain, Unavailable(Code.TIMEOUT, "an append was given up"))
            raise
        if prepared.parcel is not None:
            self._measure(prepared.parcel.length, sent_at)
        prepared.body = []
        self._arrive(chain)

    def _measure(self, length: int, sent_at: float) -> None:
        now = trio.current_time()
        rate = length / max(1e-4, now - max(sent_at, self._last_ack_at))
        self._last_ack_at = now
        if length >= SLOWEST_PARCEL_BYTES:
            self._bytes_per_s += 0.3 * (min(rate, 1e9) - self._bytes_per_s)

    def _arrive(self, chain: Chain) -> None:
        if chain.broken is not None:
            return
        files: dict[DirtyFile, None] = {}
        for parcel in chain.arrived():
            for file, places in landings(parcel):
                file.land(parcel.flight, chain.grant.chunk, places)
                files[file] = None
            self.progress += parcel.length
        if files:
            self._streak = 0
            self._settle(files)
        if chain.retired and not chain.parcels:
            self._yard.poke()

    # --- failure ----------------------------------------------------------------------------------------

    def _break(self, chain: Chain, error: CloudVergeError) -> None:
        if chain.broken is not None:
            return
        log.info("append failed", lane=self.name, chunk=chain.grant.chunk, error=str(error))
        if chain.failed_server:
            self._yard.blame(chain.failed_server)  # type: ignore[arg-type]
        if error.code == Code.UNAUTHORIZED:
            self._tickets.expire()
            self._clients.distrust(chain.grant.places[0].server)
        if error.code == Code.TIMEOUT:
            self._bytes_per_s = max(SLOWEST_PARCEL_BYTES, self._bytes_per_s / SLOWER)
        if self.chain is chain:
            self.chain = None
        self.ground(chain, error)
        self._yard.retire(chain)
        self._note(error, isinstance(error, NoRoom) and self._streak >= FULL_TRIES)

    def ground(self, chain: Chain, error: CloudVergeError) -> None:
        """Give the chain up: what of it is not durable is unsent again."""
        for parcel in chain.abandon(error):
            for file, taken in parcel.items:
                file.ground(parcel.flight, [(start, end) for start, end, _ in taken])
                self._packer.retry(file)

    def _note(self, error: CloudVergeError, is_refusal: bool) -> None:
        self.refusals += is_refusal
        self._streak += 1
        self.last_error = error
        if self._streak == STALL_TRIES:
            log.warning("uploading does not get on", lane=self.name, reason=error.message)
        self._trouble()
        self.wake()


def is_final(error: CloudVergeError) -> bool:
    """Whether nothing will change soon (a fenced session is opened again, commits make room in the quota)."""
    return isinstance(error, NoRoom | Denied) and error.code not in PASSING
