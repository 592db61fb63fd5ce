"""The frame port: which handler answers which request.

Every request is made by a signed-in device on one space; what is asked of another space is answered as if it
did not exist. What one user can have under way is bounded, however many connections he has. Handlers hold no state
between requests but what may be forgotten (``kept``): any metaserver could answer the next one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final
from weakref import WeakValueDictionary

from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.batches import commit_batch
from cloudverge_metaserver.chunks import Chunks
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.feeding import Feeding
from cloudverge_metaserver.kept import KeptSpaces
from cloudverge_metaserver.reading import Reading
from cloudverge_metaserver.sessions import Sessions
from cloudverge_protocol.errors import Code, ProtocolFault
from cloudverge_protocol.ids import UserId
from cloudverge_protocol.messages import (
    Batch,
    BatchReply,
    Empty,
    FrameType,
    IncarnationClose,
    Message,
    SessionOpen,
    SessionRef,
    SessionReply,
)
from cloudverge_wire.peer import Answer, Peer

Handler = Callable[[Identity, Any], Awaitable[Message]]

EMPTY: Final = Empty()
FRAME_BYTES: Final = 2 * 1024 * 1024  # the longest request; a mount's batches have half of it
USER_BYTES: Final = 4 * 1024 * 1024  # of one user's requests under way; decoded they are ten times that
AT_ONCE: Final = 3  # of them are worked on
SEALS_AT_ONCE: Final = 1  # beside those: they wait for chunkservers
RENEWALS_AT_ONCE: Final = 2  # and those: a lease must not run out behind one's own work


def user_of(identity: object) -> UserId:
    """Whose request it is."""
    assert isinstance(identity, Identity)
    return identity.user


class Turns:
    """How many requests of one user are worked on at a time: nobody has all connections to the database."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._of: WeakValueDictionary[UserId, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, user: UserId) -> asyncio.Semaphore:
        """To be held while a request of this user is worked on."""
        turn = self._of.get(user)
        if turn is None:
            turn = self._of[user] = asyncio.Semaphore(self._at_once)
        return turn


class FrameRoutes:
    """Calls the handler of a request as the caller's identity."""

    def __init__(
        self,
        database: Database,
        sessions: Sessions,
        chunks: Chunks,
        reading: Reading,
        check: Callable[[Identity], None] = lambda identity: None,
    ) -> None:
        self._database, self._sessions, self._check = database, sessions, check
        self._kept = KeptSpaces()
        self._turns = Turns(AT_ONCE)
        self._own_turns = {
            FrameType.CHUNK_SEAL: Turns(SEALS_AT_ONCE),
            FrameType.SESSION_RENEW: Turns(RENEWALS_AT_ONCE),
        }
        self.housekeep: Callable[[], None] = lambda: None  # called when there may be something to clear away
        self._handlers: dict[FrameType, Handler] = {
            FrameType.SESSION_OPEN: self._open,
            FrameType.SESSION_RENEW: sessions.renew,
            FrameType.SESSION_CLOSE: self._close,
            FrameType.INCARNATION_CLOSE: self._close_old,
            FrameType.IDS: sessions.ids,
            FrameType.BATCH: self._batch,
            FrameType.TREE: reading.tree,
            FrameType.LOAD: reading.load,
            FrameType.FEED: Feeding(database).feed,
            FrameType.CHUNK_ALLOCATE: chunks.allocate,
            FrameType.CHUNK_LOCATE: chunks.locate,
            FrameType.TICKETS: chunks.tickets,
        }

    def add(self, kind: FrameType, handler: Handler) -> None:
        """One more request that is answered."""
        self._handlers[kind] = handler

    def handle(self, peer: Peer, kind: FrameType, message: Message, body: memoryview) -> Awaitable[Answer]:
        """Answer one request, if the right that the caller came with has not ended since."""
        handler = self._handlers.get(kind)
        if handler is None:
            raise ProtocolFault(Code.BAD_REQUEST, f"a metaserver does not answer {kind.name}")
        assert isinstance(peer.identity, Identity)
        self._check(peer.identity)
        turns = self._own_turns.get(kind, self._turns)
        return _answer(handler, peer.identity, message, turns.of(peer.identity.user))

    async def _batch(self, identity: Identity, message: Batch) -> BatchReply:
        return await commit_batch(self._database, self._kept, identity, message)

    async def _open(self, identity: Identity, message: SessionOpen) -> SessionReply:
        reply = await self._sessions.open(identity, message)
        self.housekeep()  # the chunks of those that were replaced are to be sealed
        return reply

    async def _close(self, identity: Identity, message: SessionRef) -> Empty:
        await self._sessions.close(identity, message)
        self.housekeep()
        return EMPTY

    async def _close_old(self, identity: Identity, message: IncarnationClose) -> Empty:
        await self._sessions.close_old(identity, message)
        self.housekeep()
        return EMPTY


async def _answer(handler: Handler, identity: Identity, message: Message, turn: asyncio.Semaphore) -> Answer:
    async with turn:
        return await handler(identity, message), ()
