"""TREE and LOAD: the committed namespace, read at one state of the database each.

Each listing costs a handful of statements, one for each level of folders and one for each kind of row beside
them, however many folders or files there are. A reply never outgrows a frame: a listing stops earlier, and a LOAD that
asks for too much is refused.
"""

from typing import Final

import asyncpg
from msgspec.structs import replace

from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.admission import check_space, no_space
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.packing import unpack_extents
from cloudverge_metaserver.rows import DENTRY, INODE, INODE_FIELDS, Connection, dentry_of, inode_of
from cloudverge_metaserver.scope import Scope
from cloudverge_metaserver.subtree import check_root, inside, readable
from cloudverge_metaserver.treewalk import (
    BUDGET_MAX,
    EXTENTS_AT_MOST,
    Walk,
    gather_extents,
    split_files,
)
from cloudverge_protocol.errors import Code, ProtocolFault, Refused
from cloudverge_protocol.ids import (
    ID_MAX,
    InodeId,
    Seq,
    SpaceId,
)
from cloudverge_protocol.inodes import Dentry, Extents, Inode
from cloudverge_protocol.messages import Load, LoadReply, Tree, TreeReply

LOAD_MAX: Final = 10_000  # keys of each kind; a mount asks for a fifth of it
LOAD_BYTES: Final = 6 * 1024 * 1024

_INODE_COLUMNS: Final = len(INODE_FIELDS)
_SEQ: Final = "select seq from meta.spaces where space = $1"
_INODE: Final = f"select {INODE} from meta.inodes i where i.space = $1 and i.ino = $2"  # noqa: S608
_PAGE: Final = f"""
    select {INODE}, {DENTRY} from (
        select * from meta.dentries where space = $1 and parent + 0 = $2 and dentry > $3 order by dentry limit $4
    ) d
    cross join lateral (select * from meta.inodes where space = $1 and ino = d.ino offset 0) i
    order by d.dentry
"""  # noqa: S608
_LEVEL: Final = f"""
    select {INODE}, {DENTRY} from unnest($2::bigint[]) k(parent)
    cross join lateral (
        select * from meta.dentries where space = $1 and parent + 0 = k.parent order by dentry offset 0
    ) d
    cross join lateral (select * from meta.inodes where space = $1 and ino = d.ino offset 0) i
"""  # noqa: S608
_SMALL: Final = f"""
    select e.ino, e.region, case when e.pieces <= {EXTENTS_AT_MOST} then e.packed end
    from unnest($2::bigint[]) k(ino)
    cross join lateral (
        select * from meta.extents where space = $1 and ino = k.ino order by region offset 0
    ) e
"""  # noqa: S608
_ANY_XATTR: Final = "select exists(select from meta.xattrs where space = $1)"
_WITH_XATTRS: Final = """
    select k.ino from unnest($2::bigint[]) k(ino)
    cross join lateral (select from meta.xattrs where space = $1 and ino = k.ino limit 1) x
"""
_INODES: Final = f"""
    select {INODE} from unnest($2::bigint[]) k(ino)
    cross join lateral (select * from meta.inodes where space = $1 and ino = k.ino offset 0) i
"""  # noqa: S608  # why lateral and offset: see ``loading``
_DENTRIES: Final = f"""
    select {DENTRY} from unnest($2::bigint[], $3::bytea[]) k(parent, name)
    cross join lateral (
        select * from meta.dentries where space = $1 and parent = k.parent and name = k.name offset 0
    ) d
"""  # noqa: S608
_REGIONS: Final = """
    select e.ino, e.region, e.packed from unnest($2::bigint[], $3::bigint[]) k(ino, region)
    cross join lateral (
        select * from meta.extents where space = $1 and ino = k.ino and region = k.region offset 0
    ) e
"""
_XATTRS: Final = """
    select x.ino, x.name, x.value from unnest($2::bigint[]) k(ino)
    cross join lateral (select * from meta.xattrs where space = $1 and ino = k.ino offset 0) x
"""

Entries = list[tuple[Dentry, Inode]]


