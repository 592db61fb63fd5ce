"""The replica on disk: the metadata this mount has seen, with its own changes, in SQLite.

It is a cache and may be thrown away at any time: what it says is the server's state at ``seq`` with the
journal applied up to ``position``. Both stand in the same transaction as the rows, so a crash leaves a pair
that fits. What it does not hold is unknown, not absent; ``known`` says of each inode what is whole here:

- EXTENTS, XATTRS: all extents, all extended attributes of the inode are here;
- LISTED: all names of the folder are here, a name that is not here does not exist;
- HAS_XATTRS: there is at least one extended attribute (spares most readers a look).

In a folder that is not LISTED a name known to be absent has a row with inode 0.

Reads come from the loop's thread and see what has been committed; ``write`` and ``forget`` run in a worker
thread, one at a time, on a connection of their own. Write-ahead log, checkpoints by the writer alone.
"""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from cloudverge_protocol.codec import decode
from cloudverge_protocol.ids import InodeId
from cloudverge_protocol.inodes import Dentry, Extents, Inode

EXTENTS: Final = 1
XATTRS: Final = 2
LISTED: Final = 4
HAS_XATTRS: Final = 8

FORMAT: Final = 1
WAL_BYTES_MAX: Final = 16 * 1024 * 1024
CACHE_KIB: Final = 4096

_SCHEMA: Final = """
create table state (key text primary key, value) without rowid;
create table inode (ino integer primary key, row blob not null, known integer not null);
create table dentry (
    parent integer not null, name blob not null, dentry integer not null, ino integer not null,
    kind integer not null, primary key (parent, name)) without rowid;
create index dentry_order on dentry (parent, dentry);
create table region (ino integer not null, region integer not null, extents blob not null,
    primary key (ino, region)) without rowid;
create table xattr (ino integer primary key, row blob not null);
create table orphan (ino integer primary key);
"""

Listed = tuple[int, bytes, int, int, bytes | None, int]  # dentry, name, ino, kind, row, known


class Group(NamedTuple):
    """Rows to write in one transaction; inode None: gone. Values are encoded by the writer."""

    inodes: list[tuple[int, Inode | None, int]]
    dentries: list[tuple[int, bytes, int, int, int]]  # parent, name, dentry, ino (0: absent), kind
    gone_names: list[tuple[int, bytes]]
    listed: list[tuple[int]]  # folders that have become LISTED: their absent names go
    regions: list[tuple[int, int, Extents]]
    xattrs: list[tuple[int, dict[bytes, bytes]]]
    orphans: list[tuple[int]]
    not_orphans: list[tuple[int]]
    state: list[tuple[str, Any]]


