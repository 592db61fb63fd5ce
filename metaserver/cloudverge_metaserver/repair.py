"""Bringing sealed chunks back to R good replicas, fewest copies first, a few at a time.

Members that were never told their seal are told; what ``repairplan`` says is done; a replica is given up only
after R others have been read through and found whole over the seal (REPLICA_VERIFY).
"""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final

import structlog

from cloudverge_metaserver.database import Database
from cloudverge_metaserver.durability import ReplicaState
from cloudverge_metaserver.links import Links
from cloudverge_metaserver.placement import ServerState
from cloudverge_metaserver.repairplan import RepairPlan, SealedChunk, by_urgency, is_idle, plan_repair
from cloudverge_metaserver.sealing import Sealer, confirms
from cloudverge_metaserver.servers import Servers
from cloudverge_metaserver.tickets import TicketDesk
from cloudverge_protocol import messages
from cloudverge_protocol.errors import CloudVergeError
from cloudverge_protocol.ids import ServerId
from cloudverge_protocol.messages import FrameType, Place, ReplicaFetch, ReplicaVerified, ReplicaVerify

_log = structlog.get_logger("cloudverge.metaserver")

AT_ONCE: Final = 200
COPIES_AT_ONCE: Final = 2
COPY_WITHIN_S: Final = 120.0

_UNTOLD: Final = """
    select r.chunk, c.epoch, c.sealed_length, r.server, s.host, s.frame_port
    from meta.replicas r join meta.chunks c on c.chunk = r.chunk and c.state = 2
    join meta.servers s on s.server = r.server
    where r.state = 3 and r.server = any($1::bigint[]) and r.changed_at < clock_timestamp() - interval '2 s'
    limit $2
"""
_UNWELL: Final = """
    select chunk from (
        select chunk from meta.replicas where state in (4, 5)
            and (state = 4 or changed_at < clock_timestamp() - $2::float8 * interval '1 s')
        union
        select k.chunk from unnest($1::bigint[]) l(server) cross join lateral (
            select chunk from meta.replicas where server + 0 = l.server and state in (2, 3) limit $3
        ) k
    ) unwell order by random() limit $3
"""
_CHUNKS: Final = """
    select c.chunk, c.space, c.epoch, c.sealed_length, c.wanted_replicas,
        array_agg(r.server) as servers, array_agg(r.state) as states
    from unnest($1::bigint[]) k(chunk)
    join meta.chunks c on c.chunk = k.chunk and c.state = 2
        and (c.tried_at is null or c.tried_at < clock_timestamp() - $2::float8 * interval '1 s')
    join meta.replicas r on r.chunk = c.chunk and r.state <> 6
    group by c.chunk
"""
_TRIED: Final = "update meta.chunks set tried_at = clock_timestamp() where chunk = $1"
_PUT: Final = """
    insert into meta.replicas as r (chunk, server, state, position) values ($1, $2, $3, 100)
    on conflict (chunk, server) do update set state = excluded.state, changed_at = clock_timestamp()
        where r.state <> 6
"""
_WHOLE: Final = """
    update meta.chunks c set durable_length = c.sealed_length where c.chunk = $1 and c.wanted_replicas <= (
        select count(*) from meta.replicas r where r.chunk = c.chunk and r.state = 2)
"""