class Reading:
    """The handlers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def tree(self, identity: Identity, message: Tree) -> TreeReply:
        """A folder, and what is below it as far as the budget goes."""
        check_space(identity, message.space)
        budget = max(1, min(message.budget, BUDGET_MAX))
        if len(message.more) > BUDGET_MAX:
            raise ProtocolFault(Code.BAD_REQUEST, f"more than {BUDGET_MAX} folders at once")
        scope = Scope(identity.root)
        async with self._database.snapshot() as connection:
            seq = await _seq_of(connection, message.space)
            if identity.is_confined:
                message = await _within(connection, identity, message, scope)
            walk = await _walk(connection, message, budget)
            inodes = list(walk.inodes.values())
            few, many = split_files(inodes)
            extents, more = await _extents(connection, message.space, few, walk.bytes_left)
            with_xattrs = await _with_xattrs(connection, message.space, [inode.ino for inode in inodes])
        return TreeReply(
            seq,
            tuple(scope.folder(folder) for folder in walk.folders),
            scope.inodes(inodes),
            tuple(extents),
            tuple(scope.outward(ino) for ino in with_xattrs),
            (*many, *more),
        )

    async def load(self, identity: Identity, message: Load) -> LoadReply:
        """Single rows; what is absent is left out."""
        check_space(identity, message.space)
        for keys in (message.inodes, message.dentries, message.regions, message.xattrs):
            if len(keys) > LOAD_MAX:
                raise ProtocolFault(Code.BAD_REQUEST, f"more than {LOAD_MAX} rows of a kind at once")
        async with self._database.snapshot() as connection:
            if not identity.is_confined:
                return await _load(connection, message)
            scope = Scope(identity.root)
            message = await _load_within(connection, identity, _load_inward(message, scope))
            return _load_outward(await _load(connection, message), scope)


async def _within(connection: Connection, identity: Identity, message: Tree, scope: Scope) -> Tree:
    """The folders meant, as far as they lie below the session's root."""
    ino, more = scope.inward(message.ino), [scope.inward(each) for each in message.more]
    await check_root(connection, identity)
    found = await inside(connection, identity.space, identity.root, (ino, *more))
    if ino not in found:
        raise Refused(Code.NOT_FOUND, "there is no such folder")
    return replace(message, ino=ino, more=tuple(each for each in more if each in found))


def _load_inward(message: Load, scope: Scope) -> Load:
    return replace(
        message,
        inodes=tuple(scope.inward(ino) for ino in message.inodes),
        dentries=tuple((scope.inward(parent), name) for parent, name in message.dentries),
        regions=tuple((scope.inward(ino), region) for ino, region in message.regions),
        xattrs=tuple(scope.inward(ino) for ino in message.xattrs),
    )


async def _load_within(connection: Connection, identity: Identity, message: Load) -> Load:
    """The rows asked for, as far as they lie below the session's root."""
    named = {
        *message.inodes,
        *message.xattrs,
        *(parent for parent, _ in message.dentries),
        *(ino for ino, _ in message.regions),
    }
    found = await readable(connection, identity, named)
    return replace(
        message,
        inodes=tuple(ino for ino in message.inodes if ino in found),
        dentries=tuple(key for key in message.dentries if key[0] in found),
        regions=tuple(key for key in message.regions if key[0] in found),
        xattrs=tuple(ino for ino in message.xattrs if ino in found),
    )


def _load_outward(reply: LoadReply, scope: Scope) -> LoadReply:
    return replace(
        reply,
        inodes=scope.inodes(reply.inodes),
        dentries=scope.dentries(reply.dentries),
        xattrs=tuple((scope.outward(ino), values) for ino, values in reply.xattrs),
    )


async def _seq_of(connection: Connection, space: SpaceId) -> Seq:
    seq = await connection.fetchval(_SEQ, space)
    if seq is None:
        raise no_space()
    return Seq(seq)


# --- TREE -----------------------------------------------------------------------------------------------


async def _walk(connection: Connection, message: Tree, budget: int) -> Walk:
    root = await connection.fetchrow(_INODE, message.space, message.ino)
    if root is None:
        raise Refused(Code.NOT_FOUND, "there is no such folder")
    if not inode_of(root).is_dir:
        raise Refused(Code.NOT_DIR, "this inode is not a folder")
    walk = Walk(budget)
    walk.inodes[message.ino] = inode_of(root)
    rows = await connection.fetch(_PAGE, message.space, message.ino, message.cursor, budget + 1)
    walk.take_page(message.ino, message.cursor, [_entry(row) for row in rows[:budget]], len(rows) > budget)
    if not message.deep or not walk.folders[0].complete:
        return walk
    more = [InodeId(ino) for ino in dict.fromkeys(message.more) if _known(ino) and ino != message.ino]
    if more:
        inodes = {row[0]: inode_of(row) for row in await connection.fetch(_INODES, message.space, more)}
        level = walk.fitting([inodes[ino] for ino in more if ino in inodes])
        walk.inodes.update((folder.ino, folder) for folder in level)
        await _take_level(connection, message.space, walk, level)
    listed = [folder.ino for folder in walk.folders]
    while level := walk.next_level(listed):
        listed = [folder.ino for folder in level]
        await _take_level(connection, message.space, walk, level)
    return walk


