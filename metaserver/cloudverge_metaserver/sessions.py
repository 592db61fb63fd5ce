"""Sessions: SESSION_OPEN, RENEW, CLOSE, INCARNATION_CLOSE, IDS.

A session is one cache folder of one user on one space; each start of its mount is an incarnation. The one that
holds the lease may change the space. Whoever gets the lease gets a new lease epoch, so everything sent under
an older one is refused from then on; the incarnations that lose it are fenced: what they wrote stays pinned
until their journal has been shipped (by the next mount of the same cache folder) or 7 days have gone.

A space comes into being with the first session on it.
"""

import time
from typing import Final

import asyncpg

from cloudverge_auth.tokens import INVALID_MESSAGE, Identity
from cloudverge_metaserver.admission import admit, check_space, check_writer, fenced, is_shared, terms_of
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.incarnations import add_range, close_incarnation
from cloudverge_metaserver.leases import Held, in_use, wait_to_open
from cloudverge_metaserver.placement import placeable_bytes
from cloudverge_metaserver.quotas import Told, alone_of, promise, tell
from cloudverge_metaserver.rows import Connection
from cloudverge_metaserver.subtree import check_root
from cloudverge_protocol.errors import Code, Denied, ProtocolFault, Refused
from cloudverge_protocol.ids import EntryNumber, Epoch, Incarnation, SessionId, UserId
from cloudverge_protocol.inodes import root_inode
from cloudverge_protocol.messages import (
    Ids,
    IdsReply,
    IncarnationClose,
    SessionOpen,
    SessionRef,
    SessionRenewed,
    SessionReply,
)

CACHE_ID_BYTES: Final = 16
TEXT_MAX: Final = 512
IDS_AT_OPEN: Final = 16_384
IDS_MAX: Final = 1_000_000
NEXT_ID_MAX: Final = 1 << 62
_ALL: Final = (1 << 62, 1 << 62)  # a claim to whatever there is
_ROOT_MODE: Final = 0o755

