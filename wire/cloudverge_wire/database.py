"""PostgreSQL as servers use it: a pool that outlives restarts of the database, and one translation of its errors.

While the database is away, every use fails at once or within a deadline with Unavailable(UNAVAILABLE), and the
next use after its return works: asyncpg's pool opens connections as they are needed. Nothing here retries a
statement, since only its author knows whether it may run twice.

The DSN is a secret: it comes from a file and is never logged.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import structlog

from cloudverge_protocol.errors import Code, ProtocolFault, Unavailable

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

ACQUIRE_WITHIN_S = 5.0
COMMAND_WITHIN_S = 25.0
CONNECT_WITHIN_S = 5.0
START_WITHIN_S = 60.0
RETRY_S = 0.25

log = structlog.get_logger("cloudverge.wire")

# The database is away, stopping, starting, failing over, or cut us off. What it refuses for good is not here.
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
)


def read_dsn(path: Path) -> str:
    """The DSN in a file; raises ProtocolFault(INVALID) if there is none."""
    try:
        dsn = path.read_text().strip()
    except OSError as error:
        raise ProtocolFault(Code.INVALID, f"cannot read the DSN file {path}: {error.strerror}") from None
    if not dsn:
        raise ProtocolFault(Code.INVALID, f"the DSN file {path} is empty")
    return dsn


@contextmanager
def database_errors() -> Iterator[None]:
    """Inside, a database that is away raises Unavailable(UNAVAILABLE) instead of asyncpg's errors."""
    try:
        yield
    except AWAY as error:
        log.info("database unavailable", reason=type(error).__name__)
        raise Unavailable(Code.UNAVAILABLE, "the database does not answer: try again shortly") from error


async def open_pool(
    dsn: str,
    *,
    schema: str,
    max_size: int = 10,
    wait_s: float = START_WITHIN_S,
    application: str = "cloudverge",
) -> "asyncpg.Pool":
    """A pool whose connections have ``schema`` first in search_path, once the database answers.

    Raises Unavailable if it does not within ``wait_s``.
    """
    settings = {"search_path": f"{schema}, public", "application_name": application}
    deadline = asyncio.get_running_loop().time() + wait_s
    pool: asyncpg.Pool = asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=max_size,
        timeout=CONNECT_WITHIN_S,
        command_timeout=COMMAND_WITHIN_S,
        server_settings=settings,
    )
    await pool
    while True:
        try:
            async with connection(pool) as acquired:
                await acquired.execute("select 1")
            return pool
        except Unavailable:
            if asyncio.get_running_loop().time() > deadline:
                pool.terminate()
                raise
        await asyncio.sleep(RETRY_S)


@asynccontextmanager
async def connection(pool: "asyncpg.Pool") -> AsyncIterator["PoolConnectionProxy"]:
    """A connection for a ``with``; errors of a database that is away become Unavailable."""
    with database_errors():
        async with pool.acquire(timeout=ACQUIRE_WITHIN_S) as acquired:
            yield acquired


@asynccontextmanager
async def transaction(pool: "asyncpg.Pool") -> AsyncIterator["PoolConnectionProxy"]:
    """A connection with an open transaction: committed at the end, rolled back by any error."""
    async with connection(pool) as acquired, acquired.transaction():
        yield acquired


async def close_pool(pool: "asyncpg.Pool", grace_s: float = 5.0) -> None:
    """Close once its connections are idle, or cut them after ``grace_s``."""
    try:
        async with asyncio.timeout(grace_s):
            await pool.close()
    except (TimeoutError, *AWAY):
        pool.terminate()
