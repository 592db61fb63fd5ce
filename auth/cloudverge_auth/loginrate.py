"""How often somebody may try to sign in, or try something else that tells or guesses, across all auth servers.

The generic cell rate algorithm: each attempt adds ``interval_s`` to the subject's debt, which time pays off; an
attempt that would make it more than ``burst`` intervals is refused, and costs nothing. A success gives back what
it cost. Subjects are an address, a user, and the two together: one guesser is stopped early, many slower ones
late, and nobody can lock a user out from elsewhere with few requests.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

import asyncpg
import msgspec

from cloudverge_protocol.errors import Code, Refused
from cloudverge_wire.database import transaction

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy


class Rate(msgspec.Struct, frozen=True):
    """``burst`` attempts at once, then one each ``interval_s``."""

    burst: int
    interval_s: float


class Charge(msgspec.Struct, frozen=True):
    """One attempt charged to one subject."""

    subject: str
    rate: Rate


PER_PAIR = Rate(burst=10, interval_s=6.0)
PER_ADDRESS = Rate(burst=100, interval_s=1.0)
PER_USER = Rate(burst=200, interval_s=3.0)
SIGN_UPS_PER_ADDRESS = Rate(burst=100, interval_s=2.0)
LOOKUPS_PER_USER = Rate(burst=30, interval_s=20.0)
PER_LINK = Rate(burst=200, interval_s=3.0)


def _subject(*parts: str) -> str:
    return sha256("\0".join(parts).encode()).hexdigest()[:32]


def login_charges(user: str, address: str) -> list[Charge]:
    """What one login costs."""
    return [
        Charge(_subject("pair", user, address), PER_PAIR),
        Charge(_subject("address", address), PER_ADDRESS),
        Charge(_subject("user", user), PER_USER),
    ]


def sign_up_charges(address: str) -> list[Charge]:
    """What one sign-up costs."""
    return [Charge(_subject("sign-up", address), SIGN_UPS_PER_ADDRESS)]


def lookup_charges(caller: int) -> list[Charge]:
    """What it costs to ask for another user by name."""
    return [Charge(_subject("lookup", str(caller)), LOOKUPS_PER_USER)]


def link_charges(link: int, address: str) -> list[Charge]:
    """What one attempt at a link's password costs."""
    return [
        Charge(_subject("link pair", str(link), address), PER_PAIR),
        Charge(_subject("link", str(link)), PER_LINK),
    ]


def wait_of(rate: Rate, debt_s: float) -> float:
    """Seconds until one more attempt is allowed to a subject with this debt; 0: now."""
    return max(0.0, debt_s + rate.interval_s - rate.burst * rate.interval_s)


async def charge(pool: asyncpg.Pool, charges: Sequence[Charge]) -> None:
    """Charge an attempt to all subjects, or to none and raise Refused(BUSY) with ``retry_after_s``."""
    async with transaction(pool) as connection:
        waits = [await _charge_one(connection, each) for each in sorted(charges, key=lambda c: c.subject)]
        if max(waits) > 0:
            refusal = Refused(Code.BUSY, f"too many attempts: try again in {max(waits):.0f} s")
            refusal.retry_after_s = max(waits)
            raise refusal  # rolls back: a refused attempt costs nothing


async def _charge_one(connection: "PoolConnectionProxy", each: Charge) -> float:
    await connection.execute(
        "insert into login_rate (subject, free_at) values ($1, now()) on conflict do nothing", each.subject
    )
    row = await connection.fetchrow(
        "select free_at, now() as now from login_rate where subject = $1 for update", each.subject
    )
    assert row is not None
    free_at: datetime = max(row["free_at"], row["now"])
    wait_s = wait_of(each.rate, (free_at - row["now"]).total_seconds())
    await connection.execute(
        "update login_rate set free_at = $2 where subject = $1",
        each.subject,
        free_at + timedelta(seconds=each.rate.interval_s),
    )
    return wait_s


async def give_back(pool: asyncpg.Pool, charges: Sequence[Charge]) -> None:
    """Undo a charge: the attempt succeeded."""
    async with transaction(pool) as connection:
        for each in sorted(charges, key=lambda c: c.subject):
            await connection.execute(
                "update login_rate set free_at = free_at - $2::interval where subject = $1",
                each.subject,
                timedelta(seconds=each.rate.interval_s),
            )
