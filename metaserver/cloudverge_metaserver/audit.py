"""The job that tells the oplog of each space in meta.audit, behind the commits, so that no commit is slower for it.

A space is told once nothing was committed to it for ``QUIET_S``, so that what belongs together is seen together; one
that is never quiet every minute, or when much has piled up. A pass is one transaction under the lock of the space's
row in meta.audited: all of it is told or nothing, once, whoever else is at it. The oplog is pruned no further than it
has been told (see ``pruning``).

The oldest lines are dropped when they are older than the operator wants; where the chain then begins is noted.
"""

import asyncio
import time
from typing import Any, Final

from cloudverge_metaserver.auditrows import COLUMNS, Gathering, Line, Who, row_of
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.packing import unpack_operation
from cloudverge_metaserver.rows import Connection
from cloudverge_protocol.ids import SessionId, SpaceId

QUIET_S: Final = 2.0
WAITING_S: Final = 60.0  # at most, however busy the space is
BACKLOG_MAX: Final = 20_000
PASS_MAX: Final = 20_000  # operations of one pass
PAGE: Final = 1_000  # worked on without letting others run
FORGET_EVERY_S: Final = 3600.0
FORGET_AT_ONCE: Final = 5_000

_DUE: Final = """
    select s.space from meta.spaces s
    left join lateral (select seq from meta.audited where space = s.space offset 0) a on true
    cross join lateral (select coalesce(a.seq, 0) as seq) told
    left join lateral (select at from meta.oplog where space = s.space and seq = s.seq offset 0) newest on true
    left join lateral (
        select at from meta.oplog where space = s.space and seq > told.seq order by seq limit 1
    ) oldest on true
    where s.seq > told.seq and (
        s.seq - told.seq > $1 or newest.at is null
        or newest.at < clock_timestamp() - $2::float8 * interval '1 s'
        or oldest.at < clock_timestamp() - $3::float8 * interval '1 s'
    )
"""
_BEGIN: Final = "insert into meta.audited (space) values ($1) on conflict do nothing"
_HEAD: Final = "select seq, n, hash from meta.audited where space = $1 for update"
_SEQ: Final = "select seq from meta.spaces where space = $1"
_NEXT: Final = """
    select seq, session, at, op from meta.oplog where space = $1 and seq > $2 and seq <= $3 order by seq limit $4
"""
_WHO: Final = """
    select ss.session, ss.user_id, ss.user_name, ss.device, ss.device_name from unnest($1::bigint[]) k(session)
    cross join lateral (select * from meta.sessions where session = k.session offset 0) ss
"""
_TOLD: Final = "update meta.audited set seq = $2, n = $3, hash = $4 where space = $1"
_KNOWN: Final = "select space from meta.audited where n >= first_n"
_OLD: Final = """
    select n, hash from (select n, hash, at from meta.audit where space = $1 order by n limit $3) o
    where at < clock_timestamp() - $2::float8 * interval '1 day' order by n desc limit 1
"""
_FORGET: Final = "delete from meta.audit where space = $1 and n <= $2"
_FORGOTTEN: Final = "update meta.audited set first_n = $2, first_prev = $3 where space = $1"


class Auditor:
    """One pass at a time; ``keep_days`` 0: for ever."""

    def __init__(self, database: Database, keep_days: float = 0) -> None:
        self._database, self._keep_days = database, keep_days
        self._forgot_at_s = float("-inf")

    async def run(self) -> bool:
        """Tell what is due; says whether there may be more."""
        async with self._database.connection() as connection:
            due = await connection.fetch(_DUE, BACKLOG_MAX, QUIET_S, WAITING_S)
        more = False
        for row in due:
            more |= await self.tell(SpaceId(row[0]))
        if self._keep_days and time.monotonic() - self._forgot_at_s > FORGET_EVERY_S:
            more |= await self._forget()
        return more

    async def tell(self, space: SpaceId) -> bool:
        """One pass over one space, whether it is quiet or not; says whether there is more."""
        async with self._database.transaction() as connection:
            await connection.execute(_BEGIN, space)
            head = await connection.fetchrow(_HEAD, space)
            last = await connection.fetchval(_SEQ, space)
            if head is None or last is None:
                return False
            upto = min(last, head["seq"] + PASS_MAX)
            lines = await _gather(connection, space, head["seq"], upto)
            records = await _chain(connection, space, lines, head["n"], head["hash"])
            if records:
                await connection.copy_records_to_table(
                    "audit", schema_name="meta", columns=COLUMNS, records=records
                )
            end = records[-1][-1] if records else head["hash"]
            await connection.execute(_TOLD, space, upto, head["n"] + len(records), end)
        return bool(upto < last)

    async def _forget(self) -> bool:
        async with self._database.connection() as connection:
            spaces = [SpaceId(row[0]) for row in await connection.fetch(_KNOWN)]
        more = False
        for space in spaces:
            more |= await self._forget_in(space)
        if not more:
            self._forgot_at_s = time.monotonic()
        return more

    async def _forget_in(self, space: SpaceId) -> bool:
        async with self._database.transaction() as connection:
            await connection.fetchrow(_HEAD, space)
            last = await connection.fetchrow(_OLD, space, self._keep_days, FORGET_AT_ONCE)
            if last is None:
                return False
            await connection.execute(_FORGET, space, last["n"])
            await connection.execute(_FORGOTTEN, space, last["n"] + 1, last["hash"])
        return True


async def _gather(connection: Connection, space: SpaceId, after: int, upto: int) -> list[Line]:
    gathering = Gathering()
    while after < upto:
        rows = await connection.fetch(_NEXT, space, after, upto, PAGE)
        if not rows:  # what was pruned before there was an audit
            break
        for seq, session, at, op in rows:
            gathering.add(seq, SessionId(session), at, unpack_operation(op))
        after = rows[-1]["seq"]
    return gathering.lines


async def _chain(
    connection: Connection, space: SpaceId, lines: list[Line], n: int, prev: bytes
) -> list[tuple[Any, ...]]:
    sessions = list({line.session for line in lines})
    known = {row[0]: Who(row[1], row[2], row[3], row[4]) for row in await connection.fetch(_WHO, sessions)}
    nobody = Who(user_name="", device_name="the metaserver")
    records = []
    for index, line in enumerate(lines):
        if index % PAGE == PAGE - 1:
            await asyncio.sleep(0)
        row = row_of(space, n + index + 1, line, known.get(line.session, nobody), prev)
        prev = row[-1]
        records.append(row)
    return records
