"""A user's devices: listing them, and taking one's access away.

Revoking raises the membership epoch of every space its user can reach, in the same transaction: servers that
have seen the new epoch refuse the device's older tickets. Other users' devices do not exist for the caller.
"""

from datetime import datetime

import asyncpg
import msgspec

from cloudverge_auth import audit, epochs, signins
from cloudverge_auth.audit import ACCOUNTS
from cloudverge_auth.signins import Caller
from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import DeviceId, UserId
from cloudverge_wire.database import connection, transaction


class Device(msgspec.Struct, frozen=True):
    """A device that may sign in."""

    id: DeviceId
    name: str
    created_at: datetime
    seen_at: datetime


async def list_devices(pool: asyncpg.Pool, user: UserId) -> list[Device]:
    """The user's devices, oldest first."""
    async with connection(pool) as connected:
        rows = await connected.fetch(
            "select id, name, created_at, seen_at from devices where user_id = $1 and revoked_at is null order by id",
            user,
        )
    return [Device(DeviceId(row["id"]), row["name"], row["created_at"], row["seen_at"]) for row in rows]


async def revoke_device(pool: asyncpg.Pool, caller: Caller, device: DeviceId) -> None:
    """Take the access of one of the caller's devices away for ever; raises Refused(NOT_FOUND)."""
    async with transaction(pool) as connected:
        await signins.lock_user(connected, caller.user)
        name = await connected.fetchval(_REVOKE, device, caller.user)
        if name is None:
            raise Refused(Code.NOT_FOUND, "you have no such device")
        await connected.execute(_END_FAMILIES, device)
        await epochs.raise_spaces_of(connected, caller.user)
        await audit.record(connected, caller, ACCOUNTS, "device.revoke", name)


_REVOKE = """
update devices set revoked_at = now() where id = $1 and user_id = $2 and revoked_at is null returning name
"""
_END_FAMILIES = """
update families set ended_at = now(), end_reason = 'revoked' where device_id = $1 and ended_at is null
"""
