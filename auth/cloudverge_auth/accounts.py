"""Users: signing up, signing in, changing a password.

What a stranger can learn: whether a name is taken, by trying to sign up with it while that is allowed. Login
gives the same answer, after the same work, for a wrong password, an absent user and a disabled one.

Between a password's check and what it allows lies a hash's time: so the user's row is locked then and must still
be the one that was checked.
"""

import asyncpg
import msgspec

from cloudverge_auth import audit, epochs, invites, loginrate, policy, signins
from cloudverge_auth.audit import ACCOUNTS, Actor
from cloudverge_auth.passwords import Passwords
from cloudverge_auth.policy import SignUpDefaults
from cloudverge_auth.signins import Caller, SignIn
from cloudverge_protocol.errors import Code, Denied, Refused
from cloudverge_protocol.ids import DeviceId, UserId
from cloudverge_wire.database import connection, transaction

WRONG_MESSAGE = "user name or password is wrong"


class Quota(msgspec.Struct, frozen=True):
    """Bytes and inodes; 0: none."""

    bytes: int = 0
    inodes: int = 0


class Credentials(msgspec.Struct, frozen=True):
    """What somebody says who comes in; validated by the edge."""

    user: str
    password: str
    device: str
    address: str  # where the request came from
    invite: str = ""

    def __repr__(self) -> str:
        return f"Credentials({self.user!r})"


class Accounts:
    """Sign-up and login over the database and a hasher; the quotas are those of new spaces and of new users."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        passwords: Passwords,
        defaults: SignUpDefaults,
        space_quota: Quota,
        user_quota: Quota,
    ) -> None:
        self._pool, self._passwords, self.defaults = pool, passwords, defaults
        self.space_quota, self.user_quota = space_quota, user_quota

    async def sign_up(self, given: Credentials) -> SignIn:
        """A new user with a first space of the same name; raises Denied(FORBIDDEN), Refused(EXISTS, BUSY)."""
        await loginrate.charge(self._pool, loginrate.sign_up_charges(given.address))
        invite = await policy.check_sign_up(self._pool, self.defaults, given.invite)
        hashed = await self._passwords.hash(given.password)
        try:
            return await self._create(given, hashed, invite)
        except asyncpg.UniqueViolationError:
            raise Refused(Code.EXISTS, f"the name {given.user} is taken") from None

    async def _create(self, given: Credentials, hashed: str, invite: str) -> SignIn:
        of_user, of_space = self.user_quota, self.space_quota
        async with transaction(self._pool) as connected:
            user = UserId(
                await connected.fetchval(_INSERT, given.user, hashed, of_user.bytes, of_user.inodes)
            )
            await connected.execute(_FIRST_SPACE, user, given.user, of_space.bytes, of_space.inodes)
            admin = bool(invite) and await invites.use(connected, invite, user)
            if admin:
                await connected.execute("update users set admin = true where id = $1", user)
            actor = Actor(user, given.user, DeviceId(0), given.device)
            detail = f"{given.user}, an administrator" if admin else given.user
            await audit.record(connected, actor, ACCOUNTS, "user.create", detail)
            return await signins.begin(connected, user, given.user, given.device)

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
            if await connected.fetchval(_SAME, row["id"], known):
                if fresh != known:
                    await connected.execute(_SET_HASH, row["id"], fresh)
                return await signins.begin(connected, UserId(row["id"]), given.user, given.device)
        return await self.log_in(given)  # another password, another hash of it, or disabled: look again

    async def change_password(self, caller: Caller, old: str, new: str, address: str) -> None:
        """Set a new password and end all other sign-ins of the caller; raises Denied(FORBIDDEN), Refused(BUSY)."""
        charges = loginrate.login_charges(caller.user_name, address)
        await loginrate.charge(self._pool, charges)
        async with connection(self._pool) as connected:
            row = await connected.fetchrow(_USER, caller.user_name)
        known: str | None = row["password_hash"] if row is not None else None
        if not await self._passwords.check(known, old):
            raise Denied(Code.FORBIDDEN, "the old password is wrong")
        await loginrate.give_back(self._pool, charges)
        hashed = await self._passwords.hash(new)
        async with transaction(self._pool) as connected:
            if await connected.fetchval(_SAME, caller.user, known):
                await connected.execute(_SET_HASH, caller.user, hashed)
                await signins.end_others(connected, caller.user, caller.family, "password")
                await epochs.raise_spaces_of(connected, caller.user)
                await audit.record(connected, caller, ACCOUNTS, "password.change", caller.user_name)
                return
        await self.change_password(caller, old, new, address)  # changed meanwhile: look again


_USER = "select id, password_hash from users where name = $1 and disabled_at is null"
_INSERT = """
insert into users (name, password_hash, quota_bytes, quota_inodes) values ($1, $2, $3, $4) returning id
"""
_SAME = """
select true from users where id = $1 and password_hash = $2 and disabled_at is null for no key update
"""
_SET_HASH = "update users set password_hash = $2 where id = $1"
_FIRST_SPACE = """
with made as (
    insert into spaces (owner_id, name, quota_bytes, quota_inodes) values ($1, $2, $3, $4) returning id
)
insert into members (space_id, user_id, role) select id, $1, 'owner' from made
"""
