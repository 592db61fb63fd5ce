"""Sign-ins: families of rotating refresh tokens, and who is behind an access token.

A refresh token is good for one use, which gives the next. A second use of one means that two parties hold it,
and we cannot know which is the thief: the family ends, and with it every access token of that sign-in. Only
hashes are stored.

An answer can be lost on the way, and its asker would be signed out. So he may choose the next token himself, and keep
it before he asks: who comes again with both, the spent one and the one that it was traded for, is he, as long as that
one has not been used either. A thief of the first does not know the second.

Whoever ends or begins sign-ins of a user first locks the user's row (``lock_user``): a sign-in that was checked
before a password change cannot begin after it.
"""

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg
import msgspec
import structlog

from cloudverge_auth import audit, epochs
from cloudverge_auth.audit import ACCOUNTS, Actor
from cloudverge_auth.secrethash import hash_of
from cloudverge_auth.tokens import INVALID_MESSAGE, Access
from cloudverge_protocol.errors import Code, Denied
from cloudverge_protocol.ids import DeviceId, UserId
from cloudverge_wire.database import connection, transaction

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

REFRESH_LIFE = timedelta(days=30)
MAX_FAMILIES = 16  # of one device; the oldest ends when one more begins
MAX_REFRESH_CHARS = 128
REFRESH_BYTES = 32
REFRESH_CHARS = 43  # of so many bytes in base64

log = structlog.get_logger("cloudverge.auth")


class Caller(Actor, frozen=True):
    """The living user, device and sign-in behind an access token."""

    family: int
    admin: bool


class SignIn(msgspec.Struct, frozen=True):
    """A sign-in just made or refreshed: what its access token says, and its next refresh token."""

    user: UserId
    device: DeviceId
    family: int
    refresh_token: str


def _unauthorized() -> Denied:
    return Denied(Code.UNAUTHORIZED, INVALID_MESSAGE)


async def lock_user(connected: "PoolConnectionProxy", user: UserId) -> None:
    """Let no other transaction begin or end sign-ins of this user meanwhile."""
    await connected.execute("select from users where id = $1 for no key update", user)


async def begin(connected: "PoolConnectionProxy", user: UserId, user_name: str, device_name: str) -> SignIn:
    """A new family for the user's device of that name, which is made (and logged) if there is none."""
    row = await connected.fetchrow(_DEVICE, user, device_name)
    assert row is not None
    device = row["id"]
    if row["made"]:
        actor = Actor(user, user_name, DeviceId(device), device_name)
        await audit.record(connected, actor, ACCOUNTS, "device.add", device_name)
    family = await connected.fetchval("insert into families (device_id) values ($1) returning id", device)
    await connected.execute(_SUPERSEDE, device, MAX_FAMILIES)
    token = secrets.token_urlsafe(REFRESH_BYTES)
    await _keep(connected, family, token, None)
    return SignIn(user, DeviceId(device), family, token)


async def _keep(connected: "PoolConnectionProxy", family: int, token: str, prior: bytes | None) -> bool:
    """False: there is such a token already."""
    done = await connected.execute(_KEEP, hash_of(token), family, REFRESH_LIFE, prior)
    return bool(done == "INSERT 0 1")


async def refresh(pool: asyncpg.Pool, token: str, chosen: str = "") -> SignIn:
    """Use a refresh token; raises Denied(UNAUTHORIZED), and ends the family if it had been used before.

    ``chosen``: what the next one shall be, REFRESH_CHARS characters made at random; "": ours to make. With the same one
    it may be asked for again. Who holds a token of a device that was revoked is told so (FORBIDDEN): it must not sign
    in again by itself.
    """
    async with transaction(pool) as connected:
        renewed = await _refresh(connected, hash_of(token), chosen)
        revoked = renewed is None and await connected.fetchval(_OF_REVOKED, hash_of(token))
    if revoked:
        raise Denied(Code.FORBIDDEN, "this device has been revoked")
    if renewed is None:  # raised outside: the end of a family must be committed
        raise _unauthorized()
    return renewed


