"""Who may change a space now: checked under the space's lock, from what was committed before it was had.

A session that is not there, one of another space or another user, and one that has been replaced get the same
answer in the same words: open it again. So nobody learns what exists by asking.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from cloudverge_auth.tokens import INVALID_MESSAGE, Identity
from cloudverge_metaserver.applying import Applied
from cloudverge_metaserver.quotas import allowed, alone_of
from cloudverge_metaserver.rows import Connection
from cloudverge_protocol.errors import Code, Denied, Refused
from cloudverge_protocol.ids import EntryNumber, Epoch, Incarnation, Seq, SessionId, SpaceId, UserId

FENCED_MESSAGE: Final = "this session has ended or has been replaced: open it again"

_STANDING: Final = """
    select s.revision, s.seq,
        (s.quota_bytes, s.quota_inodes, s.owner, s.owner_quota_bytes, s.owner_quota_inodes) as terms,
        s.used_bytes, s.used_inodes, s.replicas,
        s.lease_epoch, s.membership_epoch, l.session as holder, l.incarnation as holding, l.epoch as held_epoch,
        ss.user_id, ss.grant_id, others.used_bytes as others_bytes, others.used_inodes as others_inodes,
        (select array_agg(i.incarnation order by i.incarnation) from meta.incarnations i
            where i.session = ss.session and i.closed_at is null) as incarnations,
        (select array_agg(i.high_water order by i.incarnation) from meta.incarnations i
            where i.session = ss.session and i.closed_at is null) as high_water
    from meta.spaces s
    left join meta.leases l on l.space = s.space and l.root = 1
    left join meta.sessions ss on ss.session = $2 and ss.space = s.space
    left join lateral (
        select coalesce(sum(o.used_bytes), 0)::bigint as used_bytes,
            coalesce(sum(o.used_inodes), 0)::bigint as used_inodes
        from meta.spaces o where o.owner = $3 and o.space <> s.space
    ) others on $4 or s.owner_quota_bytes + s.owner_quota_inodes > 0
    where s.space = $1
"""
Terms = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A space whose lock is held, and the session that may change it."""

    space: SpaceId
    user: UserId
    session: SessionId
    incarnation: Incarnation
    lease_epoch: Epoch
    membership_epoch: Epoch
    revision: int  # of the space while this holds
    seq: Seq
    quota_bytes: int  # of the space, or what its owner's other spaces leave of his
    quota_inodes: int
    used_bytes: int
    used_inodes: int
    replicas: int
    high_water: Mapping[Incarnation, EntryNumber]
    terms: Terms = (0, 0, 0, 0, 0)  # ``terms_of`` the ticket
    limits: Terms = (0, 0, 0, 0, 0)  # those that hold

    @property
    def shares_quota(self) -> bool:
        """With other spaces of the owner: it may have changed without this one's lock."""
        return is_shared(self.limits)

    def after(self, applied: Applied, used_bytes: int, revision: int) -> "Admitted":
        """The same session once this has been committed."""
        return replace(
            self,
            revision=revision,
            seq=applied.seq,
            used_bytes=used_bytes,
            used_inodes=applied.used_inodes,
            high_water={**self.high_water, **applied.high_water},
        )


def terms_of(identity: Identity) -> Terms:
    """What a ticket tells of its space: its quota, its owner and the owner's quota."""
    return (
        identity.quota_bytes,
        identity.quota_inodes,
        identity.owner,
        identity.owner_quota_bytes,
        identity.owner_quota_inodes,
    )


def _tighter(told: Terms, known: Iterable[int]) -> Terms:
    """The lower of each quota, 0 being none; the owner is the one that the ticket tells."""
    lowest = [min(a, b) or max(a, b) for a, b in zip(told, known, strict=True)]
    return lowest[0], lowest[1], told[2], lowest[3], lowest[4]


def is_shared(terms: Terms) -> bool:
    """Whether the owner has a quota, which counts with what his other spaces use."""
    return terms[3] + terms[4] > 0


def fenced() -> Denied:
    """The one answer to a session that may not act."""
    return Denied(Code.FENCED, FENCED_MESSAGE)


def no_space() -> Refused:
    """The one answer to a space that is not the caller's, whether it exists or not."""
    return Refused(Code.NOT_FOUND, "there is no such space")


def check_space(identity: Identity, space: SpaceId) -> None:
    """Refuse a space that the caller's ticket is not for."""
    if space != identity.space:
        raise no_space()


def check_writer(identity: Identity) -> None:
    """Refuse a role that may not change anything."""
    if not identity.may_write:
        raise Denied(Code.READ_ONLY, "your role in this space allows reading only")


async def _standing(connection: Connection, identity: Identity, session: SessionId) -> asyncpg.Record | None:
    shares = is_shared(terms_of(identity))
    return await connection.fetchrow(_STANDING, identity.space, session, identity.owner, shares)


async def admit(
    connection: Connection,
    identity: Identity,
    session: SessionId,
    incarnation: Incarnation,
    lease_epoch: Epoch,
) -> Admitted:
    """The standing of the session that holds the lease of the caller's space; raises Denied otherwise.

    The space's lock must be held. A lease that has run out but was not taken over is as good as any: nobody
    else has acted under another one. Of the quota that the ticket tells, and that which is known (a renewal has told
    it), the tighter one holds: who does not renew, or comes with an older ticket, gains nothing.
    """
    row = await _standing(connection, identity, session)
    if row is None or not _holds(row, identity, session, incarnation, lease_epoch):
        raise fenced()
    if identity.membership_epoch < row["membership_epoch"]:
        raise Denied(Code.UNAUTHORIZED, INVALID_MESSAGE)
    limits = _tighter(terms_of(identity), row["terms"])
    if is_shared(limits):
        await alone_of(connection, identity.owner)
        row = await _standing(connection, identity, session)
        assert row is not None
    return Admitted(
        identity.space,
        identity.user,
        session,
        incarnation,
        lease_epoch,
        identity.membership_epoch,
        row["revision"],
        Seq(row["seq"]),
        allowed(limits[0], limits[3], row["others_bytes"] or 0),
        allowed(limits[1], limits[4], row["others_inodes"] or 0),
        row["used_bytes"],
        row["used_inodes"],
        row["replicas"],
        dict(zip(row["incarnations"] or (), row["high_water"] or (), strict=True)),
        terms_of(identity),
        limits,
    )


def _holds(
    row: asyncpg.Record, identity: Identity, session: SessionId, incarnation: Incarnation, epoch: Epoch
) -> bool:
    return bool(
        row["user_id"] == identity.user
        and row["grant_id"] == identity.grant
        and row["holder"] == session
        and row["holding"] == incarnation
        and row["held_epoch"] == epoch == row["lease_epoch"]
    )
