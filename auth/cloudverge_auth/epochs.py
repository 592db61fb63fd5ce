"""Membership epochs: what makes servers refuse tickets that were signed before a right ended.

Raised in the transaction that takes a right away, and in no other: everybody on the space fetches fresh tickets
then. ``lately`` is what servers ask: they have no cursor, so nothing is lost whatever the order of commits.
"""

from typing import TYPE_CHECKING, Final

import asyncpg
import msgspec

from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import Epoch, GrantId, SpaceId, UserId
from cloudverge_wire.database import connection, transaction

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

LATELY_S: Final = 180.0  # three times a ticket's life
MAX_TO_PURGE: Final = 1000


class Ended(msgspec.Struct, frozen=True):
    """What ended within LATELY_S, and the deleted spaces whose content still lies somewhere."""

    spaces: dict[SpaceId, Epoch]
    links: list[GrantId]
    deleted: list[SpaceId]


async def raise_space(connected: "PoolConnectionProxy", space: SpaceId) -> None:
    """Outdate all tickets for one space."""
    await connected.execute(_RAISE + "where id = $1", space)


async def raise_spaces_of(connected: "PoolConnectionProxy", user: UserId) -> None:
    """Outdate all tickets for the spaces the user is a member of or has grants to or has given grants in.

    Spaces are locked in the order of their ids, as by every transaction that locks several.
    """
    await connected.execute(_RAISE + _OF_USER, user)


async def lately(pool: asyncpg.Pool) -> Ended:
    """What servers must know of."""
    async with connection(pool) as connected:
        raised = await connected.fetch(_RAISED, LATELY_S)
        links = await connected.fetch(_LINKS, LATELY_S)
        deleted = await connected.fetch(_DELETED, MAX_TO_PURGE)
    return Ended(
        {SpaceId(row["id"]): Epoch(row["membership_epoch"]) for row in raised},
        [GrantId(row["id"]) for row in links],
        [SpaceId(row["id"]) for row in deleted],
    )


async def purged(pool: asyncpg.Pool, space: SpaceId) -> None:
    """Nothing of a deleted space is left; raises Refused(NOT_FOUND) for one that was not deleted."""
    async with transaction(pool) as connected:
        if await connected.fetchval(_PURGED, space) is None:
            raise Refused(Code.NOT_FOUND, "there is no such deleted space")


_RAISE = "update spaces set membership_epoch = membership_epoch + 1, epoch_raised_at = clock_timestamp() "
_OF_USER = """
where id in (
    select s.id from spaces s
    where exists (select from members m where m.space_id = s.id and m.user_id = $1)
       or exists (select from grants g where g.space_id = s.id and g.ended_at is null
                  and $1 in (g.to_user, g.given_by))
    order by s.id for update of s
)
"""
_RAISED = """
select id, membership_epoch from spaces where epoch_raised_at > clock_timestamp() - make_interval(secs => $1)
"""
# Ended, run out, or given by somebody who was disabled.
_LINKS = """
with since as (select clock_timestamp() - make_interval(secs => $1) as since)
select g.id from grants g, since where g.kind = 'link' and g.ended_at > since
union
select g.id from grants g, since
where g.kind = 'link' and g.ended_at is null and g.until > since and g.until <= clock_timestamp()
union
select g.id from grants g join users u on u.id = g.given_by, since
where g.kind = 'link' and g.ended_at is null and u.disabled_at > since
order by id
"""
_DELETED = "select id from spaces where deleted_at is not null and purged_at is null order by id limit $1"
_PURGED = """
update spaces set purged_at = coalesce(purged_at, now()) where id = $1 and deleted_at is not null returning id
"""