async def _refresh(connected: "PoolConnectionProxy", hashed: bytes, chosen: str) -> SignIn | None:
    token = chosen or secrets.token_urlsafe(REFRESH_BYTES)
    family = await connected.fetchval(_USE, hashed)
    is_again = family is None and bool(chosen)
    if is_again:
        family = await connected.fetchval(_TRADED, hashed, hash_of(chosen))
    if family is None:
        await _end_if_reused(connected, hashed)
        return None
    row = await connected.fetchrow(ALIVE, family)
    if row is None or not (is_again or await _keep(connected, family, token, hashed)):
        return None
    await connected.execute("update devices set seen_at = now() where id = $1", row["device"])
    return SignIn(UserId(row["user_id"]), DeviceId(row["device"]), family, token)


async def _end_if_reused(connected: "PoolConnectionProxy", hashed: bytes) -> None:
    row = await connected.fetchrow(_USED, hashed)
    if row is None:
        return
    actor = Actor(UserId(row["user_id"]), row["user_name"], DeviceId(row["device"]), row["device_name"])
    await lock_user(connected, actor.user)
    if await end(connected, row["family_id"], "reuse"):
        log.warning("a refresh token was used twice: its sign-in is ended", family=row["family_id"])
        await epochs.raise_spaces_of(connected, actor.user)
        await audit.record(connected, actor, ACCOUNTS, "signin.reuse", "a refresh token was used twice")


async def end(connected: "PoolConnectionProxy", family: int, reason: str) -> bool:
    """End a family; False if it had ended before."""
    done = await connected.execute(
        "update families set ended_at = now(), end_reason = $2 where id = $1 and ended_at is null",
        family,
        reason,
    )
    return bool(done == "UPDATE 1")


async def end_others(connected: "PoolConnectionProxy", user: UserId, spared: int, reason: str) -> None:
    """End all families of a user but one (0: all)."""
    await connected.execute(_END_OTHERS, user, spared, reason)


async def caller_of(pool: asyncpg.Pool, access: Access) -> Caller:
    """Who holds this (verified) access token; raises Denied(UNAUTHORIZED) if any part of it has ended."""
    async with connection(pool) as connected:
        row = await connected.fetchrow(ALIVE, access.family)
    if row is None or row["user_id"] != access.user or row["device"] != access.device:
        raise _unauthorized()
    names = (row["user_name"], access.device, row["device_name"])
    return Caller(access.user, *names, family=access.family, admin=row["admin"])


_DEVICE = """
insert into devices (user_id, name) values ($1, $2)
on conflict (user_id, name) where revoked_at is null do update set seen_at = now()
returning id, xmax = 0 as made
"""

_SUPERSEDE = """
update families set ended_at = now(), end_reason = 'superseded'
where id in (
    select id from families where device_id = $1 and ended_at is null order by id desc offset $2
)
"""

_USE = """
update refresh_tokens set used_at = now()
where hash = $1 and used_at is null and expires_at > now()
returning family_id
"""

_KEEP = """
insert into refresh_tokens (hash, family_id, expires_at, prior) values ($1, $2, now() + $3::interval, $4)
on conflict do nothing
"""

_TRADED = """
select family_id from refresh_tokens where hash = $2 and prior = $1 and used_at is null and expires_at > now()
"""

_USED = """
select t.family_id, u.id as user_id, u.name as user_name, d.id as device, d.name as device_name
from refresh_tokens t
join families f on f.id = t.family_id join devices d on d.id = f.device_id join users u on u.id = d.user_id
where t.hash = $1 and t.used_at is not null
"""

_OF_REVOKED = """
select true from refresh_tokens t
join families f on f.id = t.family_id join devices d on d.id = f.device_id
where t.hash = $1 and d.revoked_at is not null
"""

_END_OTHERS = """
update families set ended_at = now(), end_reason = $3
where ended_at is null and id <> $2 and device_id in (select id from devices where user_id = $1)
"""

# Of the family $1: who it belongs to, if all of it is alive.
ALIVE = """
select u.id as user_id, u.name as user_name, u.admin, d.id as device, d.name as device_name
from families f
join devices d on d.id = f.device_id and d.revoked_at is null
join users u on u.id = d.user_id and u.disabled_at is null
where f.id = $1 and f.ended_at is null
"""
