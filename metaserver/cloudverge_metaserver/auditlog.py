"""The audit as people read it: what was done to an inode, or to all that is below a folder, newest first.

For owners and editors. Who is confined to a sub-tree is shown what happened in it, with paths from its root; that a
file came from outside or went there is said, but not from where or whereto.

``intact`` says that each line shown has the hash it should have, and is linked to the lines before and after it;
``check`` recomputes a whole space's chain.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import asyncpg

from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.auditrows import COLUMNS, is_true
from cloudverge_metaserver.bodies import LogLine, LogOut
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.paths import check_epoch, name_text, real_ino
from cloudverge_metaserver.rows import Connection
from cloudverge_metaserver.whereabouts import NOWHERE, Moment, Whereabouts
from cloudverge_protocol.errors import Code, Denied, Refused
from cloudverge_protocol.ids import ID_MAX, ROOT_INODE, InodeId, SpaceId

LIMIT_MAX: Final = 500
PAGE: Final = 1_000
AT_ONCE: Final = 100  # lines whose paths are looked up together
SCANNED_MAX: Final = 50_000  # lines that one request looks through
CHECK_PAGE: Final = 5_000

_ROW: Final = ", ".join(f'"{column}"' for column in COLUMNS)
_ALL: Final = f"select {_ROW} from meta.audit where space = $1 and n < $2 order by n desc limit $3"  # noqa: S608
_OF_ONE: Final = f"""
    select {_ROW} from meta.audit where space = $1 and ino = $4 and n < $2 order by n desc limit $3
"""  # noqa: S608
_LINKS: Final = "select n, prev, hash from meta.audit where space = $1 and n = any($2::bigint[])"
_HEAD: Final = "select n, hash, first_n, first_prev from meta.audited where space = $1"
_FORWARD: Final = f"select {_ROW} from meta.audit where space = $1 and n >= $2 order by n limit $3"  # noqa: S608


@dataclass(frozen=True)
class Asked:
    """What somebody wants to see; ``before`` 0: the newest."""

    ino: InodeId
    below: bool
    before: int
    limit: int


class AuditLog:
    """Reads it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, identity: Identity, asked: Asked) -> LogOut:
        """One page; raises Denied for readers, Refused(NOT_FOUND) for what is outside of what one may see."""
        if not identity.may_write:
            raise Denied(Code.FORBIDDEN, "the log is for owners and editors")
        ino = real_ino(identity, asked.ino)
        async with self._database.snapshot() as connection:
            await check_epoch(connection, identity)
            where = Whereabouts(connection, identity.space)
            if identity.root != ROOT_INODE:
                await where.learn_parents([ino])
                if not where.is_below(ino, identity.root):
                    raise Refused(Code.NOT_FOUND, "there is no such file or folder")
            reading = _Reading(connection, identity, where)
            return await reading.page(ino, asked)

    async def check(self, space: SpaceId) -> bool:
        """Whether the whole chain of a space is as it was written."""
        async with self._database.snapshot() as connection:
            head = await connection.fetchrow(_HEAD, space)
            if head is None:
                return True
            n, prev = head["first_n"] - 1, head["first_prev"]
            while rows := await connection.fetch(_FORWARD, space, n + 1, CHECK_PAGE):
                for row in rows:
                    if row["n"] != n + 1 or row["prev"] != prev or not is_true(row):
                        return False
                    n, prev = row["n"], row["hash"]
            return bool(n == head["n"] and prev == head["hash"])


