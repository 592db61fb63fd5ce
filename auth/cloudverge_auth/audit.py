"""The log of rights: who changed which right from which device, one chain of hashes per space.

A row is written by the transaction that makes the change, so neither exists without the other. Each row's hash
covers the row before it, and the head of a chain is kept apart: a row that was changed, removed, added or cut off
at the end no longer fits. Whoever can rewrite the whole database can rewrite the whole chain too; who keeps a hash
elsewhere (it is in every listing) will notice even that.

Appending locks the chain's head until the transaction ends: it comes last, and after the rows of spaces.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Final

import asyncpg
import msgspec

from cloudverge_protocol.ids import DeviceId, SpaceId, UserId
from cloudverge_wire.database import connection

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

ACCOUNTS: Final = SpaceId(0)  # the chain of what concerns no single space
MAX_ENTRIES: Final = 1000


class Actor(msgspec.Struct, frozen=True):
    """Who does something, and from where."""

    user: UserId
    user_name: str
    device: DeviceId
    device_name: str


OPERATOR: Final = Actor(UserId(0), "", DeviceId(0), "")


class Entry(msgspec.Struct, frozen=True):
    """One row of a log."""

    seq: int
    at: datetime
    user: str
    device: str
    action: str
    detail: str
    hash: str  # hex


class Log(msgspec.Struct, frozen=True):
    """A page of a log, newest first, and whether the whole chain is as it was written."""

    entries: list[Entry]
    intact: bool


async def record(
    connected: "PoolConnectionProxy", actor: Actor, space: SpaceId, action: str, detail: str
) -> None:
    """Append to the chain of ``space`` (ACCOUNTS: that of the accounts), as part of the open transaction."""
    who = (actor.user, actor.user_name, actor.device, actor.device_name)
    await connected.execute(_APPEND, space, *who, action, detail)


async def read(pool: asyncpg.Pool, space: SpaceId, before: int, limit: int) -> Log:
    """Up to ``limit`` rows with numbers below ``before`` (0: from the end)."""
    async with (
        connection(pool) as connected,
        connected.transaction(isolation="repeatable_read", readonly=True),
    ):
        rows = await connected.fetch(_PAGE, space, before, min(limit, MAX_ENTRIES))
        intact = await connected.fetchval(_INTACT, space)
    return Log([Entry(**dict(row)) for row in rows], bool(intact))


_APPEND = """
with head as (
    insert into audit_heads as h (space_id, seq, at, hash)
    select $1, 1, t, audit_hash('', $1, 1, t, $2, $3, $4, $5, $6, $7) from clock_timestamp() t
    on conflict (space_id) do update set
        seq = h.seq + 1,
        at = excluded.at,
        hash = audit_hash(h.hash, $1, h.seq + 1, excluded.at, $2, $3, $4, $5, $6, $7)
    returning seq, at, hash
)
insert into audit (space_id, seq, at, user_id, user_name, device_id, device_name, action, detail, hash)
select $1::bigint, seq, at, $2::bigint, $3::text, $4::bigint, $5::text, $6::text, $7::text, hash from head
"""
_PAGE = """
select seq, at, user_name as user, device_name as device, action, detail, encode(hash, 'hex') as hash
from audit where space_id = $1 and ($2::bigint = 0 or seq < $2)
order by seq desc limit $3
"""
_INTACT = """
with chain as (
    select a.*, row_number() over w as place, lag(hash, 1, '') over w as before
    from audit a where space_id = $1 window w as (order by seq)
)
select coalesce(bool_and(
        seq = place
        and hash = audit_hash(before, space_id, seq, at, user_id, user_name, device_id, device_name, action, detail)
    ), true)
    and coalesce(max(seq), 0) = coalesce((select seq from audit_heads where space_id = $1), 0)
    and coalesce((array_agg(hash order by seq desc))[1] = (select hash from audit_heads where space_id = $1), true)
from chain
"""
