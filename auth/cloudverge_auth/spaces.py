"""Spaces a user belongs to, and the identity tickets that say so.

A space that is not the caller's does not exist for the caller: same error, same text.
"""

import asyncpg
import msgspec

from cloudverge_auth.signins import Caller
from cloudverge_auth.tokens import Identity, Role
from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import ID_MAX, Epoch, SpaceId, UserId
from cloudverge_wire.database import connection


class Space(msgspec.Struct, frozen=True):
    """A space as one of its members sees it."""

    id: SpaceId
    name: str
    role: Role
    quota_bytes: int
    quota_inodes: int
    membership_epoch: Epoch
    owned: bool


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
        raise Refused(Code.NOT_FOUND, "you have no such space" if wanted else "you have no space")
    return matching[0]


def _as_id(wanted: int | str) -> int:
    if isinstance(wanted, int):
        return wanted
    number = int(wanted) if wanted.isascii() and wanted.isdigit() else 0
    return number if number <= ID_MAX else 0


def identity_of(caller: Caller, space: Space) -> Identity:
    """The claims of the caller's ticket for a space."""
    return Identity(
        sub=str(caller.user),
        name=caller.user_name,
        device=caller.device,
        device_name=caller.device_name,
        space=space.id,
        role=space.role,
        membership_epoch=space.membership_epoch,
        quota_bytes=space.quota_bytes,
        quota_inodes=space.quota_inodes,
    )


_SPACES = """
select s.id, s.name, m.role, s.quota_bytes, s.quota_inodes, s.membership_epoch, s.owner_id = $1 as owned
from members m join spaces s on s.id = m.space_id
where m.user_id = $1
order by s.owner_id <> $1, s.id
"""
