"""What auth's routes stand on: opened once at start, closed at stop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import asyncpg
import structlog

from cloudverge_auth.accounts import Accounts, Quota
from cloudverge_auth.passwords import Passwords
from cloudverge_auth.settings import AuthSettings, SignUp
from cloudverge_auth.signing import SigningKeys
from cloudverge_protocol.errors import Unavailable
from cloudverge_wire.clusterid import ClusterIds, ensure_cluster
from cloudverge_wire.database import close_pool, connection, database_errors, open_pool, read_dsn
from cloudverge_wire.join import read_join_token
from cloudverge_wire.migrate import migrate

PACKAGE, SCHEMA = "cloudverge_auth", "auth"
SWEEP_S = 600.0

log = structlog.get_logger("cloudverge.auth")


@dataclass(frozen=True)
class Services:
    """Everything a request may need."""

    pool: asyncpg.Pool
    ids: ClusterIds
    keys: SigningKeys
    accounts: Accounts
    sign_up: SignUp
    invite: str = ""
    now_s: Callable[[], float] = time.time


@asynccontextmanager
async def open_services(settings: AuthSettings, passwords: Passwords) -> AsyncIterator[Services]:
    """Migrate, load keys, keep both fresh. Raises Unavailable if the database does not come up."""
    invite = read_join_token(settings.invite_file) if settings.invite_file is not None else ""
    pool = await open_pool(read_dsn(settings.dsn_file), schema=SCHEMA, application="cloudverge-auth")
    tasks: list[asyncio.Task[None]] = []
    try:
        with database_errors():
            ids = await ensure_cluster(pool, settings.cluster_id)
            await migrate(pool, PACKAGE, SCHEMA)
        keys = SigningKeys(pool)
        await keys.load()
        await passwords.prepare()
        tasks = [asyncio.ensure_future(keys.keep_fresh()), asyncio.ensure_future(_sweep(pool))]
        accounts = Accounts(pool, passwords, Quota(settings.quota_bytes, settings.quota_inodes))
        yield Services(pool, ids, keys, accounts, settings.sign_up_policy, invite)
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        passwords.close()
        await close_pool(pool)


async def _sweep(pool: asyncpg.Pool) -> None:
    """Now and then remove what no longer means anything."""
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            await sweep(pool)
        except Unavailable:
            log.info("not swept: the database is away")


async def sweep(pool: asyncpg.Pool) -> None:
    """Remove expired refresh tokens, sign-ins that none is left of, and rates without debt."""
    async with connection(pool) as connected:
        await connected.execute("delete from refresh_tokens where expires_at < now() - interval '1 day'")
        await connected.execute(
            "delete from families f where created_at < now() - interval '1 day'"
            " and not exists (select from refresh_tokens t where t.family_id = f.id)"
        )
        await connected.execute("delete from login_rate where free_at < now()")
