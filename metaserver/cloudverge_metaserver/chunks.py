"""CHUNK_ALLOCATE, CHUNK_LOCATE and TICKETS: where bytes may go, where they are, and the rights to them.

A chunk belongs to the incarnation that asked for it and is pinned by it. What a session may hold without having
committed it is bounded twice: by the number of its pinned chunks, and by the quotas of the space and of its owner,
which a chunk's limit never lets it pass by more than a little (see ``limit_within``), whatever the mount does, and in
however many spaces of the owner.
"""

import random
import time
from typing import Final, NamedTuple

from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.admission import Admitted, admit, check_space, check_writer, fenced
from cloudverge_metaserver.chunkplaces import chunk_places
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.placement import CHUNK_AT_LEAST_BYTES, Placement, place_chunk
from cloudverge_metaserver.ranges import RangeTickets
from cloudverge_metaserver.rows import Connection
from cloudverge_metaserver.servers import Servers
from cloudverge_metaserver.tickets import TicketDesk, life_left_s
from cloudverge_protocol.errors import Code, NoRoom, ProtocolFault
from cloudverge_protocol.ids import CHUNK_BYTES, ID_MAX, ChunkId, Epoch, ServerId
from cloudverge_protocol.messages import (
    ChunkAllocate,
    ChunkGrant,
    ChunkGrants,
    ChunkLocate,
    ChunkLocateReply,
    Place,
    Tickets,
    TicketsReply,
)

ALLOCATE_MAX: Final = 16
PINNED_MAX: Final = 256  # chunks of one session that its journals may still name
LOCATE_MAX: Final = 10_000
SERVERS_MAX: Final = 1_000
OVER_QUOTA_BYTES: Final = 2 * CHUNK_BYTES
FIRST_EPOCH: Final = Epoch(1)

_HELD: Final = """
    select count(*) filter (where c.session = $2) as pinned,
        coalesce(sum(c.unreferenced) filter (where c.space = $1), 0)::bigint as unreferenced,
        coalesce(sum(c.unreferenced), 0)::bigint as unreferenced_of_owner,
        (select coalesce(sum(s.used_bytes), 0)::bigint from meta.spaces s where s.owner = $3) as used_of_owner
    from (select $1::bigint union select s.space from meta.spaces s where s.owner = $3 and $3 <> 0) k(space)
    cross join lateral (
        select space, session,
            greatest(0, case when state = 1 then limit_bytes else sealed_length end - live_bytes) as unreferenced
        from meta.chunks where pinned_by is not null and space = k.space offset 0
    ) c
"""
_ALLOCATE: Final = """
    with made as (
        insert into meta.chunks (space, session, incarnation, pinned_by, limit_bytes, wanted_replicas, epoch)
        values ($1, $2, $3, $3, $4, $5, $6) returning chunk
    ), placed as (
        insert into meta.replicas (chunk, server, position)
        select made.chunk, k.server, k.position from made, unnest($7::bigint[]) with ordinality k(server, position)
    ) select chunk from made
"""
_APPENDABLE: Final = """
    select c.chunk, c.epoch, c.limit_bytes,
        array_agg((r.server, s.host, s.frame_port) order by r.position) as places
    from unnest($6::bigint[]) k(chunk)
    join meta.chunks c on c.chunk = k.chunk and c.space = $1 and c.state = 1 and not c.sealing
        and c.session = $2 and c.incarnation = $3
    join meta.replicas r on r.chunk = c.chunk
    join meta.servers s on s.server = r.server
    join meta.leases l on l.space = $1 and l.root = 1 and l.session = $2 and l.incarnation = $3 and l.epoch = $4
    join meta.sessions ss on ss.session = $2 and ss.user_id = $5 and ss.grant_id = $7
    group by c.chunk
"""


def limit_within(quota_bytes: int, used_bytes: int, unreferenced_bytes: int) -> int:
    """How far a new chunk may grow; 0: not at all.

    Every byte committed or still to be committed counts; two chunks more are let through, so that overwriting
    works in a space that is full.
    """
    if not quota_bytes:
        return CHUNK_BYTES
    left = max(0, quota_bytes - used_bytes) + OVER_QUOTA_BYTES - unreferenced_bytes
    return max(0, min(CHUNK_BYTES, left))


class _Held(NamedTuple):
    """What a session, its space and the space's owner hold already."""

    pinned: int  # chunks
    unreferenced_bytes: int
    unreferenced_of_owner_bytes: int
    used_of_owner_bytes: int

    def with_another(self, limit_bytes: int) -> "_Held":
        """The same after a chunk that may grow so far has been given."""
        return _Held(
            self.pinned + 1,
            self.unreferenced_bytes + limit_bytes,
            self.unreferenced_of_owner_bytes + limit_bytes,
            self.used_of_owner_bytes,
        )


async def _held(connection: Connection, who: Admitted) -> _Held:
    _, _, owner, owner_quota_bytes, _ = who.limits
    held = await connection.fetchrow(_HELD, who.space, who.session, owner if owner_quota_bytes else 0)
    assert held is not None
    return _Held(*held)


