"""Who may change a space now: checked under the space's lock, from what was committed before it was had.

A session that is not there, one of another space or another user, and one that has been replaced get the same
answer in the same words: open it again. So nobody learns what exists by asking.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from cloudverge_auth.tokens import INVALID_MESSAGE, Identity
from cloudverge_metaserver.applying import Applied
from cloudverge_metaserver.rows import Connection
from cloudverge_protocol.errors import Code, Denied, Refused
from cloudverge_protocol.ids import EntryNumber, Epoch, Incarnation, Seq, SessionId, SpaceId, UserId

FENCED_MESSAGE: Final = "this session has ended or has been replaced: open it again"

_STANDING: Final = """
    select s.revision, s.seq, meta.allowed_bytes(s) as quota_bytes, meta.allowed_inodes(s) as quota_inodes,
        s.owner_quota_bytes + s.owner_quota_inodes > 0 as shares_quota, s.used_bytes, s.used_inodes, s.replicas,
        s.lease_epoch, s.membership_epoch, l.session as holder, l.incarnation as holding, l.epoch as held_epoch,
        ss.user_id, ss.grant_id,
        (select array_agg(i.incarnation order by i.incarnation) from meta.incarnations i
            where i.session = ss.session and i.closed_at is null) as incarnations,
        (select array_agg(i.high_water order by i.incarnation) from meta.incarnations i
            where i.session = ss.session and i.closed_at is null) as high_water
    from meta.spaces s
    left join meta.leases l on l.space = s.space and l.root = 1
    left join meta.sessions ss on ss.session = $2 and ss.space = s.space
    where s.space = $1
"""


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
    shares_quota: bool = False  # with other spaces: it may have changed without this one's lock

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


async def admit(
    connection: Connection,
    identity: Identity,
    session: SessionId,
    incarnation: Incarnation,
    lease_epoch: Epoch,
) -> Admitted:
    """The standing of the session that holds the lease of the caller's space; raises Denied otherwise.

    The space's lock must be held. A lease that has run out but was not taken over is as good as any: nobody
    else has acted under another one.
    """
    row = await connection.fetchrow(_STANDING, identity.space, session)
    if row is None or not _holds(row, identity, session, incarnation, lease_epoch):
        raise fenced()
    if identity.membership_epoch < row["membership_epoch"]:
        raise Denied(Code.UNAUTHORIZED, INVALID_MESSAGE)
    return Admitted(
        identity.space,
        identity.user,
        session,
        incarnation,
        lease_epoch,
        identity.membership_epoch,
        row["revision"],
        Seq(row["seq"]),
        row["quota_bytes"],
        row["quota_inodes"],
        row["used_bytes"],
        row["used_inodes"],
        row["replicas"],
        dict(zip(row["incarnations"] or (), row["high_water"] or (), strict=True)),
        row["shares_quota"],
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
