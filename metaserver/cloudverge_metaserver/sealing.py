"""Sealing chunks: CHUNK_SEAL, and those whose writer is gone.

Three steps. (1) Under the space's lock the chunk's epoch is raised and ``sealing`` set: from now on no append
right is given out. (2) Every replica is told to stop and answers what it can prove. (3) Under the lock again, what
``sealplan`` decides is written down, and only then are the members told their seal. A process that dies in
between leaves a chunk that housekeeping seals again; a replica that was told nothing is told later.

What the writer is told is the durable length: the seal if all R replicas reach it, otherwise D, because bytes
above D lie on fewer than R servers until repair has copied them, and the writer still has them.

Two sealers of one chunk (two metaservers) do no harm: the one whose epoch has been raised by the other gives way.
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import structlog

from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.admission import admit, check_writer
from cloudverge_metaserver.chunkrows import load_chunks
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.durability import ChunkFacts, ChunkState, count_receipts
from cloudverge_metaserver.links import Links
from cloudverge_metaserver.rows import Connection
from cloudverge_metaserver.sealplan import SealPlan, plan_seal
from cloudverge_metaserver.tickets import TicketDesk
from cloudverge_metaserver.writeback import Writing, write_receipts
from cloudverge_protocol.errors import ChunkFault, CloudVergeError, Code, Unavailable
from cloudverge_protocol.ids import ChunkId, Epoch, ServerId, SessionId, SpaceId
from cloudverge_protocol.messages import (
    ChunkSeal,
    ChunkSealed,
    FrameType,
    Place,
    Receipt,
    ReplicaSeal,
    ReplicaState,
)

_log = structlog.get_logger("cloudverge.metaserver")

_RAISE: Final = """
    update meta.chunks set sealing = true, epoch = epoch + 1, tried_at = clock_timestamp(),
        durable_length = greatest(durable_length, $2)
    where chunk = $1 returning epoch
"""
_PLACES: Final = """
    select r.server, s.host, s.frame_port from meta.replicas r join meta.servers s on s.server = r.server
    where r.chunk = $1 and r.state in (1, 2, 3, 4) order by r.position
"""
_SEALED: Final = """
    update meta.chunks set state = 2, sealed_length = $2, sealing = false,
        durable_length = case when $3 >= wanted_replicas then $2 else greatest(durable_length, committed_end) end,
        sealed_at = clock_timestamp(), idle_since = clock_timestamp()
    where chunk = $1 returning durable_length
"""
_DAMAGED: Final = "update meta.chunks set state = 3 where chunk = $1"
_MEMBERS: Final = """
    update meta.replicas set state = case when server = any($2::bigint[]) then 3 else 5 end,
        changed_at = clock_timestamp() where chunk = $1 and state in (1, 2, 3, 4)
"""
_TOLD: Final = """
    update meta.replicas set state = 2, changed_at = clock_timestamp()
    where chunk = $1 and server = any($2::bigint[]) and state = 3
"""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A chunk whose appends are being stopped."""

    epoch: Epoch
    places: tuple[Place, ...]


def no_chunk(chunk: ChunkId) -> ChunkFault:
    """The one answer for a chunk that is not the caller's, whether it exists or not."""
    return ChunkFault(Code.NO_CHUNK, "there is no such chunk of this session")


