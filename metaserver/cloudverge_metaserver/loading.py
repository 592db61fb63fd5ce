"""Loading the rows of a batch into its working set: one statement per kind of row and round.

The rounds are those of ``cloudverge_protocol.keys``. Rows of inodes and folders that the batch itself makes
are not asked for: either the create is applied and there are none, or the batch ends there.

``lateral ... offset 0`` is what makes each a series of look-ups by primary key: left to itself, a planner that
has seen a small table reads the whole space once per key.
"""

from collections.abc import Sequence

from cloudverge_metaserver.batchset import BatchSet
from cloudverge_metaserver.packing import unpack_extents
from cloudverge_metaserver.rows import DENTRY, INODE, Connection, dentry_of, inode_of
from cloudverge_protocol.errors import Code, ProtocolFault
from cloudverge_protocol.ids import Incarnation, InodeId, SessionId, SpaceId
from cloudverge_protocol.keys import Keys, Span, named_all, then_all
from cloudverge_protocol.operations import Create, Operation

_INODES = f"""
    select {INODE} from unnest($2::bigint[]) k(ino)
    cross join lateral (select * from meta.inodes where space = $1 and ino = k.ino offset 0) i
"""  # noqa: S608  # column lists are constants
_DENTRIES = f"""
    select {DENTRY} from unnest($2::bigint[], $3::bytea[]) k(parent, name)
    cross join lateral (
        select * from meta.dentries where space = $1 and parent = k.parent and name = k.name offset 0
    ) d
"""  # noqa: S608
PIECES_MAX = 1_000_000  # of the regions that one batch touches
ATTRIBUTE_BYTES_MAX = 32 << 20
CHAIN_MAX = 100_000  # folders above those that are moved

_REGIONS = f"""
    select ino, region, packed, so_far from (
        select e.*, sum(e.pieces) over (rows unbounded preceding) as so_far
        from unnest($2::bigint[], $3::bigint[], $4::bigint[]) k(ino, low, high)
        cross join lateral (
            select * from meta.extents where space = $1 and ino = k.ino and region between k.low and k.high offset 0
        ) e
    ) f where so_far - pieces <= {PIECES_MAX}
"""  # noqa: S608  # what is beyond the limit is not sent, but for the one that passes it
_XATTRS = f"""
    select ino, name, value, so_far from (
        select x.*, sum(300 + length(x.value)) over (rows unbounded preceding) as so_far
        from unnest($2::bigint[]) k(ino)
        cross join lateral (select * from meta.xattrs where space = $1 and ino = k.ino offset 0) x
    ) f where so_far - 300 - length(value) <= {ATTRIBUTE_BYTES_MAX}
"""  # noqa: S608
_ORPHANS = """
    select o.ino, o.incarnation from unnest($2::bigint[]) k(ino)
    cross join lateral (select * from meta.orphans where space = $1 and ino = k.ino offset 0) o
    where o.session = $3
"""
_CHAINS = f"""
    with recursive up as (
        select {INODE} from unnest($2::bigint[]) k(ino)
        cross join lateral (select * from meta.inodes where space = $1 and ino = k.ino offset 0) i
        union
        select {INODE} from up
        cross join lateral (select * from meta.inodes where space = $1 and ino = up.parent offset 0) i
    ) select * from up limit {CHAIN_MAX + 1}
"""  # noqa: S608  # union stops at the root, which is its own parent


async def load_batch(
    connection: Connection, space: SpaceId, session: SessionId, ops: Sequence[Operation], ws: BatchSet
) -> None:
    """Everything that the rules will read for ``ops``; orphans are those of ``session``."""
    named = named_all(ops)
    first = ws.unknown(named)
    await _load(connection, space, session, Keys(inodes=first.inodes), ws)
    first.inodes = set()
    # Only what really does not exist yet needs no look-up: a lying client may "create" what is there.
    made = {op.ino for op in ops if isinstance(op, Create) and ws.inode(op.ino) is None}
    first.dentries = {name for name in first.dentries if name[0] not in made}
    await _load(connection, space, session, _without(first, made), ws)
    await _load(connection, space, session, _without(ws.unknown(_then(ops, named, ws)), made), ws)


def is_at_hand(ops: Sequence[Operation], ws: BatchSet) -> bool:
    """Whether ``load_batch`` would find nothing to ask for."""
    named = named_all(ops)
    return not ws.unknown(named) and not ws.unknown(_then(ops, named, ws))


def _then(ops: Sequence[Operation], named: Keys, ws: BatchSet) -> Keys:
    """The second round; of the names at hand only those that this batch asks for count."""
    return then_all(ops, {name: ws.dentries[name] for name in named.dentries if name in ws.dentries})


def _without(keys: Keys, made: set[InodeId]) -> Keys:
    """``keys`` less the content of inodes that do not exist yet."""
    if made:
        keys.spans = {span for span in keys.spans if span[0] not in made}
        keys.xattrs -= made
        keys.chains -= made
    return keys


async def _load(connection: Connection, space: SpaceId, session: SessionId, keys: Keys, ws: BatchSet) -> None:
    if keys.inodes:
        for record in await connection.fetch(_INODES, space, list(keys.inodes)):
            ws.load_inode(inode_of(record))
    if keys.dentries:
        parents, names = zip(*keys.dentries, strict=True)
        for record in await connection.fetch(_DENTRIES, space, parents, names):
            ws.load_dentry(dentry_of(record))
    if keys.spans:
        inos, lows, highs = zip(*merged(keys.spans), strict=True)
        for ino, region, packed, so_far in await connection.fetch(_REGIONS, space, inos, lows, highs):
            _check_load(so_far, PIECES_MAX)
            if (ino, region) not in ws.before:
                ws.load_region(ino, region, unpack_extents(packed))
    if keys.xattrs:
        for ino, name, value, so_far in await connection.fetch(_XATTRS, space, list(keys.xattrs)):
            _check_load(so_far, ATTRIBUTE_BYTES_MAX)
            ws.load_xattr(ino, name, value)
    if keys.orphans:
        for ino, incarnation in await connection.fetch(_ORPHANS, space, list(keys.orphans), session):
            ws.load_orphan(ino, Incarnation(incarnation))
    if keys.chains:
        rows = await connection.fetch(_CHAINS, space, list(keys.chains))
        _check_load(len(rows), CHAIN_MAX)
        above = [inode_of(record) for record in rows]
        for inode in above:
            ws.load_inode(inode)
        keys.inodes.update(inode.ino for inode in above)
    ws.known.add(keys)


def _check_load(count: int, most: int) -> None:
    if count > most:
        error = ProtocolFault(
            Code.BAD_REQUEST, "a batch touches more than can be loaded at once: send fewer entries"
        )
        error.suspicious = False  # a mount does not know, and sends fewer
        raise error


def merged(spans: set[Span]) -> list[Span]:
    """The same regions with none of them named twice."""
    result: list[Span] = []
    for ino, low, high in sorted(spans):
        if result and result[-1][0] == ino and low <= result[-1][2] + 1:
            ino, first, last = result.pop()
            low, high = first, max(last, high)
        result.append((ino, low, high))
    return result
