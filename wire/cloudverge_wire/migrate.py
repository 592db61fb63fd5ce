"""Numbered SQL migrations: ``PACKAGE/schema/NNNN_subject.sql``, each applied once, in order.

Servers migrate at start, several at once: each step runs in one transaction that first takes an advisory lock
and then looks again, so a step is applied by one of them and found done by the others. A file, once released,
never changes: an applied one that differs is refused, as is a database that is newer than the software.

SQL in the files runs with the schema first in ``search_path``. The schema may exist already (made for this
role by an administrator); only then may the role lack the right to create it.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from typing import cast

import asyncpg

from cloudverge_protocol.errors import Code, ProtocolFault

LOCK_WITHIN_S = 60
_LOCK = 0x0C10DD00  # advisory lock class of all our migrations

Database = asyncpg.Pool | asyncpg.Connection


@dataclass(frozen=True)
class Migration:
    """One file."""

    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        """What is recorded, to notice a file that was changed after its release."""
        return sha256(self.sql.encode()).hexdigest()


def load_migrations(package: str) -> list[Migration]:
    """The migrations of a package in order; numbers are 1, 2, ... without a gap."""
    folder = resources.files(package) / "schema"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda e: e.name)
    found = [Migration(int(file.name[:4]), file.name, file.read_text()) for file in files]
    assert [migration.number for migration in found] == list(range(1, len(found) + 1)), package
    return found


def check_applied(known: Sequence[Migration], applied: Sequence[tuple[int, str]]) -> None:
    """Raise ProtocolFault(VERSION) if the database's (number, digest) records are not ours."""
    digests = {migration.number: migration.digest for migration in known}
    for number, digest in applied:
        if number not in digests:
            raise ProtocolFault(
                Code.VERSION, f"the database has migration {number}, newer than this software: upgrade it"
            )
        if digests[number] != digest:
            raise ProtocolFault(
                Code.VERSION, f"migration {number} in the database is not the one of this software"
            )


@asynccontextmanager
async def locked(database: Database) -> AsyncIterator["asyncpg.Connection"]:
    """A transaction that no other migration runs beside."""
    async with _connection(database) as connection, connection.transaction():
        await connection.execute(f"set local lock_timeout = '{LOCK_WITHIN_S}s'")
        await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
        yield connection


async def migrate(database: Database, package: str, schema: str) -> list[str]:
    """Bring ``schema`` up to date; returns the names of the files applied now. Raises ProtocolFault(VERSION)."""
    assert schema.isidentifier()
    migrations, done = load_migrations(package), []
    for migration in migrations:
        async with locked(database) as connection:
            if await _apply(connection, schema, migration, migrations):
                done.append(migration.name)
    return done


async def _apply(
    connection: asyncpg.Connection, schema: str, migration: Migration, all_known: Sequence[Migration]
) -> bool:
    await _make_schema(connection, schema)
    await connection.execute(f"set local search_path to {schema}, public")
    rows = await connection.fetch("select number, digest from migrations order by number")
    check_applied(all_known, [(row["number"], row["digest"]) for row in rows])
    if any(row["number"] == migration.number for row in rows):
        return False
    await connection.execute(migration.sql)
    await connection.execute(
        "insert into migrations (number, name, digest) values ($1, $2, $3)",
        migration.number,
        migration.name,
        migration.digest,
    )
    return True


async def _make_schema(connection: asyncpg.Connection, schema: str) -> None:
    if not await connection.fetchval("select to_regnamespace($1) is not null", schema):
        await connection.execute(f"create schema {schema}")
    await connection.execute(
        f"""
        create table if not exists {schema}.migrations (
            number integer primary key,                    -- NNNN of the file
            name text not null,                            -- the file
            digest text not null,                          -- SHA-256 of its text: released files never change
            applied_at timestamptz not null default now()
        )
        """
    )


@asynccontextmanager
async def _connection(database: Database) -> AsyncIterator["asyncpg.Connection"]:
    if isinstance(database, asyncpg.Pool):
        async with database.acquire(timeout=LOCK_WITHIN_S) as connection:
            yield cast("asyncpg.Connection", connection)  # the pool's proxy has all of its methods
    else:
        yield database
