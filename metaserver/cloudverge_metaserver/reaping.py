"""Incarnations that are over: their orphans are reaped, as operations of the metaserver itself in the oplog.

An incarnation that was fenced and never came back is let go after 7 days: its pins and orphans end, its entries
would still be taken if they came, as far as their chunks are still there.
"""

from typing import Final

import structlog

from cloudverge_metaserver.applying import Applied, usage_of
from cloudverge_metaserver.batchset import BatchSet
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.incarnations import release_incarnation
from cloudverge_metaserver.loading import load_batch
from cloudverge_metaserver.rows import Connection
from cloudverge_metaserver.writeback import Writing, write_chunks, write_log, write_rows, write_space
from cloudverge_protocol import rules
from cloudverge_protocol.errors import Refused
from cloudverge_protocol.ids import EntryNumber, Incarnation, InodeId, Seq, SessionId, SpaceId
from cloudverge_protocol.operations import Entry, Reap

_log = structlog.get_logger("cloudverge.metaserver")

OFFLINE_WINDOW_S: Final = 7 * 24 * 3600.0
AT_ONCE: Final = 500
NOBODY: Final = SessionId(0)

_EXPIRED: Final = """
    select space, incarnation from meta.incarnations
    where released_at is null and fenced_at < clock_timestamp() - $1::float8 * interval '1 s' limit $2
"""
_FORGET_RANGES: Final = """
    delete from meta.id_ranges g using meta.incarnations i
    where i.incarnation = g.incarnation and i.closed_at < clock_timestamp() - $1::float8 * interval '1 s'
"""
_LEFT: Final = """
    select distinct o.space, o.incarnation, o.session from meta.orphans o
    join meta.incarnations i on i.incarnation = o.incarnation and i.released_at is not null limit $1
"""
_ORPHANS: Final = "select ino from meta.orphans where space = $1 and incarnation = $2 limit $3"
_COUNTERS: Final = "select seq, used_inodes from meta.spaces where space = $1"


class Reaper:
    """One pass at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self) -> bool:
        """Let go and reap; says whether there may be more."""
        await self._release_expired()
        async with self._database.connection() as connection:
            left = await connection.fetch(_LEFT, AT_ONCE)
        for space, incarnation, session in left:
            await self.reap(SpaceId(space), Incarnation(incarnation), SessionId(session))
        return bool(left)

    async def _release_expired(self) -> None:
        async with self._database.connection() as connection:
            rows = await connection.fetch(_EXPIRED, OFFLINE_WINDOW_S, AT_ONCE)
            await connection.execute(_FORGET_RANGES, OFFLINE_WINDOW_S)
        for space, incarnation in rows:
            async with self._database.on_space(SpaceId(space)) as connection:
                await release_incarnation(connection, Incarnation(incarnation))

    async def reap(self, space: SpaceId, incarnation: Incarnation, session: SessionId) -> None:
        """End orphans of one incarnation, so many at once that the space is not held up."""
        async with self._database.on_space(space) as connection:
            rows = await connection.fetch(_ORPHANS, space, incarnation, AT_ONCE)
            await _reap(connection, space, session, [InodeId(row[0]) for row in rows])


async def _reap(connection: Connection, space: SpaceId, session: SessionId, inos: list[InodeId]) -> None:
    counters = await connection.fetchrow(_COUNTERS, space)
    if counters is None or not inos:
        return
    ws = BatchSet()
    ops = [Reap(ino) for ino in inos]
    await load_batch(connection, space, session, ops, ws)
    applied = Applied(Seq(counters["seq"]), counters["used_inodes"])
    for op in ops:
        ws.mark(Seq(applied.seq + 1), Incarnation(0))
        try:
            rules.apply(op, ws)
        except Refused as error:  # it has a name again: no orphan after all
            _log.warning("orphan not reaped", space=space, ino=op.ino, reason=error.message)
            ws.undo()
            ws.drop_orphan(op.ino)
            continue
        applied.used_inodes += ws.inodes_grown()
        applied.seq = Seq(applied.seq + 1)
        applied.entries.append(Entry(Incarnation(0), EntryNumber(0), op))
    usage = usage_of(ws)
    writing = Writing(space)
    write_chunks(writing, applied, usage, {})
    write_rows(writing, ws, session)
    write_log(writing, applied, NOBODY)
    write_space(writing, applied, usage.used_bytes)
    await writing.run(connection)
