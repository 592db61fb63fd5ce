"""How a new storage host enters the cluster: a one-time code, for which it gets a certificate and the join token.

Whoever has the join token makes codes; each is good for half an hour and one host. A code that is used, over or
unknown gets the one refusal, whatever else the request holds. A request that cannot be signed leaves it unused.
"""

import secrets
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
import structlog

from cloudverge_auth.certificates import Authority, public_key_of
from cloudverge_auth.secrethash import hash_of
from cloudverge_auth.tokens import INVALID_MESSAGE
from cloudverge_protocol.errors import Code, Denied, Refused
from cloudverge_wire.database import connection, transaction

CODE_LIFE: Final = timedelta(minutes=30)

log = structlog.get_logger("cloudverge.auth")


async def make_code(pool: asyncpg.Pool) -> tuple[str, datetime]:
    """A new code and when it is over."""
    code = secrets.token_urlsafe(24)
    async with connection(pool) as connected:
        until = await connected.fetchval(_MAKE, hash_of(code), CODE_LIFE)
    return code, until


async def enrol(
    pool: asyncpg.Pool,
    authority: Authority | None,
    code: str,
    csr: str,
    host: str,
    name: str,
    *,
    has_ca: bool,
    taken: Collection[str] = (),
) -> str:
    """Use the code up for a certificate ("" on a cluster without a CA).

    ``taken``: the machines of auth and the metaserver, which a storage host must not be able to pass itself off as.
    Raises Denied(UNAUTHORIZED), ProtocolFault(BAD_REQUEST), or Refused (INVALID; NOT_SUPPORTED where the CA's key
    is not).
    """
    async with transaction(pool) as connected:
        if await connected.fetchval(_USE, hash_of(code), host) is None:
            raise Denied(Code.UNAUTHORIZED, INVALID_MESSAGE)
        if authority is None and has_ca:
            raise Refused(Code.NOT_SUPPORTED, "this server has no CA key: start it with --ca-key-file")
        if host.lower() in taken:
            raise Refused(
                Code.INVALID, f"{host} is this cluster's own address: name that of the storage host"
            )
        public_key_of(csr)  # also where nothing is signed: what is accepted does not depend on it
        certificate = authority.sign(csr, host, name, datetime.now(UTC)) if authority else ""
    log.info("a server enrolled", host=host, name=name)
    return certificate


_MAKE = """
insert into enrolments (hash, until) values ($1, clock_timestamp() + $2::interval) returning until
"""
_USE = """
update enrolments set used_at = now(), used_for = $2
where hash = $1 and used_at is null and until > clock_timestamp() returning hash
"""
