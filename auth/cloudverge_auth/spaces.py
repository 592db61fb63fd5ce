"""Spaces: which ones a user belongs to, team spaces, and how a transaction enters a space to change it.

A space that is not the caller's does not exist for the caller: same error, same text. Who belongs to it but may
not do this is told so.
"""

from typing import TYPE_CHECKING, Final, Literal

import asyncpg
import msgspec

from cloudverge_auth import audit, epochs, signins
from cloudverge_auth.accounts import Quota
from cloudverge_auth.signins import Caller
from cloudverge_auth.tokens import Role
from cloudverge_protocol.errors import Code, Denied, NoRoom, Refused
from cloudverge_protocol.ids import ID_MAX, SpaceId, UserId
from cloudverge_wire.database import connection, transaction

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

MAX_OWNED: Final = 200
Kind = Literal["personal", "team"]


class Space(msgspec.Struct, frozen=True):
    """A space as one of its members sees it."""

    id: SpaceId
    name: str
    role: Role
    kind: Kind
    owner: str
    owned: bool  # by the one who looks
    quota_bytes: int
    quota_inodes: int


class Entered(msgspec.Struct, frozen=True):
    """A space whose row is locked, and the role of who asked."""

    id: SpaceId
    name: str
    kind: Kind
    owner_id: UserId
    role: Role


def absent() -> Refused:
    """What somebody hears of a space that is not his, or is not at all."""
    return Refused(Code.NOT_FOUND, "you have no such space")


async def list_spaces(pool: asyncpg.Pool, user: UserId) -> list[Space]:
    """The user's spaces: own ones first, oldest first."""
    async with connection(pool) as connected:
        rows = await connected.fetch(_SPACES, user)
    return [msgspec.convert(dict(row), Space) for row in rows]


def choose_space(spaces: list[Space], wanted: int | str) -> Space:
    """The one of ``list_spaces`` meant by an id, a name, or "" (the first own one); raises Refused(NOT_FOUND).

    A name prefers own spaces; digits are a name first, then an id.
    """
    if wanted == "":
        matching = [space for space in spaces if space.owned]
    else:
        matching = [space for space in spaces if space.name == wanted]
        number = _as_id(wanted)
        matching += [space for space in spaces if space.id == number]
    if not matching:
        raise absent() if wanted else Refused(Code.NOT_FOUND, "you have no space")
    return matching[0]


def _as_id(wanted: int | str) -> int:
    if isinstance(wanted, int):
        return wanted
    number = int(wanted) if wanted.isascii() and wanted.isdigit() else 0
    return number if number <= ID_MAX else 0


async def look(connected: "PoolConnectionProxy", caller: Caller, space: SpaceId, *roles: Role) -> Entered:
    """The space as the caller sees it; raises Refused(NOT_FOUND), or Denied(FORBIDDEN) for other ``roles``."""
    row = await connected.fetchrow(_SEEN, space, caller.user)
    if row is None:
        raise absent()
    seen = msgspec.convert(dict(row), Entered)
    if roles and seen.role not in roles:
        raise Denied(
            Code.FORBIDDEN, f"this takes the role {' or '.join(roles)} in {seen.name}; yours is {seen.role}"
        )
    return seen


async def enter(connected: "PoolConnectionProxy", caller: Caller, space: SpaceId, *roles: Role) -> Entered:
    """The same with the space's row locked: roles and grants of it do not change until the transaction ends."""
    await connected.execute("select from spaces where id = $1 for no key update", space)
    return await look(
        connected, caller, space, *roles
    )  # a statement of its own: it sees what the lock waited for


async def create_team(pool: asyncpg.Pool, caller: Caller, name: str, quota: Quota) -> Space:
    """A team space with the caller as its owner; raises Refused(EXISTS), NoRoom(QUOTA)."""
    async with transaction(pool) as connected:
        await signins.lock_user(connected, caller.user)
        owned = [row["name"] for row in await connected.fetch(_OWNED_NAMES, caller.user)]
        if name in owned:
            raise Refused(Code.EXISTS, f"you have a space named {name} already")
        if len(owned) >= MAX_OWNED:
            raise NoRoom(Code.QUOTA, f"you own {len(owned)} spaces, which is the most: delete one")
        made = await connected.fetchval(_CREATE, caller.user, name, quota.bytes, quota.inodes)
        space = SpaceId(made)
        await audit.record(connected, caller, space, "space.create", name)
    return Space(space, name, "owner", "team", caller.user_name, True, quota.bytes, quota.inodes)


async def delete_team(pool: asyncpg.Pool, caller: Caller, space: SpaceId) -> None:
    """End a team space with all rights to it; its content is purged by the metaserver. Owners only."""
    async with transaction(pool) as connected:
        seen = await enter(connected, caller, space, "owner")
        if seen.kind == "personal":
            raise Refused(Code.NOT_PERMITTED, "a personal space lasts as long as its user")
        await connected.execute("update spaces set deleted_at = clock_timestamp() where id = $1", space)
        await connected.execute("delete from members where space_id = $1", space)
        await connected.execute(_END_GRANTS, space)
        await epochs.raise_space(connected, space)
        await audit.record(connected, caller, space, "space.delete", seen.name)


_SPACES = """
select s.id, s.name, m.role, s.kind, o.name as owner, s.owner_id = $1 as owned, s.quota_bytes, s.quota_inodes
from members m join spaces s on s.id = m.space_id join users o on o.id = s.owner_id
where m.user_id = $1 and s.deleted_at is null
order by s.owner_id <> $1, s.id
"""
_SEEN = """
select s.id, s.name, s.kind, s.owner_id, m.role
from spaces s join members m on m.space_id = s.id and m.user_id = $2
where s.id = $1 and s.deleted_at is null
"""
_OWNED_NAMES = "select name from spaces where owner_id = $1 and deleted_at is null"
_CREATE = """
with made as (
    insert into spaces (owner_id, name, kind, quota_bytes, quota_inodes) values ($1, $2, 'team', $3, $4) returning id
)
insert into members (space_id, user_id, role) select id, $1, 'owner' from made returning space_id
"""
_END_GRANTS = """
update grants set ended_at = clock_timestamp(), end_reason = 'space' where space_id = $1 and ended_at is null
"""
