"""Quotas: what a space may hold, and how far its active mount may go before it asks again.

A space has a quota of its own, and counts in that of its owner with all spaces he owns. A mount answers its programs
at once and commits later, so what it may accept must be its own (I6): of an owner's quota it gets a *promise*, a level
that the use of its space may reach. The lease's row keeps it. What is promised and not used yet is kept from the
owner's other spaces; so all together never accept more than can be stored.

A promise shrinks only with the mount's word. Each renewal brings a *claim*: the level that the mount wants, and beyond
which it accepts nothing until the answer comes. A mount that is idle claims little more than it uses, one that writes
claims ahead. Who is alone is promised all that is allowed. The promise of a lease that has run out lapses: it must not
lock an owner out of his other spaces for as long as a laptop sleeps.

Where the owner has no quota nothing is promised (0), and the mount goes as far as the quota of the space.
"""

from typing import Final, NamedTuple

import asyncpg

from cloudverge_metaserver.rows import Connection
from cloudverge_protocol.ids import SpaceId, UserId

SHARE_BYTES: Final = 256 << 20  # at a time, while other spaces of the owner are active
SHARE_INODES: Final = 4096
LEAST_BYTES: Final = 8 << 20  # is worth an answer: the last bytes are not cut into ever smaller parts
LEAST_INODES: Final = 256

_ALONE: Final = "select pg_advisory_xact_lock(hashtextextended('cloudverge owner', $1))"
_STANDING: Final = """
    select s.used_bytes, s.used_inodes, s.quota_bytes, s.quota_inodes, s.owner, s.owner_quota_bytes,
        s.owner_quota_inodes, others.*, l.promised_bytes as kept_bytes, l.promised_inodes as kept_inodes
    from meta.spaces s
    left join meta.leases l on l.space = s.space and l.root = 1
    left join lateral (
        select coalesce(sum(o.used_bytes), 0)::bigint as others_bytes,
            coalesce(sum(o.used_inodes), 0)::bigint as others_inodes,
            count(ol.space) as active,
            coalesce(sum(greatest(0, ol.promised_bytes - o.used_bytes)), 0)::bigint as reserved_bytes,
            coalesce(sum(greatest(0, ol.promised_inodes - o.used_inodes)), 0)::bigint as reserved_inodes
        from meta.spaces o
        left join meta.leases ol on ol.space = o.space and ol.root = 1 and ol.expires_at > clock_timestamp()
        where o.owner = s.owner and o.space <> s.space
    ) others on s.owner_quota_bytes + s.owner_quota_inodes > 0
    where s.space = $1
"""
_PROMISE: Final = """
    update meta.leases set promised_bytes = $2, promised_inodes = $3 where space = $1 and root = 1
"""


class Measure(NamedTuple):
    """One kind of quota (bytes or inodes) of a space; 0 for what is no limit."""

    used: int
    quota: int
    owner_quota: int
    others: int  # used by the owner's other spaces
    reserved: int  # promised to them beyond that
    active: int  # how many of them have a mount
    kept: int  # promised to this space until now
    share: int
    least: int

    @property
    def allowed(self) -> int:
        """How much the space may hold."""
        return allowed(self.quota, self.owner_quota, self.others)

    def promise(self, claim: int) -> int:
        """How far the mount may go, at least as far as both its claim and the old promise; 0: nothing is shared."""
        if not self.owner_quota:
            return 0
        free = self.allowed - self.used
        left = min(free, self.owner_quota - self.others - self.reserved - self.used)
        if self.active:
            left = min(left, max(self.least, min(self.share, free // (self.active + 1))))
            left = min(left, claim - self.used)
        return max(1, self.used + max(0, left), min(claim, self.kept))


class Told(NamedTuple):
    """What a mount is told."""

    allowed_bytes: int
    allowed_inodes: int
    promised_bytes: int = 0
    promised_inodes: int = 0


def allowed(quota: int, owner_quota: int, others: int) -> int:
    """How much a space may hold: no more than its owner's ``others`` leave of his quota. 0: no limit."""
    if not owner_quota:
        return quota
    return min(quota or owner_quota, max(1, owner_quota - others))


async def alone_of(connection: Connection, owner: UserId) -> None:
    """One at a time of an owner's spaces, until the transaction ends: what each may still have depends on the others.

    Locks are taken in this order: a space's row, its owner, its lease.
    """
    await connection.execute(_ALONE, owner)


async def tell(connection: Connection, space: SpaceId) -> tuple[Told, UserId]:
    """What the space may hold, without a promise, and whose quota it shares (0: nobody's)."""
    row = await connection.fetchrow(_STANDING, space)
    assert row is not None
    return Told(_bytes(row).allowed, _inodes(row).allowed), UserId(row["owner"] if _is_shared(row) else 0)


async def promise(connection: Connection, space: SpaceId, claims: tuple[int, int], *, keeps: bool) -> Told:
    """Promise the space's lease what it may have; the owner's lock must be held.

    Without ``keeps`` the lease is a new one, to which nothing had been promised.
    """
    row = await connection.fetchrow(_STANDING, space)
    assert row is not None
    measures = _bytes(row), _inodes(row)
    if not keeps:
        measures = measures[0]._replace(kept=0), measures[1]._replace(kept=0)
    promised = [measure.promise(claim) for measure, claim in zip(measures, claims, strict=True)]
    await connection.execute(_PROMISE, space, *promised)
    return Told(measures[0].allowed, measures[1].allowed, *promised)


def _is_shared(row: asyncpg.Record) -> bool:
    return bool(row["owner_quota_bytes"] or row["owner_quota_inodes"])


def _bytes(row: asyncpg.Record) -> Measure:
    return _measure(row, "bytes", SHARE_BYTES, LEAST_BYTES)


def _inodes(row: asyncpg.Record) -> Measure:
    return _measure(row, "inodes", SHARE_INODES, LEAST_INODES)


def _measure(row: asyncpg.Record, kind: str, share: int, least: int) -> Measure:
    return Measure(
        used=row[f"used_{kind}"],
        quota=row[f"quota_{kind}"],
        owner_quota=row[f"owner_quota_{kind}"],
        others=row[f"others_{kind}"] or 0,
        reserved=row[f"reserved_{kind}"] or 0,
        active=row["active"] or 0,
        kept=row[f"kept_{kind}"] or 0,
        share=share,
        least=least,
    )
