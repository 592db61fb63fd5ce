"""Auth's published keys, and callers' identity tickets checked with them.

Keys are fetched at start, once a minute, and when a ticket names one that is not known, but never more often
than every few seconds, so tickets with invented key ids cost auth nothing. The last ring is kept in the
database: while auth is away, those it has signed in are still served.
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Final

import httpx
import structlog

from cloudverge_auth.keys import KeyRing
from cloudverge_auth.tokens import Identity, VerifiedTokens, kid_of_token, verify_identity
from cloudverge_metaserver.database import Database
from cloudverge_protocol.errors import CloudVergeError, Code, ProtocolFault, Unavailable

_log = structlog.get_logger("cloudverge.metaserver")

REFRESH_S: Final = 60.0
AT_MOST_EVERY_S: Final = 3.0
FETCH_WITHIN_S: Final = 3.0


class PublishedKeys:
    """See the module's text."""

    def __init__(
        self, auth_url: str, cluster: str, database: Database, tls: ssl.SSLContext | None = None
    ) -> None:
        self._url = auth_url.rstrip("/") + "/v1/keys"
        self._cluster, self._database = cluster, database
        self.ring = KeyRing({})
        self._tokens = VerifiedTokens(lambda token, now_s: verify_identity(self.ring, token, cluster, now_s))
        self._client = httpx.AsyncClient(
            timeout=FETCH_WITHIN_S, trust_env=False, verify=tls if tls is not None else True
        )
        self.check: Callable[[Identity], None] = lambda identity: None  # whether the right has ended since
        self._tried_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def identify(self, token: str) -> Identity:
        """The claims of an identity ticket; raises Denied(UNAUTHORIZED)."""
        kid = kid_of_token(token)
        if kid and kid not in self.ring:
            await self.refresh()
        identity = self._tokens.verify(token, time.time())
        self.check(identity)
        return identity

    async def load(self) -> None:
        """The keys known last, from the database."""
        async with self._database.connection() as connection:
            rows = await connection.fetch("select kid, public from meta.known_keys")
        self.ring = KeyRing.from_public({row["kid"]: row["public"] for row in rows})

    async def refresh(self) -> bool:
        """Fetch them, if that was not tried just now; says whether it worked."""
        async with self._fetching:
            if time.monotonic() - self._tried_at < AT_MOST_EVERY_S:
                return bool(self.ring.keys)
            self._tried_at = time.monotonic()
            try:
                await self._adopt(await self._fetch())
            except CloudVergeError as error:
                _log.warning("auth's keys could not be fetched", reason=error.message)
                return False
        return True

    async def _fetch(self) -> KeyRing:
        try:
            response = await self._client.get(self._url)
            response.raise_for_status()
            body = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(Code.UNREACHABLE, f"{self._url}: {error or type(error).__name__}") from None
        ring = KeyRing.from_json(body)
        if body.get("cluster") != self._cluster:
            raise ProtocolFault(Code.WRONG_CLUSTER, f"auth belongs to cluster {body.get('cluster')!r}")
        return ring

    async def _adopt(self, ring: KeyRing) -> None:
        if ring.to_public() == self.ring.to_public():
            return
        self.ring = ring
        self._tokens.clear()
        public = ring.to_public()
        async with self._database.transaction() as connection:
            await connection.execute("delete from meta.known_keys")
            await connection.execute(
                "insert into meta.known_keys (kid, public) select * from unnest($1::text[], $2::text[])",
                list(public.keys()),
                list(public.values()),
            )

    async def run(self) -> None:
        """Keep fetching until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH_S if self.ring.keys else AT_MOST_EVERY_S)