async def _take_level(connection: Connection, space: SpaceId, walk: Walk, level: list[Inode]) -> None:
    entries: dict[InodeId, Entries] = {folder.ino: [] for folder in level}
    wanted = [folder.ino for folder in level if folder.entries]
    for row in await connection.fetch(_LEVEL, space, wanted) if wanted else ():
        dentry, inode = _entry(row)
        entries[dentry.parent].append((dentry, inode))
    for ino, found in entries.items():
        walk.take_whole(ino, found)


def _entry(row: asyncpg.Record) -> tuple[Dentry, Inode]:
    return Dentry(*row[_INODE_COLUMNS:]), Inode(*row[:_INODE_COLUMNS])


async def _extents(
    connection: Connection, space: SpaceId, files: list[InodeId], bytes_left: int
) -> tuple[list[tuple[InodeId, Extents]], list[InodeId]]:
    if not files:
        return [], []
    rows = await connection.fetch(_SMALL, space, files)
    regions = [
        (InodeId(ino), region, None if packed is None else unpack_extents(packed))
        for ino, region, packed in rows
    ]
    return gather_extents(files, regions, bytes_left)


async def _with_xattrs(connection: Connection, space: SpaceId, inos: list[InodeId]) -> list[InodeId]:
    if not await connection.fetchval(_ANY_XATTR, space):
        return []
    return [InodeId(row[0]) for row in await connection.fetch(_WITH_XATTRS, space, inos)]


# --- LOAD -----------------------------------------------------------------------------------------------


def _known(ino: int) -> bool:
    return 0 < ino <= ID_MAX


async def _load(connection: Connection, message: Load) -> LoadReply:
    space = message.space
    seq = await _seq_of(connection, space)
    size = 0
    dentries: list[Dentry] = []
    names = [(parent, name) for parent, name in message.dentries if _known(parent)]
    if names:
        parents, texts = zip(*names, strict=True)
        rows = await connection.fetch(_DENTRIES, space, parents, texts)
        dentries = [dentry_of(row) for row in rows]
    inodes: list[Inode] = []
    wanted = {ino for ino in message.inodes if _known(ino)} | {dentry.ino for dentry in dentries}
    if wanted:
        inodes = [inode_of(row) for row in await connection.fetch(_INODES, space, list(wanted))]
    regions: list[tuple[InodeId, int, Extents]] = []
    pairs = {(ino, region) for ino, region in message.regions if _known(ino) and 0 <= region <= ID_MAX}
    if pairs:
        inos, numbers = zip(*pairs, strict=True)
        for ino, region, packed in await connection.fetch(_REGIONS, space, inos, numbers):
            size += len(packed)
            _check_size(size)
            regions.append((InodeId(ino), region, unpack_extents(packed)))
    xattrs: dict[InodeId, list[tuple[bytes, bytes]]] = {}
    holders = {ino for ino in message.xattrs if _known(ino)}
    if holders:
        for ino, name, value in await connection.fetch(_XATTRS, space, list(holders)):
            size += len(name) + len(value)
            _check_size(size)
            xattrs.setdefault(InodeId(ino), []).append((name, value))
    _check_size(size + 160 * (len(inodes) + len(dentries)) + sum(len(inode.target) for inode in inodes))
    return LoadReply(
        seq,
        tuple(inodes),
        tuple(dentries),
        tuple(regions),
        tuple((ino, tuple(values)) for ino, values in xattrs.items()),
    )


def _check_size(size_bytes: int) -> None:
    if size_bytes > LOAD_BYTES:
        error = ProtocolFault(Code.BAD_REQUEST, "these rows do not fit one reply: ask for fewer at once")
        error.suspicious = False  # a mount cannot know how large they are
        raise error
