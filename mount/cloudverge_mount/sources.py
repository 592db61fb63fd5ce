"""Reading a range of a chunk from whichever replica answers first and rightly.

The replica with the lowest expected wait is asked first. One that fails, answers bad bytes or lacks the chunk is
passed over for the next; one that is late is raced by a second request (hedged). Bad and missing replicas are
reported to the metaserver and noted for ``cv status``; a report only makes the server verify for itself.

Invariant: bytes returned match the CRCs sent with them, block by block, checked here. When no replica can give
good bytes: DAMAGED if every one of them was asked and is bad, else the error of those that could not be asked,
after ``PATIENCE_S`` of trying.
"""

from collections.abc import Callable, Sequence

import structlog
import trio

from cloudverge_mount.blockcache import Run
from cloudverge_mount.chunkclient import ChunkClients
from cloudverge_mount.locations import Locations
from cloudverge_mount.ticketbook import TicketBook
from cloudverge_protocol.checksum import pieces_match
from cloudverge_protocol.errors import ChunkFault, CloudVergeError, Code, Denied, Unavailable
from cloudverge_protocol.ids import BLOCK_BYTES, ChunkId, ServerId
from cloudverge_protocol.messages import FrameType, Place, Read, ReadReply

log = structlog.get_logger(__name__)

READ_TIMEOUT_S = 4.0  # without progress, of one replica
PATIENCE_S = 10.0  # a read may have waited for a fetch ahead of need before
HEDGE_AT_LEAST_S = 0.04
HEDGE_FACTOR = 4.0
LOOK_EVERY_S = 0.02
HEDGES_PER_READ = 0.1  # so that servers that are slow because of too much work do not get twice as much
HEDGES_AT_ONCE = 4.0
LOOK_FOR_S = 1.0  # the hedger goes on looking so long after the last request
LISTING_WITHIN_S = 2.0
LATENCY_BYTES = 256 * 1024  # a read of this size counts as one latency
AHEAD = "ahead"  # the purpose of reads that nobody waits for: tried once
OF_THE_REPLICA = {Code.DAMAGED, Code.BAD_CHECKSUM, Code.NO_CHUNK}

DamageNote = Callable[[ChunkId, ServerId, str], None]


class _Attempt:
    """A request under way that a hedge may overtake."""

    __slots__ = (
        "chunk", "end", "failed", "hedge_at", "hedged", "need", "purpose", "rest", "result", "scope", "start", "ticket",
    )  # fmt: skip

    def __init__(
        self, chunk: ChunkId, start: int, end: int, need: int, purpose: str, ticket: str = ""
    ) -> None:
        self.ticket = ticket  # for exactly this range; "": whole blocks, with the space's ticket
        self.chunk = chunk
        self.start = start
        self.end = end
        self.need = need
        self.purpose = purpose
        self.rest: Sequence[Place] = ()
        self.hedge_at = 0.0
        self.hedged: trio.Event | None = None
        self.result: Run | None = None
        self.failed: CloudVergeError | None = None  # what became of the hedge
        self.scope = trio.CancelScope()


