"""Auth's signing keys: kept in the database, loaded into memory, rotated without a gap.

Every auth server of a cluster signs with the same key: the newest whose time has come. A new key is published
``PUBLISH_AHEAD_S`` before it signs, which is longer than any verifier takes to fetch the ring again; a retired
one stays published until the last token it signed has expired. While the database is away the keys in memory
go on.
"""

import asyncio
from datetime import timedelta

import asyncpg
import structlog

from cloudverge_auth.keys import KeyRing, SigningKey
from cloudverge_auth.tokens import ACCESS_LIFE_S
from cloudverge_protocol.errors import Code, Refused, Unavailable
from cloudverge_wire.database import connection
from cloudverge_wire.migrate import locked

PUBLISH_AHEAD_S = 180
RELOAD_S = 60.0
RETIRED_FOR = timedelta(seconds=ACCESS_LIFE_S + 60)

log = structlog.get_logger("cloudverge.auth")


class SigningKeys:
    """The keys as last loaded."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._signer: SigningKey | None = None
        self._ring = KeyRing({})

    @property
    def signer(self) -> SigningKey:
        """The key that signs now."""
        if self._signer is None:
            raise Unavailable(Code.UNAVAILABLE, "no signing key is loaded yet")
        return self._signer

    @property
    def ring(self) -> KeyRing:
        """All published keys."""
        return self._ring

    async def load(self) -> None:
        """Read the keys, making the first one if there is none."""
        async with connection(self._pool) as connected:
            rows = await connected.fetch(_PUBLISHED, RETIRED_FOR)
        if not rows:
            await self._make_first()
            await self.load()
            return
        keys = [(SigningKey.from_bytes(row["private"]), row["signs"]) for row in rows]
        self._signer = next((key for key, signs in keys if signs), self._signer)
        self._ring = KeyRing({key.kid: key.private.public_key() for key, _ in keys})

    async def _make_first(self) -> None:
        async with locked(self._pool) as connected:
            if not await connected.fetchval(
                "select exists (select from auth.signing_keys where retired_at is null)"
            ):
                await connected.execute(_INSERT, *_row(SigningKey.generate()), timedelta(0))

    async def rotate(self) -> str:
        """Add a key that takes over soon, and retire the ones before it from then on; returns its kid.

        Raises Refused(BUSY) while another is about to: so few are published at a time.
        """
        fresh = SigningKey.generate()
        async with locked(self._pool) as connected:
            if await connected.fetchval(
                "select exists (select from auth.signing_keys where signs_from > now())"
            ):
                raise Refused(Code.BUSY, "a new key is about to take over already: wait three minutes")
            ahead = timedelta(seconds=PUBLISH_AHEAD_S)
            await connected.execute(_RETIRE, ahead)
            await connected.execute(_INSERT, *_row(fresh), ahead)
        await self.load()
        return fresh.kid

    async def keep_fresh(self, days: int) -> None:
        """Load again for ever, and rotate keys that are ``days`` old (0: never).

        A database that is away changes nothing.
        """
        while True:
            await asyncio.sleep(RELOAD_S)
            try:
                await self.rotate_if_older(timedelta(days=days)) if days else None
                await self.load()
            except Unavailable:
                log.info("signing keys not reloaded: the database is away")

    async def rotate_if_older(self, age: timedelta) -> None:
        """Rotate when the newest key has that age."""
        async with connection(self._pool) as connected:
            is_due = await connected.fetchval(
                "select max(created_at) < now() - $1::interval from signing_keys", age
            )
        if is_due:
            try:
                log.info("signing keys rotated", kid=await self.rotate())
            except Refused:
                log.debug("another server has rotated the keys")


def _row(key: SigningKey) -> tuple[str, bytes]:
    return key.kid, key.to_bytes()


# Newest first; ``signs``: may sign now.
_PUBLISHED = """
select private, signs_from <= now() and (retired_at is null or retired_at > now()) as signs
from signing_keys
where retired_at is null or retired_at > now() - $1::interval
order by signs_from desc, kid
"""
_INSERT = "insert into auth.signing_keys (kid, private, signs_from) values ($1, $2, now() + $3::interval)"
_RETIRE = "update auth.signing_keys set retired_at = now() + $1::interval where retired_at is null"
