"""Invitations: one-time secrets with which a stranger becomes a user, or a user an administrator.

Only hashes are stored. Each is used once, however many try at once, and in the transaction of what it is used
for: a sign-up that fails leaves it unused.
"""

import secrets
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

import asyncpg
import msgspec

from cloudverge_auth import audit
from cloudverge_auth.audit import ACCOUNTS, OPERATOR
from cloudverge_auth.secrethash import hash_of
from cloudverge_auth.signins import Caller
from cloudverge_protocol.errors import Code, Denied, Refused
from cloudverge_protocol.ids import UserId
from cloudverge_wire.database import connection, transaction

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

MAX_LISTED: Final = 1000
NOT_VALID: Final = "this invitation is not valid: it is misspelt, used, withdrawn, or over"
State = Literal["open", "used", "revoked", "expired"]


class Invite(msgspec.Struct, frozen=True):
    """An invitation as administrators see it."""

    id: int
    admin: bool
    by: str  # "": the operator
    created_at: datetime
    until: datetime | None
    state: State
    used_by: str


async def make(pool: asyncpg.Pool, caller: Caller, admin: bool, until: datetime | None) -> tuple[int, str]:
    """A new invitation: its id and its secret, which is not shown again."""
    secret = secrets.token_urlsafe(32)
    async with transaction(pool) as connected:
        number = await connected.fetchval(_INSERT, hash_of(secret), admin, caller.user, until)
        kind = "an administrator" if admin else "a user"
        await audit.record(connected, caller, ACCOUNTS, "invite.make", f"{number}: for {kind}")
    return number, secret


async def take_in(pool: asyncpg.Pool, secret: str) -> bool:
    """Accept an administrator's invitation that the operator wrote down; False if it was known before."""
    async with transaction(pool) as connected:
        number = await connected.fetchval(_INSERT, hash_of(secret), True, None, None)
        if number is not None:
            await audit.record(
                connected, OPERATOR, ACCOUNTS, "invite.make", f"{number}: for an administrator"
            )
    return number is not None


async def list_invites(pool: asyncpg.Pool) -> list[Invite]:
    """The newest first."""
    async with connection(pool) as connected:
        rows = await connected.fetch(_LIST, MAX_LISTED)
    return [Invite(**dict(row)) for row in rows]


async def revoke(pool: asyncpg.Pool, caller: Caller, invite: int) -> None:
    """Withdraw one that was not used yet; raises Refused(NOT_FOUND)."""
    async with transaction(pool) as connected:
        if await connected.fetchval(_REVOKE, invite) is None:
            raise Refused(Code.NOT_FOUND, "there is no such open invitation")
        await audit.record(connected, caller, ACCOUNTS, "invite.revoke", str(invite))


async def kind_of(pool: asyncpg.Pool, secret: str) -> Literal["user", "admin"] | None:
    """What an invitation is good for now; None: nothing."""
    async with connection(pool) as connected:
        admin = await connected.fetchval(_KIND, hash_of(secret))
    return None if admin is None else "admin" if admin else "user"


async def use(connected: "PoolConnectionProxy", secret: str, user: UserId) -> bool:
    """Use it up for ``user``; whether it makes an administrator. Raises Denied(FORBIDDEN)."""
    admin = await connected.fetchval(_USE, hash_of(secret), user)
    if admin is None:
        raise Denied(Code.FORBIDDEN, NOT_VALID)
    return bool(admin)


async def claim(pool: asyncpg.Pool, caller: Caller, secret: str) -> None:
    """Make the caller an administrator; raises Denied(FORBIDDEN), Refused(EXISTS) if he is one."""
    async with transaction(pool) as connected:
        if await connected.fetchval(_PROMOTE, caller.user) is None:
            raise Refused(Code.EXISTS, "you are an administrator already; the invitation was not used")
        if not await use(connected, secret, caller.user):
            raise Denied(Code.FORBIDDEN, NOT_VALID)
        await audit.record(connected, caller, ACCOUNTS, "admin.claim", caller.user_name)


_INSERT = """
insert into invites (hash, admin, made_by, until) values ($1, $2, $3, $4) on conflict (hash) do nothing returning id
"""
_LIST = """
select i.id, i.admin, coalesce(m.name, '') as by, i.created_at, i.until, coalesce(u.name, '') as used_by,
    case when i.used_at is not null then 'used' when i.revoked_at is not null then 'revoked'
         when i.until <= now() then 'expired' else 'open' end as state
from invites i left join users m on m.id = i.made_by left join users u on u.id = i.used_by
order by i.id desc limit $1
"""
_KIND = "select admin from open_invites where hash = $1"
_REVOKE = "update open_invites set revoked_at = now() where id = $1 returning id"
_USE = "update open_invites set used_at = now(), used_by = $2 where hash = $1 returning admin"
_PROMOTE = "update users set admin = true where id = $1 and not admin returning id"
