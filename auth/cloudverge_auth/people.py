"""Other users, by name: the one thing about others that who has signed in can learn is whether a name exists.

So asking is limited per caller, whatever it is for. A lookup that led to something costs nothing: what it led to
(a member, a grant) stands in the space's log.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from cloudverge_auth import loginrate
from cloudverge_auth.signins import Caller
from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import UserId

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy


@asynccontextmanager
async def looking_up(pool: asyncpg.Pool, caller: Caller) -> AsyncIterator[None]:
    """Around a change that names another user: charged, given back if it succeeds. Raises Refused(BUSY)."""
    charges = loginrate.lookup_charges(caller.user)
    await loginrate.charge(pool, charges)
    yield
    await loginrate.give_back(pool, charges)


async def find(connected: "PoolConnectionProxy", name: str) -> UserId:
    """The user of that name, whose sign-ins and devices stay as they are until the transaction ends.

    Comes before a space is locked. Raises Refused(NOT_FOUND).
    """
    user = await connected.fetchval("select id from users where name = $1 for share", name)
    if user is None:
        raise Refused(Code.NOT_FOUND, "there is no user of that name")
    return UserId(user)