@dataclass
class _Reading:
    """One page being put together; ``reached``: where looking further back would go on, None at the end."""

    connection: Connection
    identity: Identity
    where: Whereabouts
    reached: int | None = None

    async def page(self, ino: InodeId, asked: Asked) -> LogOut:
        limit = max(1, min(asked.limit, LIMIT_MAX))
        rows: list[asyncpg.Record] = []
        lines: list[LogLine] = []
        async with aclosing(self._back(ino, asked)) as back:
            async for row, line in back:
                if len(lines) == limit:
                    self.reached = rows[-1]["n"]
                    break
                rows.append(row)
                lines.append(line)
        return LogOut(entries=lines, intact=await self._intact(rows), next=self.reached)

    async def _back(self, ino: InodeId, asked: Asked) -> AsyncGenerator[tuple[asyncpg.Record, LogLine], None]:
        before = asked.before or ID_MAX
        for _ in range(0, SCANNED_MAX, PAGE):
            some = await self._some(ino, asked.below, before)
            wanted = await self._wanted(some, ino, asked.below)
            for at in range(0, len(wanted), AT_ONCE):
                for told in await self._lines(wanted[at : at + AT_ONCE]):
                    yield told
            if len(some) < PAGE:
                self.reached = None
                return
            self.reached = before = some[-1]["n"]

    async def _some(self, ino: InodeId, below: bool, before: int) -> list[asyncpg.Record]:
        space = self.identity.space
        if below:
            return list(await self.connection.fetch(_ALL, space, before, PAGE))
        return list(await self.connection.fetch(_OF_ONE, space, before, PAGE, ino))

    async def _wanted(
        self, rows: list[asyncpg.Record], ino: InodeId, below: bool
    ) -> Sequence[asyncpg.Record]:
        if not below or ino == ROOT_INODE:
            return rows
        await self.where.learn_parents({each for row in rows for each in _touched(row)})
        return [row for row in rows if any(self.where.is_below(each, ino) for each in _touched(row))]

    # --- paths ----------------------------------------------------------------------------------------

    async def _lines(self, rows: Sequence[asyncpg.Record]) -> list[tuple[asyncpg.Record, LogLine]]:
        """Those that the caller may see, in order."""
        await self.where.learn(
            Moment(each, row["n"])
            for row in rows
            for each in (*_touched(row)[1:], *(() if row["name"] is not None else (row["ino"],)))
        )
        return [(row, line) for row in rows if (line := self._line(row)) is not None]

    def _line(self, row: asyncpg.Record) -> LogLine | None:
        path, detail = self._path(row), row["detail"]
        if row["action"] == "renamed":
            old = self._path_of(row, row["parent"], row["name"])
            if path is None and old is not None:
                path, detail = old, "to elsewhere"
            else:
                detail = f"from {old}" if old is not None else "from elsewhere"
        if path is None:
            if self.identity.root != ROOT_INODE:
                return None
            path = f"(inode {row['ino']})"
        return LogLine(
            seq=row["n"],
            at=row["at"].timestamp(),
            user=row["user_name"] or (f"user {row['user_id']}" if row["user_id"] else ""),
            device=row["device_name"],
            action=row["action"],
            path=path,
            detail=detail,
            hash=bytes(row["hash"]).hex(),
        )

    def _path(self, row: asyncpg.Record) -> str | None:
        """Where it was after what was done."""
        if row["new_parent"] is not None:
            return self._path_of(row, row["new_parent"], row["new_name"])
        if row["name"] is not None:
            return self._path_of(row, row["parent"], row["name"])
        if row["ino"] == self.identity.root:
            return ""
        named = self.where.named(Moment(row["ino"], row["n"]))
        return self._path_of(row, *named) if named else None

    def _path_of(self, row: asyncpg.Record, folder: InodeId, name: bytes) -> str | None:
        names = self.where.path(Moment(folder, row["n"]), name, self.identity.root)
        return None if names is None else "/".join(map(name_text, names))

    # --- the chain ------------------------------------------------------------------------------------

    async def _intact(self, rows: list[asyncpg.Record]) -> bool:
        head = await self.connection.fetchrow(_HEAD, self.identity.space)
        if head is None:
            return not rows
        around = {n for row in rows for n in (row["n"] - 1, row["n"] + 1)}
        links = {
            row["n"]: row
            for row in await self.connection.fetch(_LINKS, self.identity.space, [*around, head["n"]])
        }
        if head["n"] >= head["first_n"] and (
            head["n"] not in links or links[head["n"]]["hash"] != head["hash"]
        ):
            return False
        return all(is_true(row) and self._is_linked(row, links, head) for row in rows)

    def _is_linked(self, row: asyncpg.Record, links: dict[int, asyncpg.Record], head: asyncpg.Record) -> bool:
        n, before, after = row["n"], links.get(row["n"] - 1), links.get(row["n"] + 1)
        linked_back = before["hash"] if before is not None else head["first_prev"]
        if before is None and n != head["first_n"]:
            return False
        linked_on = after["prev"] if after is not None else head["hash"]
        if after is None and n != head["n"]:
            return False
        return bool(row["prev"] == linked_back and linked_on == row["hash"])


def _touched(row: asyncpg.Record) -> list[InodeId]:
    """The inode and the folders that a line is about."""
    return [row["ino"], *(each for each in (row["parent"], row["new_parent"]) if each not in (None, NOWHERE))]
