"""Chunk tickets, fetched ahead of need: a read ticket for each server, an append ticket for each open chunk.

A server is shown nothing that would be of use on another: its read ticket also introduces us to it (HELLO). In a
session that is confined to a sub-tree that is all it does; bytes are read with range tickets (``rangebook``).

A ticket is used for at most ``USABLE`` of its life and refreshed in the background from half of it on, so
the paths of reads and appends wait for one only at the very first use or after a long pause.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import structlog
import trio

from cloudverge_mount.metaclient import MetaClient
from cloudverge_protocol.errors import CloudVergeError, Code, Denied, Unavailable
from cloudverge_protocol.ids import ChunkId, Epoch, Incarnation, ServerId, SessionId, SpaceId
from cloudverge_protocol.messages import ChunkGrant, Tickets

log = structlog.get_logger(__name__)

LIFE_S = 60.0  # of a ticket that came with a grant
USABLE = 0.85
LOOK_EVERY_S = 5.0
IDLE_AFTER_S = 120.0


class Rights(Protocol):
    """What the session lets us do, as it is now."""

    @property
    def space(self) -> SpaceId: ...
    @property
    def session(self) -> SessionId: ...
    @property
    def incarnation(self) -> Incarnation: ...
    @property
    def lease_epoch(self) -> Epoch: ...
    @property
    def confined(self) -> bool: ...


class _Held(NamedTuple):
    ticket: str
    asked_at: float
    life_s: float

    def is_usable(self, now: float, left_s: float = 0.0) -> bool:
        return now < self.asked_at + min(self.life_s * USABLE, self.life_s - left_s)

    def is_young(self, now: float) -> bool:
        return now < self.asked_at + self.life_s / 2


class TicketBook:
    """Tickets by use. ``clock`` is the loop's."""

    def __init__(
        self, meta: MetaClient, rights: Rights, clock: Callable[[], float] = trio.current_time
    ) -> None:
        self._meta = meta
        self._rights = rights
        self._clock = clock
        self._read: dict[ServerId, _Held] = {}
        self._append: dict[ChunkId, _Held] = {}
        self._fetching = trio.Lock()
        self._last_use = 0.0

    def hold(self, grant: ChunkGrant, asked_at: float) -> None:
        """Keep the ticket that came with a grant, and keep it fresh."""
        self._append[grant.chunk] = _Held(grant.ticket, asked_at, LIFE_S)

    def let_go(self, chunk: ChunkId) -> None:
        """No further append to ``chunk``."""
        self._append.pop(chunk, None)

    def expire(self) -> None:
        """A server did not believe us: fetch fresh tickets before the next use."""
        self._read = {server: held._replace(life_s=0.0) for server, held in self._read.items()}
        self._append = {chunk: held._replace(life_s=0.0) for chunk, held in self._append.items()}

    def reset(self) -> None:
        """The session was opened again: nothing of before holds."""
        self._read.clear()
        self._append.clear()

    async def read(self, server: ServerId, *, left_s: float = 0.0) -> str:
        """A ticket to read the space's chunks on ``server``, which lives for ``left_s`` at least."""
        now = self._last_use = self._clock()
        held = self._read.get(server)
        if held is None or not held.is_usable(now, left_s):
            self._read.setdefault(server, _Held("", now, 0.0))
            await self._refresh(lambda: self._is_readable(server, left_s))
            held = self._read.get(server)
            if held is None or not held.is_usable(self._clock()):
                raise Unavailable(Code.UNAVAILABLE, f"the metaserver gave no ticket for chunkserver {server}")
        return held.ticket

    def _is_readable(self, server: ServerId, left_s: float) -> bool:
        held = self._read.get(server)
        return held is not None and held.is_usable(self._clock(), left_s)

    async def append(self, chunk: ChunkId) -> str:
        """A ticket to append to our open ``chunk``. Raises Denied(FENCED) if it is not ours any more."""
        now = self._last_use = self._clock()
        held = self._append.get(chunk)
        if held is not None and held.is_usable(now):
            return held.ticket
        await self._refresh(lambda: self._is_usable(chunk))
        held = self._append.get(chunk)
        if held is None or not held.is_usable(self._clock()):
            raise Denied(Code.FENCED, f"the right to append to chunk {chunk} has ended")
        return held.ticket

    def _is_usable(self, chunk: ChunkId) -> bool:
        held = self._append.get(chunk)
        return held is not None and held.is_usable(self._clock())

    async def _refresh(self, is_done: Callable[[], bool]) -> None:
        async with self._fetching:
            if is_done():
                return
            asked_at, rights = self._clock(), self._rights
            chunks, servers = tuple(self._append), tuple(self._read)
            incarnation = rights.incarnation
            reply = await self._meta.tickets(
                Tickets(rights.space, rights.session, incarnation, rights.lease_epoch, chunks, servers)
            )
            if incarnation != rights.incarnation:
                return
            for server, ticket in reply.read:
                self._read[server] = _Held(ticket, asked_at, reply.life_s)
            for chunk, ticket in reply.append:
                if chunk in self._append:
                    self._append[chunk] = _Held(ticket, asked_at, reply.life_s)

    def _is_due(self, now: float) -> bool:
        if any(not held.is_young(now) for held in self._append.values()):
            return True
        in_use = now < self._last_use + IDLE_AFTER_S
        return in_use and any(not held.is_young(now) for held in self._read.values())

    async def run(self) -> None:
        """Refresh ahead, for ever."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            if not self._is_due(self._clock()):
                continue
            try:
                await self._refresh(lambda: not self._is_due(self._clock()))
            except CloudVergeError as error:
                log.info("tickets could not be refreshed", error=str(error))
