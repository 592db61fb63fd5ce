"""What auth's routes stand on: opened once at start, closed at stop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import structlog

from cloudverge_auth import invites
from cloudverge_auth.accounts import Accounts, Quota
from cloudverge_auth.certificates import Authority
from cloudverge_auth.links import Links
from cloudverge_auth.passwords import Passwords
from cloudverge_auth.policy import SignUpDefaults
from cloudverge_auth.settings import AuthSettings
from cloudverge_auth.signing import SigningKeys
from cloudverge_protocol.errors import Code, ProtocolFault, Unavailable
from cloudverge_wire.clusterid import ClusterIds, ensure_cluster
from cloudverge_wire.database import close_pool, connection, database_errors, open_pool, read_dsn
from cloudverge_wire.join import read_join_token
from cloudverge_wire.listen import is_loopback
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
    links: Links
    join_token: str = field(default="", repr=False)
    metaserver: str = ""
    metaserver_url: str = ""
    ca_pem: str = ""
    authority: Authority | None = None
    own_hosts: frozenset[str] = frozenset()  # where auth and the metaserver are, but for loopback
    now_s: Callable[[], float] = time.time


@asynccontextmanager
async def open_services(settings: AuthSettings, passwords: Passwords) -> AsyncIterator[Services]:
    """Migrate, load keys, keep both fresh. Raises Unavailable if the database does not come up."""
    defaults = SignUpDefaults(settings.sign_up_policy, _secret(settings.invite_file, "invite"))
    join_token = _secret(settings.join_token_file, "join token")
    admin_invite = _read_invite(settings.admin_invite_file)
    ca_pem, authority = _read_ca(settings)
    pool = await open_pool(read_dsn(settings.dsn_file), schema=SCHEMA, application="cloudverge-auth")
    tasks: list[asyncio.Task[None]] = []
    try:
        with database_errors():
            ids = await ensure_cluster(pool, settings.cluster_id)
            await migrate(pool, PACKAGE, SCHEMA)
        keys = SigningKeys(pool)
        await keys.load()
        if admin_invite and await invites.take_in(pool, admin_invite):
            log.info("an administrator invitation was taken in", path=str(settings.admin_invite_file))
        await passwords.prepare()
        tasks = [
            asyncio.ensure_future(keys.keep_fresh(settings.key_days)),
            asyncio.ensure_future(_sweep(pool)),
        ]
        yield Services(
            pool,
            ids,
            keys,
            _accounts(pool, passwords, defaults, settings),
            Links(pool, passwords),
            join_token,
            settings.metaserver,
            settings.metaserver_url.rstrip("/"),
            ca_pem,
            authority,
            _own_hosts(settings),
        )
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        passwords.close()
        await close_pool(pool)


def _accounts(
    pool: asyncpg.Pool, passwords: Passwords, defaults: SignUpDefaults, settings: AuthSettings
) -> Accounts:
    of_space = Quota(settings.quota_bytes, settings.quota_inodes)
    of_user = Quota(settings.user_quota_bytes, settings.user_quota_inodes)
    return Accounts(pool, passwords, defaults, of_space, of_user)


def _own_hosts(settings: AuthSettings) -> frozenset[str]:
    metaserver = urlsplit(f"//{settings.metaserver}").hostname, urlsplit(settings.metaserver_url).hostname
    hosts = {settings.host, *(host for host in metaserver if host)}
    return frozenset(host.lower() for host in hosts if not is_loopback(host))


def _secret(path: Path | None, what: str) -> str:
    return read_join_token(path, what) if path is not None else ""


def _read_ca(settings: AuthSettings) -> tuple[str, Authority | None]:
    """The CA's certificate ("": none), and the CA itself where its key is."""
    if settings.tls_ca is None:
        return "", None
    certificate = _read(settings.tls_ca)
    if settings.ca_key_file is None:
        return certificate.decode(), None
    if settings.ca_key_file.exists() and settings.ca_key_file.stat().st_mode & 0o077:
        raise ProtocolFault(
            Code.INVALID, f"the CA's key {settings.ca_key_file} is open to others: chmod 600 it"
        )
    return certificate.decode(), Authority(certificate, _read(settings.ca_key_file))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProtocolFault(Code.INVALID, f"cannot read {path}: {error.strerror}") from None


def _read_invite(path: Path | None) -> str:
    """An operator who deletes the file after its use must still be able to start the server."""
    if path is None or path.exists():
        return _secret(path, "administrator invitation")
    log.info("there is no administrator invitation to take in", path=str(path))
    return ""


async def _sweep(pool: asyncpg.Pool) -> None:
    """Now and then remove what no longer means anything."""
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            await sweep(pool)
        except Unavailable:
            log.info("not swept: the database is away")


async def sweep(pool: asyncpg.Pool) -> None:
    """Remove expired refresh tokens, sign-ins that none is left of, old codes, and rates without debt."""
    async with connection(pool) as connected:
        await connected.execute("delete from refresh_tokens where expires_at < now() - interval '1 day'")
        await connected.execute(
            "delete from families f where created_at < now() - interval '1 day'"
            " and not exists (select from refresh_tokens t where t.family_id = f.id)"
        )
        await connected.execute("delete from login_rate where free_at < now()")
        await connected.execute("delete from enrolments where until < now() - interval '30 days'")
