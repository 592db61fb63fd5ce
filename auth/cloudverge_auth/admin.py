"""What administrators do: see users, disable them, make others administrators, set quotas.

There is always an administrator who can sign in, once there has been one: the last is neither demoted nor disabled.
Disabling ends all sign-ins of a user; what he has given stops working, and works again when he is enabled.
"""

from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg
import msgspec

from cloudverge_auth import audit, epochs, signins
from cloudverge_auth.audit import ACCOUNTS
from cloudverge_auth.signins import Caller
from cloudverge_protocol.errors import Code, Denied, Refused
from cloudverge_protocol.ids import SpaceId, UserId
from cloudverge_wire.database import connection, transaction

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

FOR_ADMINISTRATORS = "this is for administrators"


class User(msgspec.Struct, frozen=True):
    """A user as administrators see him; ``spaces``: how many count for him."""

    user: str
    user_id: UserId
    admin: bool
    disabled: bool
    quota_bytes: int
    quota_inodes: int
    created_at: datetime
    spaces: int


class Change(msgspec.Struct, frozen=True):
    """What shall be otherwise; None: as it is."""

    disabled: bool | None = None
    admin: bool | None = None
    quota_bytes: int | None = None
    quota_inodes: int | None = None

    def described(self) -> str:
        """For the log."""
        said = {name: getattr(self, name) for name in self.__struct_fields__}
        return ", ".join(f"{name} {str(value).lower()}" for name, value in said.items() if value is not None)


async def list_users(pool: asyncpg.Pool) -> list[User]:
    """All, in order of their names."""
    async with connection(pool) as connected:
        rows = await connected.fetch(_USERS + "order by u.name")
    return [User(**dict(row)) for row in rows]


async def change_user(pool: asyncpg.Pool, caller: Caller, name: str, change: Change) -> User:
    """Raises Refused(NOT_FOUND, NOT_PERMITTED)."""
    async with transaction(pool) as connected:
        locked = await connected.fetch(
            _LOCK, name
        )  # all administrators too, so that two do not end each other
        if not any(row["id"] == caller.user and row["able"] for row in locked):
            raise Denied(Code.FORBIDDEN, FOR_ADMINISTRATORS)
        target = next((row for row in locked if row["name"] == name), None)
        if target is None:
            raise Refused(Code.NOT_FOUND, "there is no user of that name")
        others = [row for row in locked if row["able"] and row["name"] != name]
        if target["able"] and not others and (change.disabled or change.admin is False):
            raise Refused(Code.NOT_PERMITTED, f"{name} is the last administrator: make another one first")
        row = await _apply(connected, caller, UserId(target["id"]), name, change)
    return User(**dict(row))


async def _apply(
    connected: "PoolConnectionProxy", caller: Caller, user: UserId, name: str, change: Change
) -> asyncpg.Record:
    quotas = (change.quota_bytes, change.quota_inodes)
    await connected.execute(_CHANGE, user, change.disabled, change.admin, *quotas)
    if change.disabled:
        await signins.end_others(connected, user, 0, "disabled")
        await epochs.raise_spaces_of(connected, user)
    if said := change.described():
        await audit.record(connected, caller, ACCOUNTS, "user.change", f"{name}: {said}")
    row = await connected.fetchrow(_USERS + "where u.id = $1", user)
    assert row is not None
    return row


async def change_space(
    pool: asyncpg.Pool, caller: Caller, space: SpaceId, quota_bytes: int | None, quota_inodes: int | None
) -> None:
    """Set a space's quota (0: none); raises Refused(NOT_FOUND)."""
    async with transaction(pool) as connected:
        if await connected.fetchval(_QUOTA, space, quota_bytes, quota_inodes) is None:
            raise Refused(Code.NOT_FOUND, "there is no such space")
        said = Change(quota_bytes=quota_bytes, quota_inodes=quota_inodes).described()
        if said:
            await audit.record(connected, caller, space, "space.quota", said)


_USERS = """
select u.name as user, u.id as user_id, u.admin, u.disabled_at is not null as disabled,
    u.quota_bytes, u.quota_inodes, u.created_at,
    (select count(*) from spaces s where s.owner_id = u.id and s.deleted_at is null) as spaces
from users u
"""
_LOCK = """
select id, name, admin and disabled_at is null as able from users where admin or name = $1
order by id for no key update
"""
_CHANGE = """
update users set
    disabled_at = case when $2 then coalesce(disabled_at, clock_timestamp()) when not $2 then null
                       else disabled_at end,
    admin = coalesce($3, admin),
    quota_bytes = coalesce($4, quota_bytes),
    quota_inodes = coalesce($5, quota_inodes)
where id = $1
"""
_QUOTA = """
update spaces set quota_bytes = coalesce($2, quota_bytes), quota_inodes = coalesce($3, quota_inodes)
where id = $1 and deleted_at is null returning id
"""