class Sources:
    """Reads of chunk ranges; ``damage`` is told of every bad replica."""

    def __init__(
        self, locations: Locations, clients: ChunkClients, tickets: TicketBook, damage: DamageNote
    ) -> None:
        self._locations = locations
        self._clients = clients
        self._tickets = tickets
        self._damage = damage
        self._under_way: set[_Attempt] = set()
        self._hedges_left = HEDGES_AT_ONCE
        self._looking_until = 0.0
        self._look = trio.Event()

    async def read(self, chunk: ChunkId, start: int, end: int, need: int, purpose: str) -> Run:
        """The blocks of [start, end) of ``chunk``, as far as they exist but at least up to ``need``."""
        deadline = trio.current_time() + PATIENCE_S
        places = await self._locations.of(chunk)
        pause_s = 0.1
        while True:
            run, errors = await self._try_each(places, chunk, start, end, need, purpose)
            if run is not None:
                return run
            if trio.current_time() + pause_s > deadline or purpose == AHEAD:
                raise _worst(errors)
            bad = all(error.code in OF_THE_REPLICA for error in errors)
            if bad and pause_s > 0.1:
                raise _worst(errors)  # asked again after looking for other places: still bad
            await trio.sleep(pause_s)
            pause_s = min(1.0, pause_s * 2)
            places = await self._places_again(chunk, places)

    async def read_exactly(
        self, chunk: ChunkId, start: int, end: int, ticket: str, places: Sequence[Place]
    ) -> memoryview:
        """The bytes [start, end) of ``chunk``, by a range ticket that covers them."""
        run, errors = await self._try_each(places, chunk, start, end, end, "exact", ticket)
        if run is None:
            raise next((error for error in errors if error.code == Code.UNAUTHORIZED), None) or _worst(errors)
        return run.data

    async def _places_again(self, chunk: ChunkId, before: tuple[Place, ...]) -> tuple[Place, ...]:
        try:
            return await self._locations.ask(chunk)
        except Unavailable:
            return before

    async def _try_each(
        self,
        places: Sequence[Place],
        chunk: ChunkId,
        start: int,
        end: int,
        need: int,
        purpose: str,
        ticket: str = "",
    ) -> tuple[Run | None, list[CloudVergeError]]:
        now = trio.current_time()
        errors: list[CloudVergeError] = []
        ordered = sorted(places, key=lambda place: self._clients.standing(place.server).cost(now))
        while ordered:
            attempt = _Attempt(chunk, start, end, need, purpose, ticket)
            place = ordered.pop(0)
            attempt.rest = ordered
            try:
                return await self._hedged(attempt, place), errors
            except CloudVergeError as error:
                errors.append(error)
            if attempt.failed is not None:
                errors.append(attempt.failed)
                ordered.pop(0)
        return None, errors or [Unavailable(Code.UNREACHABLE, f"chunk {chunk} has no replica")]

    async def _hedged(self, attempt: _Attempt, place: Place) -> Run:
        """Ask ``place``; while it is late another replica may be asked too, and the first good answer counts."""
        now = trio.current_time()
        standing, shares = self._clients.standing(place.server), _shares(attempt.end - attempt.start)
        late = max(HEDGE_AT_LEAST_S, HEDGE_FACTOR * standing.expected_s(now) * shares)
        attempt.hedge_at = now + late
        if attempt.rest:
            self._hedges_left = min(HEDGES_AT_ONCE, self._hedges_left + HEDGES_PER_READ)
            self._under_way.add(attempt)
            self._looking_until = now + LOOK_FOR_S
            if not self._look.is_set():
                self._look.set()
        try:
            with attempt.scope:
                return await self._ask(attempt, place)
        except CloudVergeError:
            if attempt.hedged is not None:
                await attempt.hedged.wait()
            if attempt.result is None:
                raise
        finally:
            self._under_way.discard(attempt)
        if attempt.result is None:
            raise Unavailable(Code.TIMEOUT, f"chunk {attempt.chunk}: no replica answered")
        overtaken_at = trio.current_time()
        standing.answered((overtaken_at - now) / shares, overtaken_at)
        return attempt.result

    async def hedge(self, nursery: trio.Nursery) -> None:
        """Watch over requests under way, for ever."""
        while True:
            if trio.current_time() > self._looking_until and not self._under_way:
                self._look = trio.Event()
                await self._look.wait()
            await trio.sleep(LOOK_EVERY_S)
            now = trio.current_time()
            for attempt in [a for a in self._under_way if a.hedged is None and now > a.hedge_at]:
                if self._hedges_left < 1.0:
                    break
                self._hedges_left -= 1.0
                attempt.hedged = trio.Event()
                nursery.start_soon(self._overtake, attempt, attempt.hedged)

    async def _overtake(self, attempt: _Attempt, done: trio.Event) -> None:
        try:
            run = await self._ask(attempt, attempt.rest[0])
            if attempt.result is None:
                attempt.result = run
                attempt.scope.cancel()
        except CloudVergeError as error:
            attempt.failed = error
        except Exception as error:
            log.error("a hedged read failed", chunk=attempt.chunk, exc_info=error)
        finally:
            done.set()

    # --- one request ------------------------------------------------------------------------------------

    async def _ask(self, attempt: _Attempt, place: Place) -> Run:
        standing, started = self._clients.standing(place.server), trio.current_time()
        standing.in_flight += 1
        try:
            run = await self._ask_twice(attempt, place)
        except CloudVergeError as error:
            if isinstance(error, Unavailable):
                standing.failed_at = trio.current_time()
            if (
                error.code in OF_THE_REPLICA
                and not attempt.ticket
                and attempt.need > attempt.start
                and (error.code != Code.NO_CHUNK or await self._is_listed(attempt.chunk, place))
            ):
                self._blame(attempt, place, error)
            raise
        finally:
            standing.in_flight -= 1
        now = trio.current_time()
        standing.answered((now - started) / _shares(len(run.data)), now)
        return run

    async def _is_listed(self, chunk: ChunkId, place: Place) -> bool:
        """Whether the server should have the chunk, or only had it when we last asked."""
        with trio.move_on_after(LISTING_WITHIN_S):
            try:
                places = await self._locations.ask(chunk)
            except CloudVergeError:
                return False
            return any(each.server == place.server for each in places)
        return False

    async def _ask_twice(self, attempt: _Attempt, place: Place) -> Run:
        """Once more with fresh tickets if the server did not believe the first."""
        try:
            return await self._ask_once(attempt, place)
        except Denied as error:
            if error.code != Code.UNAUTHORIZED:
                raise
            self._tickets.expire()
            self._clients.distrust(place.server)
            if attempt.ticket:
                raise  # who gave it has to ask for another
        return await self._ask_once(attempt, place)

    async def _ask_once(self, attempt: _Attempt, place: Place) -> Run:
        connection = await self._clients.connection(place, attempt.purpose)
        ticket = attempt.ticket or await self._tickets.read(place.server)
        request = Read(ticket, attempt.chunk, attempt.start, attempt.end - attempt.start)
        reply, body = await connection.call(FrameType.READ, request, timeout_s=READ_TIMEOUT_S)
        assert isinstance(reply, ReadReply)
        if attempt.ticket:
            return exact(attempt.chunk, attempt.start, attempt.end, reply, body)
        return verified(attempt.chunk, attempt.start, attempt.need, reply, body)

    def _blame(self, attempt: _Attempt, place: Place, error: CloudVergeError) -> None:
        log.warning(
            "a replica gave no good bytes, reading from another",
            chunk=attempt.chunk,
            server=place.server,
            offset=attempt.start,
            reason=str(error),
        )
        self._damage(attempt.chunk, place.server, error.message)


