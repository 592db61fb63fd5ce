"""Users: signing up and signing in.

What a stranger can learn: whether a name is taken, by trying to sign up with it while that is allowed. Login
gives the same answer, after the same work, for a wrong password, an absent user and a disabled one.
"""

import asyncpg
import msgspec

from cloudverge_auth import loginrate, signins
from cloudverge_auth.passwords import Passwords
from cloudverge_auth.signins import SignIn
from cloudverge_protocol.errors import Code, Denied, Refused
from cloudverge_protocol.ids import UserId
from cloudverge_wire.database import connection, transaction

WRONG_MESSAGE = "user name or password is wrong"


class Quota(msgspec.Struct, frozen=True):
    """Of a new user's first space; 0: none."""

    bytes: int = 0
    inodes: int = 0


class Credentials(msgspec.Struct, frozen=True):
    """What somebody says who comes in; validated by the edge."""

    user: str
    password: str
    device: str
    address: str  # where the request came from

    def __repr__(self) -> str:
        return f"Credentials({self.user!r})"


class Accounts:
    """Sign-up and login over the database and a hasher."""

    def __init__(self, pool: asyncpg.Pool, passwords: Passwords, quota: Quota) -> None:
        self._pool, self._passwords, self._quota = pool, passwords, quota

    async def sign_up(self, given: Credentials) -> SignIn:
        """A new user with a first space of the same name; raises Refused(EXISTS, BUSY)."""
        await loginrate.charge(self._pool, loginrate.sign_up_charges(given.address))
        hashed = await self._passwords.hash(given.password)
        try:
            return await self._create(given, hashed)
        except asyncpg.UniqueViolationError:
            raise Refused(Code.EXISTS, f"the name {given.user} is taken") from None

    async def _create(self, given: Credentials, hashed: str) -> SignIn:
        async with transaction(self._pool) as connected:
            user = await connected.fetchval(
                "insert into users (name, password_hash) values ($1, $2) returning id", given.user, hashed
            )
            await connected.execute(_FIRST_SPACE, user, given.user, self._quota.bytes, self._quota.inodes)
            return await signins.begin(connected, UserId(user), given.device)

    async def log_in(self, given: Credentials) -> SignIn:
        """A new sign-in of a known user; raises Denied(UNAUTHORIZED), Refused(BUSY)."""
        charges = loginrate.login_charges(given.user, given.address)
        await loginrate.charge(self._pool, charges)
        async with connection(self._pool) as connected:
            row = await connected.fetchrow(_USER, given.user)
        known: str | None = row["password_hash"] if row is not None else None
        if not await self._passwords.check(known, given.password) or row is None or known is None:
            raise Denied(Code.UNAUTHORIZED, WRONG_MESSAGE)
        await loginrate.give_back(self._pool, charges)
        fresh = await self._passwords.hash(given.password) if self._passwords.is_outdated(known) else known
        async with transaction(self._pool) as connected:
            if fresh != known:
                await connected.execute(_REHASH, row["id"], known, fresh)
            return await signins.begin(connected, UserId(row["id"]), given.device)


_USER = "select id, password_hash from users where name = $1 and disabled_at is null"
_REHASH = "update users set password_hash = $3 where id = $1 and password_hash = $2"
_FIRST_SPACE = """
with made as (
    insert into spaces (owner_id, name, quota_bytes, quota_inodes) values ($1, $2, $3, $4) returning id
)
insert into members (space_id, user_id, role) select id, $1, 'owner' from made
"""
