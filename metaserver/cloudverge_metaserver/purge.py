"""The end of a deleted space: its rows go, its chunks are handed to ``deletion``, and auth is told.

Auth has taken every right to the space away already. First the space is closed: no lease, and an epoch that no ticket
can have, so nothing can be added any more, whatever ticket is still about. Then everything is removed in steps that
are short, each under the space's lock, so that a large space holds nobody up. A purge that is interrupted is begun
again and finds less to do. The closed row itself stays for a day, so that a late ticket cannot make the space anew.

The chunks become DELETED at once, whoever has pinned them and even while they are OPEN: nobody may append to
them, and what is on its way to them is for nobody.
"""

from collections.abc import Callable, Collection
from typing import Final

import structlog

from cloudverge_metaserver.authority import Authority
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.durability import ChunkState, ReplicaState
from cloudverge_protocol.errors import CloudVergeError
from cloudverge_protocol.ids import Epoch, SpaceId

_log = structlog.get_logger("cloudverge.metaserver")

AT_ONCE: Final = 2_000
CHUNKS_AT_ONCE: Final = 20_000
CLOSED_EPOCH: Final = Epoch(1 << 62)
CLOSED_FOR_S: Final = 24 * 3600.0
BY_SPACE: Final = (
    "dentries", "inodes", "extents", "xattrs", "orphans", "oplog", "trash", "audit", "audited", "leases",
)  # fmt: skip

_CLOSE: Final = """
    update meta.spaces set membership_epoch = $2, lease_epoch = lease_epoch + 1, created_at = clock_timestamp()
    where space = $1 and membership_epoch <> $2
"""
_STEP: Final = """
    delete from meta.{0} where ctid = any(array(select ctid from meta.{0} where space = $1 limit $2))
"""
_CHUNKS: Final = f"""
    with page as (select chunk, space, state from meta.chunks where chunk > $2 order by chunk limit $3),
    gone as (
        update meta.chunks c set state = {ChunkState.DELETED:d}, epoch = epoch + 1, live_bytes = 0, pinned_by = null,
            sealing = false, idle_since = clock_timestamp()
        from page where c.chunk = page.chunk and page.space = $1 and page.state <> {ChunkState.DELETED:d}
        returning c.chunk
    ), doomed as (
        update meta.replicas set state = {ReplicaState.DOOMED:d}, changed_at = clock_timestamp()
        where chunk in (select chunk from gone)
    )
    select max(chunk) from page
"""  # noqa: S608  # numbers of ours
_SESSIONS: Final = """
    with gone as (
        delete from meta.sessions
        where ctid = any(array(select ctid from meta.sessions where space = $1 limit $2)) returning session
    ), ranges as (
        delete from meta.id_ranges where session in (select session from gone)
    ), incarnations as (
        delete from meta.incarnations where session in (select session from gone)
    )
    select count(*) from gone
"""
_EMPTY: Final = """
    update meta.spaces set seq = 0, feed_from = 1, used_bytes = 0, used_inodes = 0 where space = $1
"""
_FORGET: Final = """
    delete from meta.spaces where membership_epoch = $1
        and created_at < clock_timestamp() - $2::float8 * interval '1 s'
"""


class Purger:
    """One pass at a time; ``deleted`` says which spaces are to go."""

    def __init__(
        self, database: Database, authority: Authority, deleted: Callable[[], Collection[SpaceId]]
    ) -> None:
        self._database, self._authority, self._deleted = database, authority, deleted

    async def run(self) -> bool:
        """Purge all that is to go; there is never more."""
        for space in sorted(self._deleted()):
            try:
                await self.purge(space)
                await self._authority.purged(space)
            except CloudVergeError as error:
                _log.info("space not purged yet", space=space, reason=error.message)
        async with self._database.connection() as connection:
            await connection.execute(_FORGET, CLOSED_EPOCH, CLOSED_FOR_S)
        return False

    async def purge(self, space: SpaceId) -> None:
        """Remove everything of one space; what was done already is not done again."""
        async with self._database.on_space(space) as connection:
            await connection.execute(_CLOSE, space, CLOSED_EPOCH)
        await self._give_chunks_up(space)
        for table in BY_SPACE:
            while await self._remove_some(space, table):
                pass
        while await self._remove_sessions(space):
            pass
        async with self._database.on_space(space) as connection:
            await connection.execute(_EMPTY, space)

    async def _give_chunks_up(self, space: SpaceId) -> None:
        last: int | None = 0
        while last is not None:
            async with self._database.on_space(space) as connection:
                last = await connection.fetchval(_CHUNKS, space, last, CHUNKS_AT_ONCE)

    async def _remove_some(self, space: SpaceId, table: str) -> bool:
        async with self._database.on_space(space) as connection:
            done = await connection.execute(_STEP.format(table), space, AT_ONCE)
        return int(done.rpartition(" ")[2]) == AT_ONCE

    async def _remove_sessions(self, space: SpaceId) -> bool:
        async with self._database.on_space(space) as connection:
            return bool(await connection.fetchval(_SESSIONS, space, AT_ONCE) == AT_ONCE)
