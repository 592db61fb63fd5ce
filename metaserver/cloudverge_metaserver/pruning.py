"""The oplog's past: entries older than the longest holiday are dropped, oldest first, a few at a time.

Invariants: ``spaces.feed_from`` is the oldest seq still there; a feed that would need an older one is refused. What
has not been told in meta.audit stays, however old it is.
"""

from typing import Final

from cloudverge_metaserver.database import Database
from cloudverge_protocol.ids import SpaceId

KEEP_S: Final = 90 * 24 * 3600.0
AT_ONCE: Final = 5000

_SPACES: Final = "select space from meta.spaces where feed_from <= seq"
_OLD: Final = """
    select max(seq) from (
        select seq, at from meta.oplog where space = $1 order by seq limit $3
    ) o where at < clock_timestamp() - $2::float8 * interval '1 s'
        and seq <= (select seq from meta.audited where space = $1)
"""
_PRUNE: Final = """
    with pruned as (delete from meta.oplog where space = $1 and seq <= $2)
    update meta.spaces set feed_from = $2 + 1 where space = $1
"""


class Pruner:
    """One pass at a time."""

    def __init__(self, database: Database, keep_s: float = KEEP_S) -> None:
        self._database, self._keep_s = database, keep_s

    async def run(self) -> bool:
        """Drop what is too old; says whether there may be more."""
        async with self._database.connection() as connection:
            spaces = [SpaceId(row[0]) for row in await connection.fetch(_SPACES)]
        more = False
        for space in spaces:
            async with self._database.connection() as connection:
                last = await connection.fetchval(_OLD, space, self._keep_s, AT_ONCE)
            if last is not None:
                more = True
                async with self._database.on_space(space) as connection:
                    await connection.execute(_PRUNE, space, last)
        return more
