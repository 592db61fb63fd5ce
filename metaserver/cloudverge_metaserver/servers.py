"""The chunkservers: registration, heartbeats, and snapshots of them for those who decide.

A server is known by its own uuid; registering again (after a restart, with another address) keeps its id. The
receipt key it brings is stored beside it, never given out, and from then on what proves that a registration or a
heartbeat is its own: the join token is known to all servers, and one that was broken into must not take another's
place.
"""

import time
from dataclasses import dataclass
from typing import Final

import asyncpg
import structlog

from cloudverge_metaserver.database import Database
from cloudverge_metaserver.liveness import is_lost, is_silent
from cloudverge_metaserver.placement import ServerState
from cloudverge_metaserver.rows import Connection
from cloudverge_protocol.errors import Code, Denied, ProtocolFault, Refused
from cloudverge_protocol.ids import ServerId
from cloudverge_protocol.receipts import KEY_BYTES, heartbeat_is_genuine

_log = structlog.get_logger("cloudverge.metaserver")

_NOT_REGISTERED: Final = "this chunkserver is not registered: register it first"
_REGISTER: Final = """
    insert into meta.servers as s (uuid, host, frame_port, http_url, rack, receipt_key, capacity_bytes, free_bytes)
    values ($1, $2, $3, $4, $5, $6, $7, $8)
    on conflict (uuid) do update set host = excluded.host, frame_port = excluded.frame_port,
        http_url = excluded.http_url, rack = excluded.rack, capacity_bytes = excluded.capacity_bytes,
        free_bytes = excluded.free_bytes, last_seen = clock_timestamp()
    where s.receipt_key = excluded.receipt_key
    returning server
"""
_BEAT: Final = """
    update meta.servers set free_bytes = $2, capacity_bytes = $3, open_bytes = $4, chunks = $5, "full" = $6,
        last_seen = clock_timestamp()
    where server = $1 returning server
"""
_SNAPSHOT: Final = """
    select s.server, s.uuid, s.host, s.frame_port, s.http_url, s.rack, s.free_bytes, s.capacity_bytes, s.chunks,
        s."full", s.draining, extract(epoch from clock_timestamp() - s.last_seen)::float8 as unheard_s,
        o.chunks as open_chunks, o.promised
    from meta.servers s cross join lateral (
        select count(*) as chunks,
            coalesce(sum(c.limit_bytes) filter (where c.created_at > s.last_seen), 0)::bigint as promised
        from meta.replicas r join meta.chunks c on c.chunk = r.chunk
        where r.server + 0 = s.server and r.state = 1
    ) o order by s.server
"""


@dataclass(frozen=True, slots=True)
class Registration:
    """What a chunkserver says of itself when it joins."""

    uuid: str
    host: str
    frame_port: int
    http_url: str
    rack: str
    receipt_key: bytes
    capacity_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What it says every few seconds."""

    free_bytes: int
    capacity_bytes: int
    open_bytes: int
    chunks: int
    full: bool


@dataclass(frozen=True, slots=True)
class ServerRow:
    """A server for people and planners."""

    state: ServerState
    uuid: str
    http_url: str
    capacity_bytes: int
    chunks: int
    unheard_s: float
    lost: bool


class Servers:
    """See the module's text."""

    def __init__(self, database: Database, lost_after_s: float) -> None:
        self._database, self._lost_after_s = database, lost_after_s

    async def register(self, said: Registration) -> ServerId:
        """Take a server in, or back in; returns its id.

        Raises Denied(FORBIDDEN) if the uuid is that of a server with another receipt key.
        """
        if len(said.receipt_key) != KEY_BYTES:
            raise ProtocolFault(Code.BAD_REQUEST, f"a receipt key has {KEY_BYTES} bytes")
        async with self._database.connection() as connection:
            server = await connection.fetchval(
                _REGISTER,
                said.uuid,
                said.host,
                said.frame_port,
                said.http_url,
                said.rack,
                said.receipt_key,
                said.capacity_bytes,
                said.free_bytes,
            )
        if server is None:
            _log.warning("a server claims another's place", uuid=said.uuid, host=said.host)
            raise Denied(
                Code.FORBIDDEN, "a chunkserver with this uuid is registered under another receipt key"
            )
        return ServerId(server)

    async def check_heartbeat(self, server: ServerId, body: bytes, proof: str) -> None:
        """Raise Denied(FORBIDDEN) unless ``server`` itself sent this report, Refused(NOT_FOUND) if it is unknown."""
        async with self._database.connection() as connection:
            key = await connection.fetchval("select receipt_key from meta.servers where server = $1", server)
        if key is None:
            raise Refused(Code.NOT_FOUND, _NOT_REGISTERED)
        if not heartbeat_is_genuine(key, server, body, proof):
            _log.warning("a heartbeat is not from its server", server=server)
            raise Denied(Code.FORBIDDEN, "this heartbeat is not proven to be from its server")

    async def beat(self, server: ServerId, said: Heartbeat) -> None:
        """A sign of life; raises Refused(NOT_FOUND) for a server that never registered here."""
        async with self._database.connection() as connection:
            known = await connection.fetchval(
                _BEAT, server, said.free_bytes, said.capacity_bytes, said.open_bytes, said.chunks, said.full
            )
        if known is None:
            raise Refused(Code.NOT_FOUND, _NOT_REGISTERED)

    async def all(self) -> list[ServerRow]:
        """Every server."""
        async with self._database.connection() as connection:
            return await self.snapshot(connection)

    async def snapshot(self, connection: Connection) -> list[ServerRow]:
        """Every server, read on this connection."""
        steady_s = time.monotonic() - self._database.steady_since_s
        return [self._row(record, steady_s) for record in await connection.fetch(_SNAPSHOT)]

    def _row(self, record: asyncpg.Record, steady_s: float) -> ServerRow:
        unheard_s = record["unheard_s"]
        state = ServerState(
            ServerId(record["server"]),
            record["host"],
            record["frame_port"],
            record["rack"],
            max(0, record["free_bytes"] - record["promised"]),
            record["open_chunks"],
            record["full"],
            record["draining"],
            is_silent(unheard_s, steady_s),
        )
        lost = is_lost(unheard_s, steady_s, self._lost_after_s)
        return ServerRow(
            state,
            record["uuid"],
            record["http_url"],
            record["capacity_bytes"],
            record["chunks"],
            unheard_s,
            lost,
        )
