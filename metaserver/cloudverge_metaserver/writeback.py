"""Writing back what a batch has changed: one statement, however many rows and tables.

Each part is a data-modifying query over unnested arrays; those that have nothing to do are left out, so there
are a few dozen different texts at most and PostgreSQL prepares each once. Parts never meet the same row, for
they all see the state before the statement. Rows are removed by their physical place, found by look-ups that
no planner can turn around (see ``loading``); the space's lock keeps them where they are meanwhile.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

import asyncpg

from cloudverge_metaserver.applying import Applied, Usage
from cloudverge_metaserver.batchset import BatchSet
from cloudverge_metaserver.packing import pack_extents, pack_operation
from cloudverge_metaserver.rows import Connection
from cloudverge_protocol.ids import ChunkId, InodeId, SessionId, SpaceId
from cloudverge_protocol.inodes import Dentry, Extents, Inode
from cloudverge_protocol.messages import Receipt

_inode_fields: Final = attrgetter(
    "ino", "mode", "uid", "gid", "nlink", "size", "atime_ns", "mtime_ns", "ctime_ns", "btime_ns", "rdev",
    "parent", "entries", "target",
)  # fmt: skip
_dentry_fields: Final = attrgetter("parent", "name", "ino", "kind", "dentry")

_PUT_INODES: Final = """insert into meta.inodes (space, ino, mode, uid, gid, nlink, size,
        atime_ns, mtime_ns, ctime_ns, btime_ns, rdev, parent, entries, target, version)
    select $1::bigint, * from unnest({0}::bigint[], {1}::integer[], {2}::bigint[], {3}::bigint[], {4}::bigint[],
        {5}::bigint[], {6}::bigint[], {7}::bigint[], {8}::bigint[], {9}::bigint[], {10}::bigint[], {11}::bigint[],
        {12}::bigint[], {13}::bytea[], {14}::bigint[])
    on conflict (space, ino) do update set mode = excluded.mode, uid = excluded.uid, gid = excluded.gid,
        nlink = excluded.nlink, size = excluded.size, atime_ns = excluded.atime_ns,
        mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns, btime_ns = excluded.btime_ns,
        rdev = excluded.rdev, parent = excluded.parent, entries = excluded.entries,
        target = excluded.target, version = excluded.version"""
_DROP_INODES: Final = "delete from meta.inodes where space = $1 and ino = any({0}::bigint[])"
_PUT_DENTRIES: Final = """insert into meta.dentries (space, parent, name, ino, kind, dentry, version)
    select $1::bigint, * from unnest({0}::bigint[], {1}::bytea[], {2}::bigint[], {3}::integer[], {4}::bigint[],
        {5}::bigint[])
    on conflict (space, parent, name) do update set ino = excluded.ino, kind = excluded.kind,
        dentry = excluded.dentry, version = excluded.version"""
_DROP_DENTRIES: Final = """delete from meta.dentries where ctid = any(array(
    select t.ctid from unnest({0}::bigint[], {1}::bytea[]) k(parent, name) cross join lateral (
        select ctid from meta.dentries where space = $1 and parent = k.parent and name = k.name offset 0) t))"""
_PUT_REGIONS: Final = """insert into meta.extents (space, ino, region, pieces, packed, version)
    select $1::bigint, * from unnest({0}::bigint[], {1}::bigint[], {2}::integer[], {3}::bytea[], {4}::bigint[])
    on conflict (space, ino, region) do update set pieces = excluded.pieces, packed = excluded.packed,
        version = excluded.version"""
_DROP_REGIONS: Final = """delete from meta.extents where ctid = any(array(
    select t.ctid from unnest({0}::bigint[], {1}::bigint[]) k(ino, region) cross join lateral (
        select ctid from meta.extents where space = $1 and ino = k.ino and region = k.region offset 0) t))"""
_PUT_XATTRS: Final = """insert into meta.xattrs (space, ino, name, value, version)
    select $1::bigint, * from unnest({0}::bigint[], {1}::bytea[], {2}::bytea[], {3}::bigint[])
    on conflict (space, ino, name) do update set value = excluded.value, version = excluded.version"""
_DROP_XATTRS: Final = """delete from meta.xattrs where ctid = any(array(
    select t.ctid from unnest({0}::bigint[], {1}::bytea[]) k(ino, name) cross join lateral (
        select ctid from meta.xattrs where space = $1 and ino = k.ino and name = k.name offset 0) t))"""
_PUT_ORPHANS: Final = """insert into meta.orphans (space, ino, session, incarnation, version)
    select $1::bigint, k.ino, {0}::bigint, k.incarnation, k.version
    from unnest({1}::bigint[], {2}::bigint[], {3}::bigint[]) k(ino, incarnation, version)
    on conflict (space, ino) do update set session = excluded.session, incarnation = excluded.incarnation,
        version = excluded.version"""
_DROP_ORPHANS: Final = "delete from meta.orphans where space = $1 and ino = any({0}::bigint[])"
_CHUNKS: Final = """update meta.chunks c set live_bytes = c.live_bytes + k.live,
        committed_end = greatest(c.committed_end, k.ending), durable_length = greatest(c.durable_length, k.durable),
        pinned_by = case when k.done then null else c.pinned_by end,
        idle_since = case when k.live <> 0 or k.done then clock_timestamp() else c.idle_since end
    from unnest({0}::bigint[], {1}::bigint[], {2}::bigint[], {3}::bigint[], {4}::boolean[])
        k(chunk, live, ending, durable, done)
    where c.space = $1 and c.chunk = k.chunk"""
_REPLICAS: Final = """update meta.replicas r set receipted = greatest(r.receipted, k.length)
    from unnest({0}::bigint[], {1}::bigint[], {2}::bigint[]) k(chunk, server, length)
    where r.chunk = k.chunk and r.server = k.server and $1::bigint is not null"""
_OPLOG: Final = """insert into meta.oplog (space, seq, session, incarnation, number, op)
    select $1::bigint, k.seq, {0}::bigint, k.incarnation, k.number, k.op
    from unnest({1}::bigint[], {2}::bigint[], {3}::bigint[], {4}::bytea[]) k(seq, incarnation, number, op)"""
_HIGH_WATER: Final = """update meta.incarnations i set high_water = k.number
    from unnest({0}::bigint[], {1}::bigint[]) k(incarnation, number) where i.incarnation = k.incarnation"""
_SPACE: Final = """update meta.spaces set seq = {0}, used_bytes = used_bytes + {1}, used_inodes = {2}
    where space = $1"""
_SPACE_AT: Final = """update meta.spaces set seq = {0}, used_bytes = used_bytes + {1}, used_inodes = {2},
    revision = revision + 1 where space = $1 and revision = {3}::bigint returning space"""
# The main query waits for the space's lock before any other part runs; nobody there divides by zero, which
# undoes them all.
_IF_HELD: Final = "select 1 / count(*) from {before}"


class Writing:
    """One statement in the making."""

    def __init__(self, space: SpaceId) -> None:
        self._parts: list[tuple[str, int]] = []  # template, number of arguments
        self._arguments: list[Any] = [space]

    def add(self, template: str, *arguments: Any) -> None:  # noqa: ANN401  # whatever SQL takes
        """One more part; its places {0}, {1}, ... are numbered on from those before it."""
        self._parts.append((template, len(arguments)))
        self._arguments.extend(arguments)

    def add_rows(self, template: str, rows: Sequence[Sequence[Any]]) -> None:
        """A part over arrays, one for each column of ``rows``; nothing if there are none."""
        if rows:
            self.add(template, *(list(column) for column in zip(*rows, strict=True)))

    async def run(self, connection: Connection) -> None:
        """Send it."""
        if self._parts:
            await connection.execute(_statement(tuple(self._parts)), *self._arguments)

    async def run_at(self, connection: Connection, revision: int, applied: Applied, grown_bytes: int) -> bool:
        """Send it as a transaction of its own, on a space that is at ``revision``; False: it no longer is."""
        self.add(_SPACE_AT, applied.seq, grown_bytes, applied.used_inodes, revision)
        self.add(_IF_HELD)
        try:
            await connection.execute(_statement(tuple(self._parts)), *self._arguments)
        except asyncpg.DivisionByZeroError:
            return False
        return True


@lru_cache(maxsize=512)
def _statement(parts: tuple[tuple[str, int], ...]) -> str:
    """The text of templates that take so many arguments each; the last one is the main query."""
    texts, first = [], 2
    for index, (template, count) in enumerate(parts):
        places = (f"${first + place}" for place in range(count))
        texts.append(template.format(*places, before=f"p{index - 1}"))
        first += count
    *others, last = texts
    named = ", ".join(f"p{index} as ({text})" for index, text in enumerate(others))
    return f"with {named} {last}" if others else last


def write_rows(writing: Writing, ws: BatchSet, session: SessionId) -> None:
    """The rows of the namespace that ``ws`` has changed."""
    _write_inodes(writing, ws)
    _write_dentries(writing, ws)
    _write_content(writing, ws)
    _write_orphans(writing, ws, session)


def _write_inodes(writing: Writing, ws: BatchSet) -> None:
    inodes, dropped = [], []
    for ino, seq in ws.changed_inodes.items():
        inode: Inode | None = ws.inodes.get(ino)
        if inode is None:
            dropped.append((ino,))
        else:
            inodes.append((*_inode_fields(inode), seq))
    writing.add_rows(_PUT_INODES, inodes)
    writing.add_rows(_DROP_INODES, dropped)


def _write_dentries(writing: Writing, ws: BatchSet) -> None:
    dentries, dropped = [], []
    for key, seq in ws.changed_dentries.items():
        dentry: Dentry | None = ws.dentries.get(key)
        if dentry is None:
            dropped.append(key)
        else:
            dentries.append((*_dentry_fields(dentry), seq))
    writing.add_rows(_PUT_DENTRIES, dentries)
    writing.add_rows(_DROP_DENTRIES, dropped)


def _write_content(writing: Writing, ws: BatchSet) -> None:
    regions, empty = [], []
    for (ino, region), seq in ws.changed_regions.items():
        extents: Extents = ws.extents(ino, region)
        if extents:
            regions.append((ino, region, len(extents), pack_extents(extents), seq))
        elif (ino, region) in ws.before:
            empty.append((ino, region))
    writing.add_rows(_PUT_REGIONS, regions)
    writing.add_rows(_DROP_REGIONS, empty)
    xattrs, dropped = [], []
    for (ino, name), seq in ws.changed_attributes.items():
        value = ws.xattrs(ino).get(name)
        if value is None:
            dropped.append((ino, name))
        else:
            xattrs.append((ino, name, value, seq))
    writing.add_rows(_PUT_XATTRS, xattrs)
    writing.add_rows(_DROP_XATTRS, dropped)


def _write_orphans(writing: Writing, ws: BatchSet, session: SessionId) -> None:
    orphans: list[tuple[InodeId, int, int]] = []
    dropped = []
    for ino, seq in ws.changed_orphans.items():
        if ino in ws.orphans:
            orphans.append((ino, ws.orphans[ino], seq))
        else:
            dropped.append((ino,))
    if orphans:
        writing.add(_PUT_ORPHANS, session, *(list(column) for column in zip(*orphans, strict=True)))
    writing.add_rows(_DROP_ORPHANS, dropped)


def write_receipts(writing: Writing, receipts: Iterable[Receipt]) -> None:
    """Receipts that told something new."""
    writing.add_rows(_REPLICAS, [(r.chunk, r.server, r.length) for r in receipts])


def write_chunks(writing: Writing, applied: Applied, usage: Usage, durable: dict[ChunkId, int]) -> None:
    """What became of chunks: live bytes, ends, pins, and the lengths in ``durable``."""
    chunks = sorted({*usage.live, *applied.ends, *applied.done, *durable})
    writing.add_rows(
        _CHUNKS,
        [
            (c, usage.live.get(c, 0), applied.ends.get(c, 0), durable.get(c, 0), c in applied.done)
            for c in chunks
        ],
    )


def write_log(writing: Writing, applied: Applied, session: SessionId) -> None:
    """The oplog and the high-water numbers."""
    if not applied.entries:
        return
    first = applied.seq - len(applied.entries) + 1
    rows = [
        (seq, entry.incarnation, entry.number, pack_operation(entry.op))
        for seq, entry in enumerate(applied.entries, first)
    ]
    writing.add(_OPLOG, session, *(list(column) for column in zip(*rows, strict=True)))
    writing.add_rows(_HIGH_WATER, list(applied.high_water.items()))


def write_space(writing: Writing, applied: Applied, grown_bytes: int) -> None:
    """The space's counters; must come last."""
    if applied.entries:
        writing.add(_SPACE, applied.seq, grown_bytes, applied.used_inodes)
