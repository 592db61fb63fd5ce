"""Where chunks to append to come from and where they go: allocation ahead of need, sealing, and their end.

One spare granted chunk is kept ready, so that allocation is on nobody's path. Servers that failed an append
are avoided for a while, in the allocations and in the spare. A retired chunk (full, broken or never used) is
sealed with the receipts we hold, in the background and for as long as it takes; when it is sealed and no byte
in it waits to be entered, ``chunk_done`` ends our pin on it.

A session that was opened again has a new incarnation: everything of the old one is forgotten, never appended to
and never sealed by us (closing the old incarnation does it).
"""

from collections.abc import Callable

import structlog
import trio

from cloudverge_mount.chain import Chain
from cloudverge_mount.metaclient import MetaClient
from cloudverge_mount.ticketbook import Rights, TicketBook
from cloudverge_protocol.errors import CloudVergeError, Code, Denied, NoRoom, Unavailable
from cloudverge_protocol.ids import ChunkId, ServerId
from cloudverge_protocol.messages import ChunkAllocate, ChunkGrant, ChunkSeal

log = structlog.get_logger(__name__)

AVOID_S = 30.0
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
GIVE_UP = {Code.FENCED, Code.NO_CHUNK, Code.NOT_YOURS, Code.SEALED}


class ChunkYard:
    """Grants out, chains back in."""

    def __init__(
        self,
        meta: MetaClient,
        rights: Rights,
        tickets: TicketBook,
        *,
        is_named: Callable[[ChunkId], bool],
        done: Callable[[ChunkId], None],
        short: Callable[[ChunkId], None],
    ) -> None:
        self._meta = meta
        self._rights = rights
        self._tickets = tickets
        self._is_named = is_named  # whether a landed byte in the chunk waits to be entered
        self._done = done
        self._short = short  # a sealed chunk lacks bytes that were durable
        self._spares: list[ChunkGrant] = []
        self._avoid: dict[ServerId, float] = {}
        self._retired: dict[ChunkId, Chain] = {}
        self._allocating = trio.Lock()
        self._wanted = trio.Event()
        self._to_seal = trio.Event()

    # --- grants -----------------------------------------------------------------------------------------

    async def take(self) -> ChunkGrant:
        """A chunk to append to. Raises NoRoom, Denied or Unavailable."""
        grant = self._pop_spare()
        if grant is None:
            async with self._allocating:
                grant = self._pop_spare() or await self._allocate()
        self.want()
        return grant

    def want(self) -> None:
        """Let a spare be fetched if there is none."""
        if not self._spares:
            self._wanted.set()

    def blame(self, server: ServerId) -> None:
        """This server just failed an append."""
        self._avoid[server] = trio.current_time() + AVOID_S

    def _avoided(self) -> tuple[ServerId, ...]:
        now = trio.current_time()
        self._avoid = {server: until for server, until in self._avoid.items() if until > now}
        return tuple(self._avoid)

    def _pop_spare(self) -> ChunkGrant | None:
        avoided = set(self._avoided())
        while self._spares:
            grant = self._spares.pop(0)
            if not avoided.intersection(place.server for place in grant.places):
                return grant
            self.retire(Chain(grant))
        return None

    async def _allocate(self) -> ChunkGrant:
        avoid = self._avoided()
        try:
            return await self._ask(avoid)
        except (NoRoom, Unavailable):
            if not avoid:
                raise
        return await self._ask(())  # better one that failed a moment ago than none

    async def _ask(self, avoid: tuple[ServerId, ...]) -> ChunkGrant:
        rights, asked_at = self._rights, trio.current_time()
        incarnation = rights.incarnation
        request = ChunkAllocate(rights.session, incarnation, rights.lease_epoch, 1, avoid)
        reply = await self._meta.allocate(request)
        if incarnation != rights.incarnation:
            raise Unavailable(Code.UNAVAILABLE, "the session was opened again meanwhile")
        if not reply.grants:
            raise NoRoom(Code.NO_SPACE, "no chunkserver has room for another chunk")
        grant = reply.grants[0]
        self._tickets.hold(grant, asked_at)
        return grant

    async def keep_spares(self) -> None:
        """Fetch a spare whenever one is wanted, for ever."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            if self._spares:
                continue
            try:
                async with self._allocating:
                    if not self._spares:
                        self._spares.append(await self._allocate())
            except CloudVergeError as error:
                log.info("no spare chunk", error=str(error))
                await trio.sleep(1.0)

    # --- retired chunks ---------------------------------------------------------------------------------

    def retire(self, chain: Chain) -> None:
        """Nothing more will be appended to this chunk."""
        chain.retired = True
        self._retired[chain.grant.chunk] = chain
        self._to_seal.set()

    def proofs(self, chunk: ChunkId) -> Chain | None:
        """The retired chain of ``chunk``, for its receipts."""
        return self._retired.get(chunk)

    def look_for_done(self) -> None:
        """End the pins of sealed chunks that no byte waits in."""
        for chunk, chain in list(self._retired.items()):
            if chain.sealed and not chain.parcels and not self._is_named(chunk):
                del self._retired[chunk]
                self._done(chunk)

    async def seal_retired(self) -> None:
        """Seal what was retired, for ever, with patience."""
        pause_s = FIRST_PAUSE_S
        while True:
            ripe = [chain for chain in self._retired.values() if _is_ripe(chain)]
            if not ripe:
                pause_s = FIRST_PAUSE_S
                await self._to_seal.wait()
                self._to_seal = trio.Event()
                continue
            if await self._seal(ripe[0]):
                pause_s = FIRST_PAUSE_S
                self.look_for_done()
            else:
                await trio.sleep(pause_s)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    def poke(self) -> None:
        """A retired chain may have become durable to its end."""
        self._to_seal.set()

    async def _seal(self, chain: Chain) -> bool:
        rights, chunk = self._rights, chain.grant.chunk
        request = ChunkSeal(rights.session, rights.incarnation, rights.lease_epoch, chunk, chain.receipts)
        try:
            sealed = await self._meta.seal(request)
        except CloudVergeError as error:
            log.info("chunk not sealed yet", chunk=chunk, error=str(error))
            if chunk not in self._retired:
                return True
            if isinstance(error, Denied) or error.code in GIVE_UP:
                self._close(chain)
                return True
            return False
        if sealed.damaged or sealed.length < chain.durable:
            log.warning("sealed chunk is short of its durable length", chunk=chunk, length=sealed.length)
            self._short(chunk)
        self._close(chain)
        return True

    def _close(self, chain: Chain) -> None:
        chain.sealed = True
        self._tickets.let_go(chain.grant.chunk)

    def rest(self) -> None:
        """Give the spare up, and with it the room kept for it on the servers."""
        while self._spares:
            self.retire(Chain(self._spares.pop()))

    def reset(self) -> list[Chain]:
        """The session was opened again: forget the chunks of the old incarnation; the chains among them."""
        chains = list(self._retired.values())
        self._spares.clear()
        self._retired.clear()
        return chains


def _is_ripe(chain: Chain) -> bool:
    """Whether sealing is next: nothing of it is under way any more."""
    return not chain.sealed and (chain.broken is not None or not chain.parcels)
