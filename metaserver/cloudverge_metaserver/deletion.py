"""The end of chunks that nothing refers to, and of replicas that are not needed.

A chunk goes when it is sealed, unpinned and has had no live byte for the grace: under its space's lock it becomes
DELETED and its replicas DOOMED. Doomed replicas are removed from their servers whenever those can be reached; the
chunk's row follows the last of them after a while, so that late questions get a clear answer.
"""

import time
from collections import defaultdict
from typing import Final

import structlog

from cloudverge_metaserver.database import Database
from cloudverge_metaserver.links import Links
from cloudverge_metaserver.servers import Servers
from cloudverge_metaserver.tickets import TicketDesk
from cloudverge_protocol.errors import CloudVergeError
from cloudverge_protocol.ids import SpaceId
from cloudverge_protocol.messages import Empty, FrameType, Place, ReplicaDelete

_log = structlog.get_logger("cloudverge.metaserver")

AT_ONCE: Final = 500
REMEMBER_S: Final = 24 * 3600.0

_DEAD: Final = """
    select space, chunk from meta.chunks
    where state in (2, 3) and live_bytes = 0 and pinned_by is null
        and idle_since < clock_timestamp() - $1::float8 * interval '1 s'
    order by idle_since limit $2
"""
_DELETE: Final = """
    with gone as (
        update meta.chunks set state = 4, idle_since = clock_timestamp()
        where chunk = any($2::bigint[]) and space = $1 and state in (2, 3) and live_bytes = 0
            and pinned_by is null
        returning chunk
    )
    update meta.replicas set state = 6, changed_at = clock_timestamp()
    where chunk in (select chunk from gone)
"""
_DOOMED: Final = """
    select r.chunk from meta.replicas r where r.server + 0 = $1 and r.state = 6 limit $2
"""
_REMOVED: Final = "delete from meta.replicas where server = $1 and chunk = any($2::bigint[]) and state = 6"
_FORGET: Final = """
    delete from meta.chunks c where c.state = 4
        and c.idle_since < clock_timestamp() - $1::float8 * interval '1 s'
        and not exists (select from meta.replicas r where r.chunk = c.chunk)
"""


class Deletion:
    """One pass at a time."""

    def __init__(
        self, database: Database, servers: Servers, links: Links, desk: TicketDesk, grace_s: float
    ) -> None:
        self._database, self._servers, self._links, self._desk = database, servers, links, desk
        self._grace_s = grace_s

    async def run(self) -> bool:
        """Delete what can go now; says whether there may be more."""
        found = await self._delete_dead()
        removed = await self._remove_doomed()
        async with self._database.connection() as connection:
            await connection.execute(_FORGET, REMEMBER_S)
        return found == AT_ONCE or removed

    async def _delete_dead(self) -> int:
        async with self._database.connection() as connection:
            rows = await connection.fetch(_DEAD, self._grace_s, AT_ONCE)
        by_space: dict[SpaceId, list[int]] = defaultdict(list)
        for space, chunk in rows:
            by_space[SpaceId(space)].append(chunk)
        for space, chunks in by_space.items():
            async with self._database.on_space(space) as connection:
                await connection.execute(_DELETE, space, chunks)
        return len(rows)

    async def _remove_doomed(self) -> bool:
        more = False
        for row in await self._servers.all():
            if not row.state.silent:
                more |= await self._remove_from(row.state.place)
        return more

    async def _remove_from(self, place: Place) -> bool:
        async with self._database.connection() as connection:
            chunks = [r[0] for r in await connection.fetch(_DOOMED, place.server, AT_ONCE)]
        if not chunks:
            return False
        ticket = self._desk.control(place.server, time.time())
        try:
            await self._links.call(
                place, FrameType.REPLICA_DELETE, ReplicaDelete(ticket, tuple(chunks)), Empty, timeout_s=60
            )
        except CloudVergeError as error:
            _log.info("replicas not removed yet", place=place, chunks=len(chunks), reason=error.message)
            return False
        async with self._database.connection() as connection:
            await connection.execute(_REMOVED, place.server, chunks)
        return len(chunks) == AT_ONCE