class Repairer:
    """One pass at a time."""

    def __init__(
        self,
        database: Database,
        servers: Servers,
        links: Links,
        desk: TicketDesk,
        sealer: Sealer,
        settle_s: float,
    ) -> None:
        self._database, self._servers, self._links, self._desk = database, servers, links, desk
        self._sealer = sealer
        self._settle_s = settle_s  # a server that was only restarted is back by then

    async def run(self) -> bool:
        """Do what can be done now; says whether there may be more."""
        rows = await self._servers.all()
        servers = {row.state.server: row.state for row in rows}
        lost = {row.state.server for row in rows if row.lost}
        await self._tell_untold([s.server for s in servers.values() if not s.silent])
        chunks = await self._unwell(lost)
        plans = [
            plan_repair(chunk, servers, lambda s: s in lost or s not in servers, random.random)
            for chunk in chunks
        ]
        plans = by_urgency([plan for plan in plans if not is_idle(plan)])
        limit = asyncio.Semaphore(COPIES_AT_ONCE)
        await asyncio.gather(*(self._limited(limit, plan) for plan in plans))
        return bool(plans)

    async def _tell_untold(self, answering: list[ServerId]) -> None:
        async with self._database.connection() as connection:
            rows = await connection.fetch(_UNTOLD, answering, AT_ONCE)
        for chunk, epoch, length, server, host, port in rows:
            await self._sealer.tell(chunk, epoch, length, [Place(ServerId(server), host, port)])

    async def _unwell(self, lost: set[ServerId]) -> list[SealedChunk]:
        async with self._database.connection() as connection:
            found = await connection.fetch(_UNWELL, list(lost), self._settle_s, AT_ONCE)
            rows = await connection.fetch(_CHUNKS, [row[0] for row in found], self._settle_s)
        return [
            SealedChunk(
                row["chunk"],
                row["space"],
                row["epoch"],
                row["sealed_length"],
                row["wanted_replicas"],
                {s: ReplicaState(state) for s, state in zip(row["servers"], row["states"], strict=True)},
            )
            for row in rows
        ]

    async def _limited(self, limit: asyncio.Semaphore, plan: RepairPlan) -> None:
        async with limit:
            try:
                await self._repair(plan)
            except CloudVergeError as error:
                _log.info("repair put off", chunk=plan.chunk.chunk, reason=error.message)

    async def _repair(self, plan: RepairPlan) -> None:
        chunk = plan.chunk
        async with self._database.connection() as connection:
            await connection.execute(_TRIED, chunk.chunk)
        missing = chunk.wanted - plan.copies
        for server in plan.mend:
            missing -= await self._fetch(chunk, server, plan.sources)
        for server in plan.take_back:
            if missing > 0:
                missing -= await self._take_back(chunk, server)
        for server in plan.copy_to[: max(0, missing)]:
            await self._fetch(chunk, server, plan.sources)
        if plan.surplus:
            await self._drop_surplus(plan)

    async def _take_back(self, chunk: SealedChunk, server: ServerState) -> bool:
        """Whether a stale replica turns out to hold the whole chunk."""
        ticket = self._desk.control(server.server, time.time())
        seal = messages.ReplicaSeal(ticket, chunk.chunk, chunk.epoch, chunk.length)
        state = await self._links.call(server.place, FrameType.REPLICA_SEAL, seal, messages.ReplicaState)
        if not confirms(state, chunk.length):
            return False
        await self._note(chunk, server.server, ReplicaState.GOOD)
        return True

    async def _fetch(self, chunk: SealedChunk, server: ServerState, sources: Sequence[ServerState]) -> bool:
        """Copy the chunk to ``server``, or mend it there; whether that worked."""
        others = tuple(source.place for source in sources if source.server != server.server)
        if not others:
            return False
        if server.server not in chunk.replicas:
            await self._note(chunk, server.server, ReplicaState.STALE)
        now_s = time.time()
        message = ReplicaFetch(
            self._desk.control(server.server, now_s),
            chunk.chunk,
            chunk.space,
            chunk.epoch,
            chunk.length,
            others,
            self._desk.read_one(chunk.space, chunk.chunk, [place.server for place in others], now_s),
        )
        try:
            state = await self._links.call(
                server.place, FrameType.REPLICA_FETCH, message, messages.ReplicaState, timeout_s=COPY_WITHIN_S
            )
        except CloudVergeError as error:
            _log.warning("copy failed", chunk=chunk.chunk, server=server.server, reason=error.message)
            return False
        if not confirms(state, chunk.length):
            return False
        await self._note(chunk, server.server, ReplicaState.GOOD)
        _log.warning("replica made good", chunk=chunk.chunk, server=server.server, length=chunk.length)
        return True

    async def _note(self, chunk: SealedChunk, server: ServerId, state: ReplicaState) -> None:
        async with self._database.on_space(chunk.space) as connection:
            await connection.execute(_PUT, chunk.chunk, server, int(state))
            await connection.execute(_WHOLE, chunk.chunk)

    async def _drop_surplus(self, plan: RepairPlan) -> None:
        """Give up what is too much, if R others are whole."""
        chunk = plan.chunk
        kept = [source for source in plan.sources if source.server not in plan.surplus]
        whole = 0
        for server in kept:
            if whole < chunk.wanted and await self.is_whole(chunk, server):
                whole += 1
        if whole >= chunk.wanted:
            for surplus in plan.surplus:
                await self._note(chunk, surplus, ReplicaState.DOOMED)

    async def is_whole(self, chunk: SealedChunk, server: ServerState) -> bool:
        """Whether every block of the replica verifies now; one that does not is marked BAD."""
        ticket = self._desk.control(server.server, time.time())
        verified = await self._links.call(
            server.place,
            FrameType.REPLICA_VERIFY,
            ReplicaVerify(ticket, chunk.chunk),
            ReplicaVerified,
            timeout_s=COPY_WITHIN_S,
        )
        if verified.bad or verified.length < chunk.length:
            await self._note(chunk, server.server, ReplicaState.BAD)
            return False
        return True
