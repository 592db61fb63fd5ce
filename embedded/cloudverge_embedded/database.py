"""The database of a cluster: one, with the schemas ``auth`` and ``meta`` and a role for each.

Run as a task of its own (``python -m cloudverge_embedded.database FOLDER``) before the servers, at every
start: it only creates what is missing. In a database somebody else runs it creates the schemas and no roles.
"""

import asyncio
import sys
from pathlib import Path

import asyncpg

from cloudverge_embedded.folder import Folder
from cloudverge_embedded.secretfiles import DATABASE, ROLES, load_passwords, read_dsn
from cloudverge_embedded.settings import Settings

_CONNECT_LIMIT_S = 10
_COMMAND_LIMIT_S = 30


async def prepare_own(owner_dsn: str, passwords: dict[str, str]) -> None:
    """Create the database, the roles, their schemas and their rights, as far as they are missing."""
    server = await _connect(owner_dsn, database="postgres")
    try:
        await _create_roles(server, passwords)
        if not await server.fetchval("select true from pg_database where datname = $1", DATABASE):
            await server.execute(f"create database {DATABASE}")
    finally:
        await server.close()
    connection = await _connect(owner_dsn)
    try:
        await _create_schemas(connection)
    finally:
        await connection.close()


async def prepare_external(owner_dsn: str) -> None:
    """Create the schemas in a given database; all servers use the given DSN."""
    connection = await _connect(owner_dsn)
    try:
        for schema in ("auth", "meta"):
            await connection.execute(f"create schema if not exists {schema}")
    finally:
        await connection.close()


async def _connect(dsn: str, database: str | None = None) -> asyncpg.Connection:
    return await asyncpg.connect(
        dsn, database=database, timeout=_CONNECT_LIMIT_S, command_timeout=_COMMAND_LIMIT_S
    )


async def _create_roles(server: asyncpg.Connection, passwords: dict[str, str]) -> None:
    for key in ("auth", "meta"):
        role = ROLES[key]
        if not await server.fetchval("select true from pg_roles where rolname = $1", role):
            await server.execute(f"create role {role} login password '{passwords[key]}'")


async def _create_schemas(connection: asyncpg.Connection) -> None:
    """Each role owns its schema; ``public`` holds the cluster's identity, which either may write first."""
    async with connection.transaction():
        await connection.execute(f"revoke all on database {DATABASE} from public")
        for schema, other in (("auth", "meta"), ("meta", "auth")):
            role, reader = ROLES[schema], ROLES[other]
            await connection.execute(
                f"create schema if not exists {schema} authorization {role};"
                f"grant connect, temporary on database {DATABASE} to {role};"
                f"grant usage, create on schema public to {role};"
                f"alter role {role} in database {DATABASE} set search_path = {schema}, public;"
                f"alter default privileges for role {role} in schema public"
                f" grant select, insert, update on tables to {reader}"
            )


def main(arguments: list[str]) -> None:
    """Prepare the database of the cluster folder named on the command line."""
    folder = Folder(Path(arguments[0]))
    settings = Settings.load(folder)
    owner_dsn = read_dsn(folder, "owner")
    if settings is not None and settings.external_database:
        asyncio.run(prepare_external(owner_dsn))
    else:
        asyncio.run(prepare_own(owner_dsn, load_passwords(folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
