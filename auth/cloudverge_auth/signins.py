"""Sign-ins: families of rotating refresh tokens, and who is behind an access token.

A refresh token is good for one use, which gives the next. A second use of one means that two parties hold it,
and we cannot know which is the thief: the family ends, and with it every access token of that sign-in. Only
hashes are stored.
"""

import secrets
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

import asyncpg
import msgspec
import structlog

from cloudverge_auth.tokens import INVALID_MESSAGE, Access
from cloudverge_protocol.errors import Code, Denied
from cloudverge_protocol.ids import DeviceId, UserId
from cloudverge_wire.database import connection, transaction

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

REFRESH_LIFE = timedelta(days=30)
MAX_FAMILIES = 16  # of one device; the oldest ends when one more begins
MAX_REFRESH_CHARS = 128

log = structlog.get_logger("cloudverge.auth")


class Caller(msgspec.Struct, frozen=True):
    """The living user, device and sign-in behind an access token."""

    user: UserId
    user_name: str
    device: DeviceId
    device_name: str
    family: int


class SignIn(msgspec.Struct, frozen=True):
    """A sign-in just made or refreshed: what its access token says, and its next refresh token."""

    user: UserId
    device: DeviceId
    family: int
    refresh_token: str


def _unauthorized() -> Denied:
    return Denied(Code.UNAUTHORIZED, INVALID_MESSAGE)


def _hash(token: str) -> bytes:
    return sha256(token.encode()).digest()


async def begin(connected: "PoolConnectionProxy", user: UserId, device_name: str) -> SignIn:
    """A new family for the user's device of that name, which is made if there is none."""
    device = await connected.fetchval(_DEVICE, user, device_name)
    family = await connected.fetchval("insert into families (device_id) values ($1) returning id", device)
    await connected.execute(_SUPERSEDE, device, MAX_FAMILIES)
    token = await _next_token(connected, family)
    return SignIn(user, DeviceId(device), family, token)


async def _next_token(connected: "PoolConnectionProxy", family: int) -> str:
    token = secrets.token_urlsafe(32)
    await connected.execute(
        "insert into refresh_tokens (hash, family_id, expires_at) values ($1, $2, now() + $3::interval)",
        _hash(token),
        family,
        REFRESH_LIFE,
    )
    return token


async def refresh(pool: asyncpg.Pool, token: str) -> SignIn:
    """Use a refresh token; raises Denied(UNAUTHORIZED), and ends the family if it had been used before."""
    async with transaction(pool) as connected:
        renewed = await _refresh(connected, _hash(token))
    if renewed is None:  # raised outside: the end of a family must be committed
        raise _unauthorized()
    return renewed


async def _refresh(connected: "PoolConnectionProxy", hashed: bytes) -> SignIn | None:
    family = await connected.fetchval(_USE, hashed)
    if family is None:
        await _end_if_reused(connected, hashed)
        return None
    row = await connected.fetchrow(_ALIVE, family)
    if row is None:
        return None
    await connected.execute("update devices set seen_at = now() where id = $1", row["device"])
    token = await _next_token(connected, family)
    return SignIn(UserId(row["user_id"]), DeviceId(row["device"]), family, token)


async def _end_if_reused(connected: "PoolConnectionProxy", hashed: bytes) -> None:
    family = await connected.fetchval(
        "select family_id from refresh_tokens where hash = $1 and used_at is not null", hashed
    )
    if family is not None and await end(connected, family, "reuse"):
        log.warning("a refresh token was used twice: its sign-in is ended", family=family)


async def end(connected: "PoolConnectionProxy", family: int, reason: str) -> bool:
    """End a family; False if it had ended before."""
    done = await connected.execute(
        "update families set ended_at = now(), end_reason = $2 where id = $1 and ended_at is null",
        family,
        reason,
    )
    return bool(done == "UPDATE 1")


async def caller_of(pool: asyncpg.Pool, access: Access) -> Caller:
    """Who holds this (verified) access token; raises Denied(UNAUTHORIZED) if any part of it has ended."""
    async with connection(pool) as connected:
        row = await connected.fetchrow(_ALIVE, access.family)
    if row is None or row["user_id"] != access.user or row["device"] != access.device:
        raise _unauthorized()
    return Caller(access.user, row["user_name"], access.device, row["device_name"], access.family)


_DEVICE = """
insert into devices (user_id, name) values ($1, $2)
on conflict (user_id, name) where revoked_at is null do update set seen_at = now()
returning id
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

_ALIVE = """
select u.id as user_id, u.name as user_name, d.id as device, d.name as device_name
from families f
join devices d on d.id = f.device_id and d.revoked_at is null
join users u on u.id = d.user_id and u.disabled_at is null
where f.id = $1 and f.ended_at is null
"""