class Chunks:
    """The handlers."""

    def __init__(self, database: Database, servers: Servers, desk: TicketDesk) -> None:
        self._database, self._servers, self._desk = database, servers, desk
        self._ranges = RangeTickets(database, desk)

    async def allocate(self, identity: Identity, message: ChunkAllocate) -> ChunkGrants:
        """New chunks for the incarnation to append to."""
        check_writer(identity)
        if not 0 < message.count <= ALLOCATE_MAX:
            raise ProtocolFault(Code.BAD_REQUEST, f"between 1 and {ALLOCATE_MAX} chunks can be had at a time")
        grants: list[ChunkGrant] = []
        async with self._database.on_space(identity.space) as connection:
            who = await admit(connection, identity, message.session, message.incarnation, message.lease_epoch)
            held = await _held(connection, who)
            for _ in range(message.count):
                try:
                    grant = await self._allocate(connection, identity, who, held, frozenset(message.avoid))
                except NoRoom:
                    if not grants:
                        raise
                    break
                grants.append(grant)
                held = held.with_another(grant.limit)
        return ChunkGrants(tuple(grants))

    async def _allocate(
        self,
        connection: Connection,
        identity: Identity,
        who: Admitted,
        held: _Held,
        avoid: frozenset[ServerId],
    ) -> ChunkGrant:
        quota_bytes, _, _, owner_quota_bytes, _ = who.limits
        if held.pinned >= PINNED_MAX:
            raise NoRoom(
                Code.QUOTA,
                f"this mount holds {PINNED_MAX} chunks it has not committed: it must catch up first",
            )
        most = min(
            limit_within(quota_bytes, who.used_bytes, held.unreferenced_bytes),
            limit_within(owner_quota_bytes, held.used_of_owner_bytes, held.unreferenced_of_owner_bytes),
        )
        if most < CHUNK_AT_LEAST_BYTES:
            raise NoRoom(Code.QUOTA, f"the quota of {who.quota_bytes} bytes is used up")
        servers = [row.state for row in await self._servers.snapshot(connection)]
        placement = place_chunk(servers, who.replicas, avoid, random.random, most)
        return await self._grant(connection, identity, who, placement)

    async def _grant(
        self, connection: Connection, identity: Identity, who: Admitted, placement: Placement
    ) -> ChunkGrant:
        servers = [s.server for s in placement.servers]
        chunk = ChunkId(
            await connection.fetchval(
                _ALLOCATE,
                who.space,
                who.session,
                who.incarnation,
                placement.limit,
                who.replicas,
                FIRST_EPOCH,
                servers,
            )
        )
        places = tuple(s.place for s in placement.servers)
        ticket = self._desk.append(
            identity, chunk, FIRST_EPOCH, placement.limit, places, who.session, who.incarnation, time.time()
        )
        return ChunkGrant(chunk, FIRST_EPOCH, placement.limit, places, ticket)

    async def locate(self, identity: Identity, message: ChunkLocate) -> ChunkLocateReply:
        """Where the replicas are; chunks that are not the space's are left out.

        Numbers of chunks tell nothing to one who is confined to a sub-tree: places come with his range tickets.
        """
        check_space(identity, message.space)
        if identity.is_confined:
            return ChunkLocateReply(())
        wanted = [chunk for chunk in set(message.chunks) if 0 < chunk <= ID_MAX]
        if len(wanted) > LOCATE_MAX:
            raise ProtocolFault(Code.BAD_REQUEST, f"more than {LOCATE_MAX} chunks at once")
        async with self._database.connection() as connection:
            found = await chunk_places(connection, message.space, wanted)
        return ChunkLocateReply(tuple(found.values()))

    async def tickets(self, identity: Identity, message: Tickets) -> TicketsReply:
        """Read tickets for servers or spans, and append tickets for chunks this incarnation may append to."""
        check_space(identity, message.space)
        if len(message.servers) > SERVERS_MAX:
            raise ProtocolFault(Code.BAD_REQUEST, f"more than {SERVERS_MAX} servers at once")
        now_s = time.time()
        read = [
            (server, *self._desk.read(identity, message.session, server, now_s))
            for server in dict.fromkeys(message.servers)
        ]
        life_s = min([life_left_s(now_s, now_s, identity.until), *(left for _, _, left in read)])
        append: list[tuple[ChunkId, str]] = []
        if message.chunks:
            check_writer(identity)
            append = await self._append_tickets(identity, message, now_s)
        ranges = await self._ranges.tickets(identity, message.spans, now_s) if message.spans else ()
        return TicketsReply(life_s, tuple((server, t) for server, t, _ in read), tuple(append), ranges)

    async def _append_tickets(
        self, identity: Identity, message: Tickets, now_s: float
    ) -> list[tuple[ChunkId, str]]:
        if len(message.chunks) > PINNED_MAX:
            raise ProtocolFault(Code.BAD_REQUEST, f"more than {PINNED_MAX} chunks at once")
        wanted = [chunk for chunk in set(message.chunks) if 0 < chunk <= ID_MAX]
        async with self._database.connection() as connection:
            records = await connection.fetch(
                _APPENDABLE,
                message.space,
                message.session,
                message.incarnation,
                message.lease_epoch,
                identity.user,
                wanted,
                identity.grant,
            )
            if not records:
                await self._check_lease(connection, identity, message)
        return [
            (
                ChunkId(chunk),
                self._desk.append(
                    identity,
                    chunk,
                    epoch,
                    limit,
                    [Place(*place) for place in places],
                    message.session,
                    message.incarnation,
                    now_s,
                ),
            )
            for chunk, epoch, limit, places in records
        ]

    async def _check_lease(self, connection: Connection, identity: Identity, message: Tickets) -> None:
        held = await connection.fetchval(
            """select 1 from meta.leases l join meta.sessions ss on ss.session = l.session and ss.user_id = $5
                and ss.grant_id = $6
            where l.space = $1 and l.root = 1 and l.session = $2 and l.incarnation = $3 and l.epoch = $4""",
            message.space,
            message.session,
            message.incarnation,
            message.lease_epoch,
            identity.user,
            identity.grant,
        )
        if held is None:
            raise fenced()
