"""Incarnations of sessions: the ids they are given, and their end.

Closed: the journal has been shipped, no entry can come any more. Released: the pins on its chunks are gone and its
orphans may be reaped; that follows from closing, or from 7 days of silence after it was fenced. Ids stay the
session's beyond that, for a mount may still use those it took down earlier.
"""

from cloudverge_metaserver.rows import Connection
from cloudverge_protocol.ids import Incarnation, SessionId


async def add_range(
    connection: Connection, session: SessionId, incarnation: Incarnation, first: int, count: int
) -> None:
    """Note the range, as part of the one before it if it follows that."""
    grown = await connection.fetchval(
        "update meta.id_ranges set count = count + $3 where incarnation = $1 and first + count = $2 returning 1",
        incarnation,
        first,
        count,
    )
    if grown is None:
        await connection.execute(
            "insert into meta.id_ranges (incarnation, first, count, session) values ($1, $2, $3, $4)",
            incarnation,
            first,
            count,
            session,
        )


async def close_incarnation(connection: Connection, incarnation: Incarnation) -> None:
    """No entry of it will come any more; the space's lock must be held."""
    await connection.execute(
        """update meta.incarnations set fenced_at = coalesce(fenced_at, clock_timestamp()),
            closed_at = coalesce(closed_at, clock_timestamp()) where incarnation = $1""",
        incarnation,
    )
    await release_incarnation(connection, incarnation)


async def release_incarnation(connection: Connection, incarnation: Incarnation) -> None:
    """Let go of its chunks; its orphans are reaped by housekeeping, which looks for ``released_at``."""
    await connection.execute(
        "update meta.chunks set pinned_by = null, idle_since = clock_timestamp() where pinned_by = $1",
        incarnation,
    )
    await connection.execute(
        "update meta.incarnations set released_at = coalesce(released_at, clock_timestamp()) where incarnation = $1",
        incarnation,
    )