class Replica:
    """One SQLite file; ``encode`` turns rows into blobs."""

    def __init__(self, path: Path, encode: Callable[[Any], bytes]) -> None:
        self.path = path
        self._encode = encode
        self._reader = self._connect()
        self._writer = self._connect()
        if self.state("format") is None:
            self._writer.executescript(f"begin; {_SCHEMA} commit;")
            self._writer.execute("insert into state values ('format', ?)", (FORMAT,))
        select = self._reader.execute
        self._select = select

    def _connect(self) -> sqlite3.Connection:
        link = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=64)
        link.execute("pragma journal_mode = wal")
        link.execute("pragma synchronous = normal")
        link.execute("pragma wal_autocheckpoint = 0")
        link.execute(f"pragma cache_size = -{CACHE_KIB}")
        link.execute("pragma temp_store = memory")
        return link

    def close(self) -> None:
        """Close both connections."""
        self._reader.close()
        self._writer.close()

    # --- reading (loop's thread) -------------------------------------------------------------------------

    def state(self, key: str) -> Any:  # noqa: ANN401
        """A value of the state table, None if it is not there."""
        try:
            row = self._reader.execute("select value from state where key = ?", (key,)).fetchone()
        except sqlite3.OperationalError:
            return None
        return None if row is None else row[0]

    def inode(self, ino: int) -> tuple[Inode, int] | None:
        """The inode's row and what is known of it."""
        row = self._select("select row, known from inode where ino = ?", (ino,)).fetchone()
        return None if row is None else (decode(Inode, row[0]), row[1])

    def name(self, parent: int, name: bytes) -> tuple[int, int, int] | None:
        """(dentry, ino, kind) of a name; ino 0 means it is known to be absent."""
        row: tuple[int, int, int] | None = self._select(
            "select dentry, ino, kind from dentry where parent = ? and name = ?", (parent, name)
        ).fetchone()
        return row

    def extents(self, ino: int, region: int) -> Extents:
        """The extents of a region."""
        row = self._select(
            "select extents from region where ino = ? and region = ?", (ino, region)
        ).fetchone()
        return () if row is None else decode(Extents, row[0])

    def regions(self, ino: int) -> set[int]:
        """The regions of an inode that hold extents."""
        return {row[0] for row in self._select("select region from region where ino = ?", (ino,)).fetchall()}

    def xattrs(self, ino: int) -> dict[bytes, bytes]:
        """The extended attributes of an inode."""
        row = self._select("select row from xattr where ino = ?", (ino,)).fetchone()
        return {} if row is None else decode(dict[bytes, bytes], row[0])

    def page(self, parent: int, after: int, limit: int) -> list[Listed]:
        """Names of a folder with ids above ``after``, in order, each with its inode's row if that is here."""
        return self._select(
            "select d.dentry, d.name, d.ino, d.kind, i.row, coalesce(i.known, 0) from dentry d"
            " left join inode i on i.ino = d.ino"
            " where d.parent = ? and d.dentry > ? and d.ino != 0 order by d.dentry limit ?",
            (parent, after, limit),
        ).fetchall()

    def named(self, parents: Collection[int]) -> set[int]:
        """Those of these folders of which any name is here."""
        found = self._select(
            "select value from json_each(?) where exists (select 1 from dentry where parent = value)",
            (json.dumps(list(parents)),),
        )
        return {row[0] for row in found}

    def names_among(self, parent: int, names: list[bytes]) -> set[bytes]:
        """Those of ``names`` in a folder of which something is known."""
        slots = next(size for size in (8, 64, 512, len(names)) if size >= len(names))
        marks = ",".join("?" * slots)
        filled = names + names[-1:] * (slots - len(names))
        query = f"select name from dentry where parent = ? and name in ({marks})"  # noqa: S608
        return {row[0] for row in self._select(query, (parent, *filled))}

    def which(self, inos: Collection[int]) -> set[int]:
        """Those of ``inos`` that are here."""
        found = self._select(
            "select ino from inode where ino in (select value from json_each(?))", (json.dumps(list(inos)),)
        )
        return {row[0] for row in found}

    def orphans(self) -> set[int]:
        """The unlinked inodes that were open here."""
        return {row[0] for row in self._select("select ino from orphan")}

    def names_of(self, inos: Iterable[int]) -> dict[int, Dentry]:
        """One name of each inode that has one here; a look at all names, for they are not kept by inode."""
        rows = self._select(
            "select ino, parent, name, dentry, kind from dentry where ino in (select value from json_each(?))",
            (json.dumps(list(inos)),),
        )
        return {row[0]: Dentry(row[1], row[2], InodeId(row[0]), row[4], row[3]) for row in rows}

    def everything(self) -> tuple[set[int], set[tuple[int, bytes]]]:
        """All inodes and names of which something is known here."""
        inodes = {row[0] for row in self._select("select ino from inode")}
        names = {(row[0], row[1]) for row in self._select("select parent, name from dentry")}
        return inodes, names

    # --- writing (worker thread) -------------------------------------------------------------------------

    def write(self, group: Group) -> None:
        """Put the group's rows in one transaction, then check whether the log should go into the file."""
        run, encode = self._writer.executemany, self._encode
        gone = [(ino,) for ino, row, _ in group.inodes if row is None]
        kept = [(ino, encode(row), known) for ino, row, known in group.inodes if row is not None]
        with _Transaction(self._writer):
            if gone:
                run("delete from inode where ino = ?", gone)
                run("delete from region where ino = ?", gone)
                run("delete from xattr where ino = ?", gone)
            run("insert or replace into inode values (?, ?, ?)", kept)
            run("delete from dentry where parent = ? and name = ?", group.gone_names)
            run("insert or replace into dentry values (?, ?, ?, ?, ?)", group.dentries)
            run("delete from dentry where parent = ? and ino = 0", group.listed)
            run(
                "delete from region where ino = ? and region = ?",
                [(ino, region) for ino, region, extents in group.regions if not extents],
            )
            run(
                "insert or replace into region values (?, ?, ?)",
                [(ino, region, encode(extents)) for ino, region, extents in group.regions if extents],
            )
            run("insert or replace into xattr values (?, ?)", [(i, encode(v)) for i, v in group.xattrs])
            run("insert or ignore into orphan values (?)", group.orphans)
            run("delete from orphan where ino = ?", group.not_orphans)
            run("insert or replace into state values (?, ?)", group.state)
        self._checkpoint()

    def forget(self, inodes: Iterable[int], names: Iterable[tuple[int, bytes]]) -> None:
        """Know nothing any more of these inodes (extents and attributes too) and names.

        Their folders must be among the inodes: what is forgotten there is unknown, so they are not LISTED.
        """
        gone = [(ino,) for ino in inodes]
        run = self._writer.executemany
        with _Transaction(self._writer):
            for table in ("inode", "region", "xattr"):
                run(f"delete from {table} where ino = ?", gone)  # noqa: S608
            run("delete from dentry where parent = ? and name = ?", names)
        self._checkpoint()

    def _checkpoint(self) -> None:
        log = self.path.with_name(self.path.name + "-wal")
        if log.exists() and log.stat().st_size > WAL_BYTES_MAX:
            self._writer.execute("pragma wal_checkpoint(truncate)")


class _Transaction:
    """A transaction on a connection in autocommit mode."""

    def __init__(self, link: sqlite3.Connection) -> None:
        self._link = link

    def __enter__(self) -> None:
        self._link.execute("begin immediate")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._link.execute("commit" if kind is None else "rollback")
