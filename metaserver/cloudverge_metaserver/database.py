"""PostgreSQL as the rest sees it: connections, transactions on one space, and what its absence means.

A transaction that changes a space is opened by ``on_space``: BEGIN and the lock of the space's row travel in
one round trip, everything after reads what was committed before the lock was had. Whatever goes wrong with
the database itself comes out as Unavailable, so a caller may try again; nothing else is caught here.

Plans are fixed: every statement of this server finds its rows by index, one after the other (index nested
loops). A planner that sees an empty table and chooses to scan it would be right once and quadratic ever
after, so the other ways are switched off for these connections, and so is JIT.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import asyncpg
import structlog

from cloudverge_metaserver.rows import Connection
from cloudverge_protocol.errors import Code, ProtocolFault, Unavailable
from cloudverge_protocol.ids import SpaceId

_log = structlog.get_logger()

STATEMENT_TIMEOUT_S: Final = 20
ACQUIRE_TIMEOUT_S: Final = 8.0
ROLLBACK_WITHIN_S: Final = 2.0
_SETTINGS: Final = {
    "application_name": "cloudverge-metaserver",
    "search_path": "meta",
    "timezone": "UTC",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "enable_material": "off",
    "synchronous_commit": "on",
    "statement_timeout": str(STATEMENT_TIMEOUT_S * 1000),
    "lock_timeout": "10000",
    "idle_in_transaction_session_timeout": "60000",
}

_ABSENT: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,  # shutdown, crash, cancelled by a timeout
    asyncpg.InsufficientResourcesError,  # no disk, no memory, no connection
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,  # deadlock, serialization
    asyncpg.InvalidAuthorizationSpecificationError,  # while it is starting
)


async def _leave_as_it_is(connection: object) -> None:
    """Connections carry no state between uses: transactions are ended here, nothing else is ever set."""


async def _roll_back(connection: Connection) -> None:
    """End a transaction that failed; a connection on which that fails too is cut, and the server ends it."""
    try:
        if not connection.is_closed():
            await connection.execute("rollback", timeout=ROLLBACK_WITHIN_S)
    except (*_ABSENT, asyncpg.PostgresError):
        connection.terminate()


class Database:
    """A pool of connections; ``steady_since_s`` says since when it has answered without a break."""

    def __init__(self, dsn: str, size: int = 12) -> None:
        self._dsn, self._size = dsn, size
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self.steady_since_s = time.monotonic()

    async def open(self) -> None:
        """Connect for the first time; raises Unavailable."""
        try:
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=2,
                max_size=self._size,
                command_timeout=STATEMENT_TIMEOUT_S + 5,
                timeout=ACQUIRE_TIMEOUT_S,
                statement_cache_size=400,
                max_cached_statement_lifetime=0,
                max_cacheable_statement_size=64 * 1024,
                server_settings=_SETTINGS,
                reset=_leave_as_it_is,
            )
        except _ABSENT as error:
            raise self._absent(error) from error
        self.steady_since_s = time.monotonic()

    async def close(self) -> None:
        """Let the connections go, waiting for those in use a moment."""
        if self._pool is None:
            return
        try:
            await asyncio.wait_for(self._pool.close(), timeout=5)
        except (TimeoutError, *_ABSENT):
            self._pool.terminate()

    def _absent(self, error: BaseException) -> Unavailable:
        self.steady_since_s = time.monotonic()
        _log.warning("database unavailable", error=f"{type(error).__name__}: {error}")
        absent = Unavailable(Code.UNAVAILABLE, "the metadata database does not answer now; try again")
        absent.retry_after_s = 0.5
        return absent

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection without a transaction: single statements."""
        if self._pool is None:
            raise Unavailable(Code.UNAVAILABLE, "the metadata database is not connected yet; try again")
        try:
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                yield connection  # type: ignore[misc]  # a proxy of one
        except asyncpg.DataError as error:
            raise ProtocolFault(Code.BAD_REQUEST, "a number in the request is out of range") from error
        except _ABSENT as error:
            if isinstance(error, ValueError) and isinstance(error, asyncpg.InterfaceError):
                raise ProtocolFault(Code.BAD_REQUEST, "a number in the request is out of range") from error
            raise self._absent(error) from error

    @asynccontextmanager
    async def transaction(self, begin: str = "begin") -> AsyncIterator[Connection]:
        """A transaction, committed at the end, rolled back when anything is raised."""
        async with self.connection() as connection:
            try:
                await connection.execute(begin)
                yield connection
            except BaseException:
                await _roll_back(connection)
                raise
            await connection.execute("commit")

    def on_space(self, space: SpaceId) -> AbstractAsyncContextManager[Connection]:
        """A transaction that holds the lock of ``space`` (which need not exist); see ``kept`` for the revision."""
        lock = f"begin; update meta.spaces set revision = revision + 1 where space = {int(space)}"  # noqa: S608
        return self.transaction(lock)

    def snapshot(self) -> AbstractAsyncContextManager[Connection]:
        """A transaction that reads one state of the database and changes nothing."""
        return self.transaction("begin isolation level repeatable read read only")
