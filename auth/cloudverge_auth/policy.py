"""Who may sign up: the operator's default, until an administrator decides otherwise.

Read from the database at every sign-up, so a decision holds on all auth servers at once.
"""

import hmac

import asyncpg
import msgspec

from cloudverge_auth import audit, invites
from cloudverge_auth.audit import ACCOUNTS
from cloudverge_auth.invites import NOT_VALID
from cloudverge_auth.settings import SignUp
from cloudverge_auth.signins import Caller
from cloudverge_protocol.errors import Code, Denied
from cloudverge_wire.database import connection, transaction


class SignUpDefaults(msgspec.Struct, frozen=True):
    """What the server was started with; ``invite``: a secret of the operator's that any number may use."""

    policy: SignUp = "closed"
    invite: str = ""

    def __repr__(self) -> str:
        return f"SignUpDefaults({self.policy})"


async def sign_up_policy(pool: asyncpg.Pool, defaults: SignUpDefaults) -> SignUp:
    """What holds now."""
    async with connection(pool) as connected:
        decided: SignUp | None = await connected.fetchval("select sign_up from policy")
    return decided or defaults.policy


async def decide(pool: asyncpg.Pool, caller: Caller, wanted: SignUp) -> None:
    """An administrator's word."""
    async with transaction(pool) as connected:
        await connected.execute(_DECIDE, wanted)
        await audit.record(connected, caller, ACCOUNTS, "policy.sign_up", wanted)


async def check_sign_up(pool: asyncpg.Pool, defaults: SignUpDefaults, invite: str) -> str:
    """The one-time invitation to use up for this sign-up ("": none); raises Denied(FORBIDDEN).

    A closed cluster takes an administrator's invitation: only its operator can have made the first one.
    """
    policy = await sign_up_policy(pool, defaults)
    known = bool(invite and defaults.invite) and hmac.compare_digest(
        invite.encode(), defaults.invite.encode()
    )
    kind = await invites.kind_of(pool, invite) if invite and not known else None
    if kind == "admin":
        return invite
    if policy == "closed":
        raise Denied(Code.FORBIDDEN, "this cluster takes no sign-ups: ask its operator for an account")
    if invite and kind is None and not known:
        raise Denied(Code.FORBIDDEN, NOT_VALID)
    if policy == "invite" and not invite:
        raise Denied(
            Code.FORBIDDEN, "this cluster takes sign-ups by invitation: the invite is missing or wrong"
        )
    return "" if known else invite


_DECIDE = """
insert into policy (sign_up) values ($1) on conflict (one) do update set sign_up = excluded.sign_up
"""
