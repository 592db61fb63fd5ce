"""Grants to users and tokens for machines: a sub-tree of a space, to read or to write, until a moment.

Owners and editors give them, so nobody gives more than he has; a grantee, who is no member, gives nothing on. A
token's secret is shown once and stored as a hash. Links are of the same table and listed and ended here too.
"""

import secrets
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

import asyncpg
import msgspec

from cloudverge_auth import audit, epochs, people, spaces
from cloudverge_auth.secrethash import hash_of
from cloudverge_auth.signins import Caller
from cloudverge_auth.spaces import Entered
from cloudverge_auth.tickets import MACHINE_PREFIX
from cloudverge_auth.tokens import Role
from cloudverge_protocol.errors import Code, NoRoom, Refused
from cloudverge_protocol.ids import GrantId, InodeId, SpaceId, UserId
from cloudverge_wire.database import connection, transaction

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

MAX_IN_SPACE: Final = 10_000
Kind = Literal["user", "token", "link"]
_GIVERS: Final[tuple[Role, ...]] = ("owner", "editor")


class Wanted(msgspec.Struct, frozen=True):
    """What shall be given: the folder (link: the file) ``root``, which lies at ``path`` just now."""

    space: SpaceId
    root: InodeId
    path: str
    rw: bool
    until: datetime | None


class Grant(msgspec.Struct, frozen=True):
    """One as its giver, an owner of its space, or its grantee sees it."""

    id: GrantId
    kind: Kind
    direction: Literal["given", "received"]
    space: SpaceId
    space_name: str
    root: InodeId
    path: str
    rw: bool
    to: str
    by: str
    label: str
    until: datetime | None
    created_at: datetime
    downloads: int
    max_downloads: int | None


async def look_to_give(connected: "PoolConnectionProxy", caller: Caller, space: SpaceId) -> Entered:
    """The space, for who may give parts of it."""
    return await spaces.look(connected, caller, space, *_GIVERS)


async def enter_to_give(connected: "PoolConnectionProxy", caller: Caller, space: SpaceId) -> Entered:
    """The same, locked; raises NoRoom(QUOTA) when it has too many grants."""
    seen = await spaces.enter(connected, caller, space, *_GIVERS)
    if await connected.fetchval(_COUNT, space) >= MAX_IN_SPACE:
        raise NoRoom(Code.QUOTA, f"{seen.name} has {MAX_IN_SPACE} grants and links, which is the most")
    return seen


async def give(pool: asyncpg.Pool, caller: Caller, wanted: Wanted, name: str) -> GrantId:
    """To a user; raises Refused(NOT_FOUND, INVALID, BUSY), Denied(FORBIDDEN)."""
    async with connection(pool) as connected:
        await look_to_give(connected, caller, wanted.space)  # before anything is said about names
    if name == caller.user_name:
        raise Refused(Code.INVALID, "you cannot grant anything to yourself")
    async with people.looking_up(pool, caller), transaction(pool) as connected:
        user = await people.find(connected, name)
        await enter_to_give(connected, caller, wanted.space)
        grant = await _insert(connected, caller, wanted, "user", user, "", None)
        detail = f"{grant}: {wanted.path} to {name}, {described(wanted)}"
        await audit.record(connected, caller, wanted.space, "grant.give", detail)
    return grant


async def make_token(pool: asyncpg.Pool, caller: Caller, wanted: Wanted, label: str) -> tuple[GrantId, str]:
    """For a machine: its id and its secret, which is not shown again."""
    token = MACHINE_PREFIX + secrets.token_urlsafe(32)
    async with transaction(pool) as connected:
        await enter_to_give(connected, caller, wanted.space)
        grant = await _insert(connected, caller, wanted, "token", None, label, hash_of(token))
        detail = f"{grant}: {wanted.path} for {label}, {described(wanted)}"
        await audit.record(connected, caller, wanted.space, "token.make", detail)
    return grant, token


async def _insert(
    connected: "PoolConnectionProxy",
    caller: Caller,
    wanted: Wanted,
    kind: Kind,
    to: UserId | None,
    label: str,
    hashed: bytes | None,
) -> GrantId:
    what = (wanted.root, wanted.path, wanted.rw, wanted.until)
    return GrantId(
        await connected.fetchval(_INSERT, kind, wanted.space, caller.user, to, label, hashed, *what)
    )


def described(wanted: Wanted) -> str:
    """For the log."""
    until = f" until {wanted.until:%Y-%m-%d %H:%M:%S} UTC" if wanted.until else ""
    return ("read and write" if wanted.rw else "read only") + until


async def list_grants(pool: asyncpg.Pool, caller: Caller) -> list[Grant]:
    """What the caller has given, what others have given in spaces he owns, and what he was given; newest first."""
    async with connection(pool) as connected:
        rows = await connected.fetch(_LIST, caller.user)
    return [msgspec.convert(dict(row), Grant) for row in rows]


async def end(pool: asyncpg.Pool, caller: Caller, grant: GrantId) -> None:
    """Take one back, by who gave it or an owner of its space; raises Refused(NOT_FOUND) for all others."""
    async with transaction(pool) as connected:
        space = await connected.fetchval("select space_id from grants where id = $1", grant)
        await connected.execute("select from spaces where id = $1 for no key update", space)
        row = await connected.fetchrow(_END, grant, caller.user)
        if row is None:
            raise Refused(Code.NOT_FOUND, "you have given no such grant, token or link")
        await epochs.raise_space(connected, SpaceId(space))
        await audit.record(
            connected, caller, SpaceId(space), f"{_NOUN[row['kind']]}.end", f"{grant}: {row['path']}"
        )


_NOUN: Final = {"user": "grant", "token": "token", "link": "link"}
_COUNT = """
select count(*) from grants where space_id = $1 and ended_at is null and (until is null or until > clock_timestamp())
"""
_INSERT = """
insert into grants (kind, space_id, given_by, to_user, label, secret_hash, root, path, rw, until)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) returning id
"""
_SHOWN = """
select g.id, g.kind, s.id as space, s.name as space_name, g.root, g.path, g.rw, coalesce(t.name, '') as to,
    b.name as by, g.label, g.until, g.created_at, g.downloads, g.max_downloads
"""
_LIST = f"""
{_SHOWN}, 'received' as direction
from working_grants g join spaces s on s.id = g.space_id join users b on b.id = g.given_by
join users t on t.id = g.to_user
where g.to_user = $1
union all
{_SHOWN}, 'given' as direction
from grants g join spaces s on s.id = g.space_id and s.deleted_at is null join users b on b.id = g.given_by
left join users t on t.id = g.to_user
where g.ended_at is null and (g.until is null or g.until > clock_timestamp()) and g.to_user is distinct from $1
  and (g.given_by = $1
       or exists (select from members m where m.space_id = g.space_id and m.user_id = $1 and m.role = 'owner'))
order by id desc
"""
_END = """
update grants g set ended_at = clock_timestamp(), end_reason = 'revoked'
where g.id = $1 and g.ended_at is null
  and (g.given_by = $2
       or exists (select from members m where m.space_id = g.space_id and m.user_id = $2 and m.role = 'owner'))
returning kind, path
"""