class Sealer:
    """Seals one chunk at a time, each by one task only."""

    def __init__(self, database: Database, links: Links, desk: TicketDesk) -> None:
        self._database, self._links, self._desk = database, links, desk
        self._locks: dict[ChunkId, asyncio.Lock] = {}

    # --- for a mount ------------------------------------------------------------------------------------

    async def seal_own(self, identity: Identity, message: ChunkSeal) -> ChunkSealed:
        """A mount ends the appending to a chunk of its session."""
        check_writer(identity)
        async with self._alone_with(message.chunk):
            async with self._database.on_space(identity.space) as connection:
                await admit(connection, identity, message.session, message.incarnation, message.lease_epoch)
                facts = await self._facts(connection, identity.space, message.chunk, message.session)
                if facts.state == ChunkState.SEALED:
                    return ChunkSealed(facts.durable, False)
                begun = await self._begin(connection, identity.space, facts, message.receipts)
            return await self._finish(identity.space, message.chunk, begun)

    # --- for housekeeping -------------------------------------------------------------------------------

    async def seal(self, space: SpaceId, chunk: ChunkId) -> ChunkSealed | None:
        """Seal a chunk whose writer will not; None if that has been done, or it is gone."""
        async with self._alone_with(chunk):
            async with self._database.on_space(space) as connection:
                facts = (await load_chunks(connection, space, (chunk,))).get(chunk)
                if facts is None or facts.state in (ChunkState.SEALED, ChunkState.DELETED):
                    return None
                begun = await self._begin(connection, space, facts, ())
            return await self._finish(space, chunk, begun)

    # --- the steps --------------------------------------------------------------------------------------

    def _alone_with(self, chunk: ChunkId) -> asyncio.Lock:
        if len(self._locks) > 4096:
            self._locks = {known: lock for known, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault(chunk, asyncio.Lock())

    async def _facts(
        self, connection: Connection, space: SpaceId, chunk: ChunkId, session: SessionId
    ) -> ChunkFacts:
        facts = (await load_chunks(connection, space, (chunk,))).get(chunk)
        if facts is None or facts.session != session or facts.state == ChunkState.DELETED:
            raise no_chunk(chunk)
        return facts

    async def _begin(
        self, connection: Connection, space: SpaceId, facts: ChunkFacts, receipts: Iterable[Receipt]
    ) -> _Begun:
        counted = count_receipts({facts.chunk: facts}, receipts)
        writing = Writing(space)
        write_receipts(writing, counted)
        await writing.run(connection)
        epoch = await connection.fetchval(_RAISE, facts.chunk, facts.durable)
        rows = await connection.fetch(_PLACES, facts.chunk)
        return _Begun(epoch, tuple(Place(ServerId(r["server"]), r["host"], r["frame_port"]) for r in rows))

    async def _finish(self, space: SpaceId, chunk: ChunkId, begun: _Begun) -> ChunkSealed:
        answers = await asyncio.gather(*(self.stop(place, chunk, begun.epoch) for place in begun.places))
        verified = {
            place.server: None if state is None else state.length
            for place, state in zip(begun.places, answers, strict=True)
        }
        damaged = {
            place.server
            for place, state in zip(begun.places, answers, strict=True)
            if state is not None and state.state == "DAMAGED"
        }
        async with self._database.on_space(space) as connection:
            facts = (await load_chunks(connection, space, (chunk,))).get(chunk)
            if facts is None or facts.state == ChunkState.DELETED:
                raise no_chunk(chunk)
            if facts.state == ChunkState.SEALED:
                return ChunkSealed(facts.durable, False)
            if facts.epoch != begun.epoch:
                raise Unavailable(Code.UNAVAILABLE, f"chunk {chunk} is being sealed by another server")
            plan = plan_seal(facts.durable, facts.committed_end, verified, damaged)
            durable = await self._record(connection, chunk, plan)
        if plan.damaged or plan.dropped:
            _log.warning(
                "replicas missing at seal",
                chunk=chunk,
                length=plan.length,
                members=plan.members,
                dropped=plan.dropped,
                damaged=plan.damaged,
            )
        await self.tell(
            chunk, begun.epoch, plan.length, [p for p in begun.places if p.server in plan.members]
        )
        return ChunkSealed(durable, plan.damaged)

    async def _record(self, connection: Connection, chunk: ChunkId, plan: SealPlan) -> int:
        """Write the decision down; returns the durable length."""
        if plan.damaged:
            await connection.execute(_DAMAGED, chunk)
            return plan.length
        durable = await connection.fetchval(_SEALED, chunk, plan.length, len(plan.members))
        await connection.execute(_MEMBERS, chunk, list(plan.members))
        return int(durable)

    async def stop(self, place: Place, chunk: ChunkId, epoch: Epoch) -> ReplicaState | None:
        """Stop appends on one server; what it can prove to have, or None if it cannot be asked."""
        return await self._say(place, chunk, epoch, -1)

    async def tell(self, chunk: ChunkId, epoch: Epoch, length: int, places: list[Place]) -> list[ServerId]:
        """Tell members their seal and note those that confirm it; the others are told again later."""
        answers = await asyncio.gather(*(self._say(place, chunk, epoch, length) for place in places))
        told = [
            place.server
            for place, state in zip(places, answers, strict=True)
            if state is not None and confirms(state, length)
        ]
        if told:
            async with self._database.connection() as connection:
                await connection.execute(_TOLD, chunk, told)
        return told

    async def _say(self, place: Place, chunk: ChunkId, epoch: Epoch, length: int) -> ReplicaState | None:
        ticket = self._desk.control(place.server, time.time())
        try:
            return await self._links.call(
                place, FrameType.REPLICA_SEAL, ReplicaSeal(ticket, chunk, epoch, length), ReplicaState
            )
        except CloudVergeError as error:
            _log.info("replica not reached", chunk=chunk, place=place, reason=error.message)
            return None


def confirms(state: ReplicaState, length: int) -> bool:
    """Whether a replica in this state holds all of a chunk sealed at ``length``."""
    if length == 0:
        return True
    return state.state == "SEALED" and state.length >= length
