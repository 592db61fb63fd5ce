"""Public links: whoever has the secret (and the password, if there is one) may download one file.

The metaserver serves them and asks here, with the join token, at each opening. Attempts at a password are limited
per link and address; downloads are counted by one statement each, so there are never more than were allowed.
"""

import secrets
from datetime import datetime
from typing import Final

import asyncpg
import msgspec

from cloudverge_auth import audit, grants, loginrate
from cloudverge_auth.grants import Wanted
from cloudverge_auth.passwords import Passwords
from cloudverge_auth.secrethash import hash_of
from cloudverge_auth.signins import Caller
from cloudverge_protocol.errors import Code, Denied, Refused
from cloudverge_protocol.ids import GrantId, InodeId, SpaceId
from cloudverge_wire.database import connection, transaction


class Asked(msgspec.Struct, frozen=True):
    """What a visitor shows; ``address``: where from, ``count``: whether a download begins."""

    secret: str
    password: str
    address: str
    count: bool

    def __repr__(self) -> str:
        return f"Asked(from {self.address!r})"


class Opened(msgspec.Struct, frozen=True):
    """The file behind a link."""

    id: GrantId
    space: SpaceId
    ino: InodeId
    name: str
    until: datetime | None


class Links:
    """Making and opening them over the database and a hasher."""

    def __init__(self, pool: asyncpg.Pool, passwords: Passwords) -> None:
        self._pool, self._passwords = pool, passwords

    async def make(
        self, caller: Caller, wanted: Wanted, password: str, max_downloads: int | None
    ) -> tuple[GrantId, str]:
        """A link to the file ``wanted.root``: its id and its secret, which is not shown again."""
        async with connection(self._pool) as connected:
            await grants.look_to_give(connected, caller, wanted.space)  # a hash is dear
        hashed = await self._passwords.hash(password) if password else None
        secret = secrets.token_urlsafe(32)
        async with transaction(self._pool) as connected:
            await grants.enter_to_give(connected, caller, wanted.space)
            what = (wanted.root, wanted.path, wanted.until, hash_of(secret), hashed, max_downloads)
            link = GrantId(await connected.fetchval(_INSERT, wanted.space, caller.user, *what))
            detail = f"{link}: {wanted.path}, {_described(wanted, hashed is not None, max_downloads)}"
            await audit.record(connected, caller, wanted.space, "link.make", detail)
        return link, secret

    async def open(self, asked: Asked) -> Opened:
        """What the link opens; raises Refused(NOT_FOUND, BUSY), Denied(FORBIDDEN)."""
        async with connection(self._pool) as connected:
            row = await connected.fetchrow(_FIND, hash_of(asked.secret))
        if row is None:
            raise _absent()
        if row["password_hash"] is not None:
            await self._check(row["id"], row["password_hash"], asked)
        if asked.count:
            async with connection(self._pool) as connected:
                if await connected.fetchval(_COUNT, row["id"]) is None:
                    raise _absent()
        name = row["path"].rpartition("/")[2]
        return Opened(row["id"], row["space_id"], row["root"], name, row["until"])

    async def _check(self, link: int, known: str, asked: Asked) -> None:
        if not asked.password:
            raise Denied(Code.FORBIDDEN, "this link needs a password")
        charges = loginrate.link_charges(link, asked.address)
        await loginrate.charge(self._pool, charges)
        if not await self._passwords.check(known, asked.password):
            raise Denied(Code.FORBIDDEN, "the password is wrong")
        await loginrate.give_back(self._pool, charges)


def _absent() -> Refused:
    return Refused(Code.NOT_FOUND, "there is no such link, or no longer")


def _described(wanted: Wanted, has_password: bool, max_downloads: int | None) -> str:
    limits = ["with a password"] if has_password else []
    limits += [f"{max_downloads} downloads"] if max_downloads else []
    return ", ".join([grants.described(wanted), *limits])


_INSERT: Final = """
insert into grants (kind, space_id, given_by, root, path, until, secret_hash, password_hash, max_downloads)
values ('link', $1, $2, $3, $4, $5, $6, $7, $8) returning id
"""
_FIND: Final = """
select id, space_id, root, path, until, password_hash from working_grants
where kind = 'link' and secret_hash = $1 and (max_downloads is null or downloads < max_downloads)
"""
_COUNT: Final = """
update grants set downloads = downloads + 1
where id = $1 and ended_at is null and (max_downloads is null or downloads < max_downloads)
returning downloads
"""
