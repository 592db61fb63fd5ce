"""Members of a space: who they are, inviting, changing a role, removing.

Every space keeps an owner. Who stops being owner or editor loses all grants, tokens and links he has given there,
and every role that is lowered or taken away outdates the space's tickets, in one transaction.

The space counts for the quota of one of its owners; when that one leaves or is lowered, for the one who has been
an owner for longest.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Final

import asyncpg
import msgspec

from cloudverge_auth import audit, epochs, people, spaces
from cloudverge_auth.signins import Caller
from cloudverge_auth.spaces import Entered
from cloudverge_auth.tokens import Role
from cloudverge_protocol.errors import Code, NoRoom, Refused
from cloudverge_protocol.ids import SpaceId, UserId
from cloudverge_wire.database import connection, transaction

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

MAX_MEMBERS: Final = 1000
_RANK: Final[dict[Role, int]] = {"reader": 0, "editor": 1, "owner": 2}


class Member(msgspec.Struct, frozen=True):
    """Somebody in a space."""

    user: str
    role: Role
    since: datetime


class _Found(msgspec.Struct, frozen=True):
    user: UserId
    name: str
    role: Role


def takes_away(before: Role, after: Role) -> bool:
    """Whether a change of role takes a right away."""
    return _RANK[after] < _RANK[before]


async def list_members(pool: asyncpg.Pool, caller: Caller, space: SpaceId) -> list[Member]:
    """All of them, for any of them."""
    async with connection(pool) as connected:
        await spaces.look(connected, caller, space)
        rows = await connected.fetch(_MEMBERS, space)
    return [Member(**dict(row)) for row in rows]


async def add(pool: asyncpg.Pool, caller: Caller, space: SpaceId, name: str, role: Role) -> Member:
    """A new member, by an owner; raises Refused(NOT_FOUND, EXISTS, BUSY)."""
    async with connection(pool) as connected:
        await spaces.look(connected, caller, space, "owner")  # before anything is said about names
    async with people.looking_up(pool, caller), transaction(pool) as connected:
        user = await people.find(connected, name)
        seen = await spaces.enter(connected, caller, space, "owner")
        _check_role(seen, role)
        if await connected.fetchval("select count(*) from members where space_id = $1", space) >= MAX_MEMBERS:
            raise NoRoom(Code.QUOTA, f"{seen.name} has {MAX_MEMBERS} members, which is the most")
        since = await connected.fetchval(_ADD, space, user, role)
        if since is None:
            raise Refused(Code.EXISTS, f"{name} is a member of {seen.name} already")
        await audit.record(connected, caller, space, "member.add", f"{name} as {role}")
    return Member(name, role, since)


async def change(pool: asyncpg.Pool, caller: Caller, space: SpaceId, name: str, role: Role) -> Member:
    """Another role for a member, by an owner."""
    async with transaction(pool) as connected:
        seen = await spaces.enter(connected, caller, space, "owner")
        found = await _find(connected, seen, name)
        if found.role != role:
            _check_role(seen, role)
            await _leave_owners(connected, caller, seen, found)
            await connected.execute(_CHANGE, space, found.user, role)
            if role == "reader":
                await connected.execute(_END_GIVEN, space, found.user)
            if takes_away(found.role, role):
                await epochs.raise_space(connected, space)
            detail = f"{name} from {found.role} to {role}"
            await audit.record(connected, caller, space, "member.role", detail)
        since = await connected.fetchval(
            "select since from members where space_id = $1 and user_id = $2", space, found.user
        )
    return Member(name, role, since)


async def remove(pool: asyncpg.Pool, caller: Caller, space: SpaceId, name: str) -> None:
    """End a membership, by an owner or by the member."""
    roles: tuple[Role, ...] = () if name == caller.user_name else ("owner",)
    async with transaction(pool) as connected:
        seen = await spaces.enter(connected, caller, space, *roles)
        found = await _find(connected, seen, name)
        await _leave_owners(connected, caller, seen, found)
        await connected.execute("delete from members where space_id = $1 and user_id = $2", space, found.user)
        await connected.execute(_END_GIVEN, space, found.user)
        await epochs.raise_space(connected, space)
        await audit.record(connected, caller, space, "member.remove", name)


def _check_role(seen: Entered, role: Role) -> None:
    if seen.kind == "personal" and role == "owner":
        raise Refused(Code.NOT_PERMITTED, "a personal space has one owner: make a team space to have more")


async def _find(connected: "PoolConnectionProxy", seen: Entered, name: str) -> _Found:
    row = await connected.fetchrow(_FIND, seen.id, name)
    if row is None:
        raise Refused(Code.NOT_FOUND, f"{seen.name} has no such member")
    return msgspec.convert(dict(row), _Found)


async def _leave_owners(
    connected: "PoolConnectionProxy", caller: Caller, seen: Entered, found: _Found
) -> None:
    """Before an owner stops being one: there must be another, who takes over what the space counts for."""
    if found.role != "owner":
        return
    heir = await connected.fetchrow(_HEIR, seen.id, found.user)
    if heir is None or seen.kind == "personal":
        raise Refused(
            Code.NOT_PERMITTED, f"{found.name} is the last owner of {seen.name}: make another one first"
        )
    if seen.owner_id == found.user:
        await connected.execute("update spaces set owner_id = $2 where id = $1", seen.id, heir["id"])
        await audit.record(connected, caller, seen.id, "space.owner", f"counts for {heir['name']} now")


_MEMBERS = """
select u.name as user, m.role, m.since from members m join users u on u.id = m.user_id
where m.space_id = $1 order by m.since, u.id
"""
_FIND = """
select u.id as user, u.name, m.role from members m join users u on u.id = m.user_id
where m.space_id = $1 and u.name = $2
"""
_HEIR = """
select u.id, u.name from members m join users u on u.id = m.user_id
where m.space_id = $1 and m.user_id <> $2 and m.role = 'owner' and u.disabled_at is null
order by m.since, u.id limit 1
"""
_ADD = """
insert into members (space_id, user_id, role, since) values ($1, $2, $3, now())
on conflict (space_id, user_id) do nothing returning since
"""
_CHANGE = "update members set role = $3 where space_id = $1 and user_id = $2"
_END_GIVEN = """
update grants set ended_at = clock_timestamp(), end_reason = 'membership'
where space_id = $1 and given_by = $2 and ended_at is null
"""