def verified(chunk: ChunkId, start: int, need: int, reply: ReadReply, body: memoryview) -> Run:
    """The run in a reply, if every block matches its CRC and it covers [start, need); else a ChunkFault."""
    if reply.start % BLOCK_BYTES or reply.start > start:
        raise ChunkFault(
            Code.BAD_CHECKSUM, f"chunk {chunk}: a range starting at {reply.start} came for {start}"
        )
    if not pieces_match(body, reply.start, list(reply.crcs)):
        raise ChunkFault(Code.BAD_CHECKSUM, f"chunk {chunk}: bytes from {reply.start} fail their checksum")
    if reply.start + len(body) < need:
        end = reply.start + len(body)
        raise ChunkFault(Code.DAMAGED, f"chunk {chunk}: a replica ends at {end}, bytes up to {need} exist")
    return Run(chunk, reply.start, body)


def exact(chunk: ChunkId, start: int, end: int, reply: ReadReply, body: memoryview) -> Run:
    """The bytes in a reply to a range ticket, if they are those asked for and match their CRCs."""
    if reply.start != start or len(body) != end - start or not pieces_match(body, start, list(reply.crcs)):
        raise ChunkFault(Code.BAD_CHECKSUM, f"chunk {chunk}: bytes from {start} fail their checksum")
    return Run(chunk, start, body)


def _shares(length: int) -> float:
    """How many reads of usual size one of ``length`` bytes counts for."""
    return max(1.0, length / LATENCY_BYTES)


def _worst(errors: Sequence[CloudVergeError]) -> CloudVergeError:
    """What to tell the reader: trouble that may pass before damage, damage before the rest."""
    for error in errors:
        if isinstance(error, Unavailable):
            return error
    for error in errors:
        if error.code in (Code.DAMAGED, Code.BAD_CHECKSUM):
            return ChunkFault(Code.DAMAGED, f"no replica has good bytes: {error.message}")
    return errors[0]