_NEW_SPACE: Final = """
    with made as (
        insert into meta.spaces (space, replicas, membership_epoch, quota_bytes, quota_inodes,
            owner, owner_quota_bytes, owner_quota_inodes)
        values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing returning space
    )
    insert into meta.inodes (space, ino, mode, uid, gid, nlink, size,
        atime_ns, mtime_ns, ctime_ns, btime_ns, parent, version)
    select space, $9, $10, 0, 0, 2, 0, $11, $11, $11, $11, $9, 0 from made
"""
_LEASE: Final = """
    select s.membership_epoch, l.session, l.incarnation, ss.device_name,
        extract(epoch from l.expires_at - clock_timestamp())::float8 as left_s,
        extract(epoch from clock_timestamp() - pg_postmaster_start_time())::float8 as up_s
    from meta.spaces s
    left join meta.leases l on l.space = s.space and l.root = 1
    left join meta.sessions ss on ss.session = l.session
    where s.space = $1
"""
_LOCK: Final = "update meta.spaces set revision = revision + 1 where space = $1"
_HOLD_LEASE: Final = "select from meta.leases where space = $1 and root = 1 for update"
_SESSION: Final = """
    insert into meta.sessions (space, user_id, cache_id, device, device_name, mountpoint, grant_id, user_name)
    values ($1, $2, $3, $4, $5, $6, $7, $8)
    on conflict (space, cache_id, user_id, grant_id) do update set device = excluded.device,
        device_name = excluded.device_name, mountpoint = excluded.mountpoint, user_name = excluded.user_name,
        opened_at = now(), closed_at = null
    returning session
"""
_INCARNATION: Final = """
    insert into meta.incarnations (session, space) values ($1, $2) returning incarnation
"""
_FENCE: Final = """
    update meta.incarnations set fenced_at = clock_timestamp()
    where session = any($1::bigint[]) and incarnation <> $2 and fenced_at is null
"""
_TAKE_LEASE: Final = """
    with raised as (
        update meta.spaces set lease_epoch = lease_epoch + 1, next_id = next_id + $5,
            membership_epoch = greatest(membership_epoch, $6), quota_bytes = $7, quota_inodes = $8,
            owner = $9, owner_quota_bytes = $10, owner_quota_inodes = $11
        where space = $1 returning *
    ), granted as (
        insert into meta.leases (space, root, session, incarnation, epoch, granted_at, expires_at)
        select space, 1, $2, $3, lease_epoch, clock_timestamp(), clock_timestamp() + $4::float8 * interval '1 s'
        from raised
        on conflict (space, root) do update set session = excluded.session, incarnation = excluded.incarnation,
            epoch = excluded.epoch, granted_at = excluded.granted_at, expires_at = excluded.expires_at
    ), ranged as (
        insert into meta.id_ranges (incarnation, first, count, session) select $3, next_id - $5, $5, $2 from raised
    )
    select raised.*, raised.next_id - $5 as first_id,
        (select array_agg((i.incarnation, i.high_water) order by i.incarnation) from meta.incarnations i
            where i.session = $2 and i.closed_at is null) as open_incarnations
    from raised
"""
_RENEW: Final = """
    update meta.leases l set expires_at = clock_timestamp() + $5::float8 * interval '1 s'
    from meta.spaces s, meta.sessions ss
    where l.space = $1 and l.root = 1 and l.session = $2 and l.incarnation = $3 and l.epoch = $4
        and s.space = l.space and s.lease_epoch = l.epoch and ss.session = l.session and ss.user_id = $6
        and ss.grant_id = $7
    returning s.seq, s.used_bytes, s.used_inodes, s.replicas
"""
_READER: Final = """
    select s.seq, s.used_bytes, s.used_inodes, s.replicas
    from meta.spaces s join meta.sessions ss on ss.space = s.space and ss.session = $2 and ss.user_id = $4
        and ss.grant_id = $5
    join meta.incarnations i on i.session = ss.session and i.incarnation = $3 and i.closed_at is null
    where s.space = $1
"""
_STILL_HOLDS: Final = """
    select 1 from meta.leases where space = $1 and root = 1 and session = $2 and epoch = $3 for update
"""
_QUOTA: Final = """
    update meta.spaces set membership_epoch = greatest(membership_epoch, $2), quota_bytes = $3, quota_inodes = $4,
        owner = $5, owner_quota_bytes = $6, owner_quota_inodes = $7, revision = revision + 1
    where space = $1 and membership_epoch <= $2 and
        (quota_bytes, quota_inodes, owner, owner_quota_bytes, owner_quota_inodes) is distinct from ($3, $4, $5, $6, $7)
"""
_FREE: Final = """
    select free_bytes from meta.servers
    where last_seen > now() - interval '1 min' and not draining and not "full"
"""


