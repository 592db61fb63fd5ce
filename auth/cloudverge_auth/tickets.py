"""What an identity ticket says: for a member, a grantee, or the holder of a machine token.

Each is read by one statement, so from one moment of the database: that the sign-in, the right and all it hangs on
are alive, together with the space's membership epoch. A right that ends after that moment raises the epoch above
the ticket's; one that ended before it gives no ticket.
"""

from datetime import datetime

import asyncpg
import msgspec

from cloudverge_auth.moments import seconds_of
from cloudverge_auth.secrethash import hash_of
from cloudverge_auth.signins import ALIVE, Caller
from cloudverge_auth.spaces import absent, choose_space, list_spaces
from cloudverge_auth.tokens import INVALID_MESSAGE, Identity, Role
from cloudverge_protocol.errors import Code, Denied, Refused
from cloudverge_protocol.ids import ROOT_INODE, DeviceId, Epoch, GrantId, InodeId, SpaceId, UserId
from cloudverge_wire.database import connection

MACHINE_PREFIX = "cvt_"


class Right(msgspec.Struct, frozen=True):
    """A claim to a space, and how people call what it reaches."""

    identity: Identity
    label: str


class _Row(msgspec.Struct, frozen=True):
    """What the statements below read; for a member there is no grant."""

    user_id: UserId
    user_name: str
    device: DeviceId
    device_name: str
    space: SpaceId
    space_name: str
    membership_epoch: Epoch
    quota_bytes: int
    quota_inodes: int
    owner_id: UserId
    owner: str
    owner_quota_bytes: int
    owner_quota_inodes: int
    role: Role
    grant: GrantId = GrantId(0)
    root: InodeId = ROOT_INODE
    path: str = ""
    label: str = ""
    until: datetime | None = None


async def for_member(pool: asyncpg.Pool, caller: Caller, wanted: int | str) -> Right:
    """The caller's right to a space: its id, its name, or "" (the first own one); raises Refused(NOT_FOUND)."""
    row = await _fetch(pool, _MEMBER, caller.family, await _number_of(pool, caller, wanted))
    if row is None:
        raise absent()
    return right_of(row)


async def _number_of(pool: asyncpg.Pool, caller: Caller, wanted: int | str) -> int:
    """The id of what is wanted; an id needs no look at the caller's spaces, since membership is checked anyway."""
    if isinstance(wanted, int):
        return wanted
    return choose_space(await list_spaces(pool, caller.user), wanted).id


async def for_grantee(pool: asyncpg.Pool, caller: Caller, grant: GrantId) -> Right:
    """The caller's right by a grant to him; raises Refused(NOT_FOUND) for all others."""
    row = await _fetch(pool, _GRANTEE, caller.family, grant)
    if row is None:
        raise Refused(Code.NOT_FOUND, "you have no such grant")
    return right_of(row)


async def for_machine(pool: asyncpg.Pool, token: str) -> Right:
    """The right of who holds this machine token; raises Denied(UNAUTHORIZED)."""
    row = await _fetch(pool, _MACHINE, hash_of(token)) if token.startswith(MACHINE_PREFIX) else None
    if row is None:
        raise Denied(Code.UNAUTHORIZED, INVALID_MESSAGE)
    return right_of(row)


async def _fetch(pool: asyncpg.Pool, query: str, *arguments: int | bytes) -> _Row | None:
    async with connection(pool) as connected:
        row = await connected.fetchrow(query, *arguments)
    return None if row is None else msgspec.convert(dict(row), _Row)


def right_of(row: _Row) -> Right:
    """The claims and the label of what was read."""
    machine = f"{row.user_name} (token: {row.label})" if row.grant and not row.device else ""
    identity = Identity(
        sub=str(row.user_id),
        name=machine or row.user_name,
        device=row.device,
        device_name=row.device_name,
        space=row.space,
        role=row.role,
        membership_epoch=row.membership_epoch,
        quota_bytes=row.quota_bytes,
        quota_inodes=row.quota_inodes,
        owner=row.owner_id,
        owner_quota_bytes=row.owner_quota_bytes,
        owner_quota_inodes=row.owner_quota_inodes,
        grant=row.grant,
        root=row.root,
        until=seconds_of(row.until),
    )
    label = f"{row.path} of {row.owner}'s {row.space_name}" if row.grant else row.space_name
    return Right(identity, label)


_SPACE = """
    s.id as space, s.name as space_name, s.membership_epoch, s.quota_bytes, s.quota_inodes,
    s.owner_id, o.name as owner, o.quota_bytes as owner_quota_bytes, o.quota_inodes as owner_quota_inodes
"""
_GRANT = """
    g.id as grant, g.root, g.path, g.label, g.until, case when g.rw then 'editor' else 'reader' end as role
"""
_OF_SPACE = "join spaces s on s.id = space_id and s.deleted_at is null join users o on o.id = s.owner_id"
_MEMBER = f"""
with alive as ({ALIVE})
select a.user_id, a.user_name, a.device, a.device_name, m.role, {_SPACE}
from alive a join members m on m.user_id = a.user_id and m.space_id = $2 {_OF_SPACE}
"""  # noqa: S608 (all parts are of this package)
_GRANTEE = f"""
with alive as ({ALIVE})
select a.user_id, a.user_name, a.device, a.device_name, {_GRANT}, {_SPACE}
from alive a join working_grants g on g.kind = 'user' and g.to_user = a.user_id and g.id = $2 {_OF_SPACE}
"""  # noqa: S608
_MACHINE = f"""
select u.id as user_id, u.name as user_name, 0 as device, g.label as device_name, {_GRANT}, {_SPACE}
from working_grants g join users u on u.id = g.given_by {_OF_SPACE}
where g.kind = 'token' and g.secret_hash = $1
"""  # noqa: S608