class Sessions:
    """The handlers; ``lease_s`` and ``replicas`` as the operator set them."""

    def __init__(self, database: Database, lease_s: float, replicas: int) -> None:
        self._database, self._lease_s, self._replicas = database, lease_s, replicas

    async def open(self, identity: Identity, message: SessionOpen) -> SessionReply:
        """Open, reopen or take over; raises Denied(SPACE_IN_USE) while another mount has the space."""
        check_space(identity, message.space)
        if len(message.cache_id) != CACHE_ID_BYTES:
            raise ProtocolFault(Code.BAD_REQUEST, f"a cache id has {CACHE_ID_BYTES} bytes")
        async with self._database.on_space(message.space) as connection:
            if is_shared(terms_of(identity)):
                await alone_of(connection, identity.owner)
            lease = await self._lease(connection, identity)
            if identity.membership_epoch < lease["membership_epoch"]:
                raise Denied(Code.UNAUTHORIZED, INVALID_MESSAGE)
            if identity.is_confined:
                await check_root(connection, identity)
            session = await self._session(connection, identity, message)
            if not identity.may_write:
                return await self._open_reader(connection, identity, session)
            held = None
            if lease["session"] is not None:
                held = Held(
                    lease["session"], lease["incarnation"], lease["device_name"] or "?", lease["left_s"]
                )
                steady_s = min(lease["up_s"], time.monotonic() - self._database.steady_since_s)
                if wait_s := wait_to_open(held, session, steady_s, self._lease_s):
                    raise in_use(held, wait_s)
            return await self._take(connection, identity, session, held)

    async def _lease(self, connection: Connection, identity: Identity) -> asyncpg.Record:
        """The lease as it stands; a renewal that comes now waits until we have decided."""
        await connection.execute(_HOLD_LEASE, identity.space)
        row = await connection.fetchrow(_LEASE, identity.space)
        if row is None:
            await self._make_space(connection, identity)
            await connection.execute(_LOCK, identity.space)
            row = await connection.fetchrow(_LEASE, identity.space)
        assert row is not None
        return row

    async def _make_space(self, connection: Connection, identity: Identity) -> None:
        root = root_inode(time.time_ns(), _ROOT_MODE)
        await connection.execute(
            _NEW_SPACE,
            identity.space,
            self._replicas,
            identity.membership_epoch,
            *terms_of(identity),
            root.ino,
            root.mode,
            root.mtime_ns,
        )

    async def _session(self, connection: Connection, identity: Identity, message: SessionOpen) -> SessionId:
        name = _shown(message.device_name or identity.device_name)
        mountpoint = _shown(message.mountpoint)
        return SessionId(
            await connection.fetchval(
                _SESSION,
                identity.space,
                identity.user,
                message.cache_id,
                identity.device,
                name,
                mountpoint,
                identity.grant,
                _shown(identity.name),
            )
        )

    async def _take(
        self, connection: Connection, identity: Identity, session: SessionId, held: Held | None
    ) -> SessionReply:
        incarnation = await connection.fetchval(_INCARNATION, session, identity.space)
        losers = [session] if held is None else [session, held.session]
        await connection.execute(_FENCE, losers, incarnation)
        row = await connection.fetchrow(
            _TAKE_LEASE,
            identity.space,
            session,
            incarnation,
            self._lease_s,
            IDS_AT_OPEN,
            identity.membership_epoch,
            *terms_of(identity),
        )
        assert row is not None
        if is_shared(terms_of(identity)):
            keeps = held is not None and held.session == session and held.left_s > 0
            told = await promise(connection, identity.space, _ALL, keeps=keeps)
        else:
            told, _ = await tell(connection, identity.space)
        return SessionReply(
            session,
            Incarnation(incarnation),
            row["lease_epoch"],
            self._lease_s,
            row["seq"],
            tuple((i, n) for i, n in row["open_incarnations"]),
            row["first_id"],
            IDS_AT_OPEN,
            row["replicas"],
            told.allowed_bytes,
            told.allowed_inodes,
            row["used_bytes"],
            row["used_inodes"],
            confined=identity.is_confined,
            promised_bytes=told.promised_bytes,
            promised_inodes=told.promised_inodes,
        )

    async def _open_reader(
        self, connection: Connection, identity: Identity, session: SessionId
    ) -> SessionReply:
        """A reader holds no lease, has no ids, and hinders nobody."""
        incarnation = Incarnation(await connection.fetchval(_INCARNATION, session, identity.space))
        row = await connection.fetchrow(
            _READER, identity.space, session, incarnation, identity.user, identity.grant
        )
        assert row is not None
        told, _ = await tell(connection, identity.space)
        seq, used_bytes, used_inodes, replicas = row
        return SessionReply(
            session, incarnation, Epoch(0), self._lease_s, seq, ((incarnation, EntryNumber(0)),), 0, 0,
            replicas, told.allowed_bytes, told.allowed_inodes, used_bytes, used_inodes,
            read_only=True, confined=identity.is_confined,
        )  # fmt: skip

    async def renew(self, identity: Identity, message: SessionRef) -> SessionRenewed:
        """Extend the lease; it may have run out, as long as nobody has taken it over."""
        async with self._database.connection() as connection:
            if identity.may_write:
                row = await connection.fetchrow(
                    _RENEW,
                    identity.space,
                    message.session,
                    message.incarnation,
                    message.lease_epoch,
                    self._lease_s,
                    identity.user,
                    identity.grant,
                )
            else:
                row = await self._reader_row(connection, identity, message)
            if row is None:
                raise fenced()
            await connection.execute(_QUOTA, identity.space, identity.membership_epoch, *terms_of(identity))
            told, sharer = await tell(connection, identity.space)
            free = [record["free_bytes"] for record in await connection.fetch(_FREE)]
        if sharer and identity.may_write:
            told = await self._promise(sharer, identity, message)
        return SessionRenewed(
            self._lease_s,
            row["seq"],
            told.allowed_bytes,
            told.allowed_inodes,
            row["used_bytes"],
            row["used_inodes"],
            placeable_bytes(free, row["replicas"]),
            told.promised_bytes,
            told.promised_inodes,
        )

    async def _promise(self, sharer: UserId, identity: Identity, message: SessionRef) -> Told:
        async with self._database.transaction() as connection:
            await alone_of(connection, sharer)
            if not await connection.fetchval(
                _STILL_HOLDS, identity.space, message.session, message.lease_epoch
            ):
                raise fenced()
            claims = message.claim_bytes, message.claim_inodes
            return await promise(connection, identity.space, claims, keeps=True)

    async def _reader_row(
        self, connection: Connection, identity: Identity, message: SessionRef
    ) -> asyncpg.Record | None:
        return await connection.fetchrow(
            _READER, identity.space, message.session, message.incarnation, identity.user, identity.grant
        )

    async def close(self, identity: Identity, message: SessionRef) -> None:
        """The clean end of a mount whose journal is empty: its lease, its pins and its orphans go."""
        async with self._database.on_space(identity.space) as connection:
            if identity.may_write:
                await admit(connection, identity, message.session, message.incarnation, message.lease_epoch)
                await connection.execute(
                    "delete from meta.leases where space = $1 and root = 1", identity.space
                )
            elif not await self._reader_row(connection, identity, message):
                raise fenced()
            await close_incarnation(connection, message.incarnation)
            await connection.execute(
                "update meta.sessions set closed_at = clock_timestamp() where session = $1", message.session
            )

    async def close_old(self, identity: Identity, message: IncarnationClose) -> None:
        """An older incarnation's journal has been shipped: what it held is let go."""
        check_writer(identity)
        async with self._database.on_space(identity.space) as connection:
            await admit(connection, identity, message.session, message.incarnation, message.lease_epoch)
            owner = await connection.fetchval(
                "select session from meta.incarnations where incarnation = $1", message.old
            )
            if owner != message.session or message.old == message.incarnation:
                raise Refused(Code.NOT_FOUND, "there is no such older incarnation of this session")
            await close_incarnation(connection, message.old)

    async def ids(self, identity: Identity, message: Ids) -> IdsReply:
        """A further range of ids for the incarnation."""
        check_writer(identity)
        if not 0 < message.count <= IDS_MAX:
            raise ProtocolFault(Code.BAD_REQUEST, f"between 1 and {IDS_MAX} ids can be had at a time")
        async with self._database.on_space(identity.space) as connection:
            await admit(connection, identity, message.session, message.incarnation, message.lease_epoch)
            first = await connection.fetchval(
                "update meta.spaces set next_id = next_id + $2 where space = $1 returning next_id - $2",
                identity.space,
                message.count,
            )
            await add_range(connection, message.session, message.incarnation, first, message.count)
        return IdsReply(first, message.count)


def _shown(text: str) -> str:
    """Text that other people may be shown: short, and nothing that moves a terminal's cursor."""
    return "".join(letter for letter in text[:TEXT_MAX] if letter.isprintable())
