"""What the HTTP routes and the background work share: the parts of one running metaserver."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from cloudverge_auth.keys import KeyRing
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.durability import ChunkState
from cloudverge_metaserver.liveness import HEARTBEAT_S
from cloudverge_metaserver.publishedkeys import PublishedKeys
from cloudverge_metaserver.servers import Servers
from cloudverge_metaserver.tickets import TicketDesk
from cloudverge_protocol.ids import ChunkId, Epoch, ServerId, SpaceId
from cloudverge_wire.clusterid import ClusterIds

_COUNTS: Final = """
    select state, count(*) as chunks, coalesce(sum(live_bytes), 0)::bigint as live_bytes
    from meta.chunks group by state
"""


@dataclass
class Cluster:
    """See the module's text."""

    ids: ClusterIds
    database: Database
    keys: PublishedKeys
    ring: KeyRing
    desk: TicketDesk
    servers: Servers
    join_token: str
    replicas: int
    suspect: Callable[[ServerId, ChunkId], None]
    epochs: Callable[[], dict[SpaceId, Epoch]] = dict

    async def greeting(self, server: ServerId) -> dict[str, object]:
        """What a chunkserver is told at registration and with every heartbeat.

        ``hosts``: the machines of all chunkservers. A chain leads nowhere else, whatever a client says. ``epochs``:
        membership epochs raised lately; tickets with lower ones are over.
        """
        return {
            "server_id": server,
            "cluster": self.ids.cluster,
            "history": self.ids.history,
            "auth_keys": self.keys.ring.to_public(),
            "meta_keys": self.ring.to_public(),
            "server_ticket": self.desk.own(f"chunkserver:{server}", time.time()),
            "heartbeat_s": HEARTBEAT_S,
            "epochs": self.epochs(),
            "hosts": {row.state.server: row.state.host for row in await self.servers.all()},
        }

    async def chunk_counts(self) -> dict[str, dict[str, int]]:
        """Chunks and live bytes by state."""
        async with self.database.connection() as connection:
            rows = await connection.fetch(_COUNTS)
        return {
            ChunkState(row["state"]).name: {"chunks": row["chunks"], "live_bytes": row["live_bytes"]}
            for row in rows
        }

    async def metrics(self) -> bytes:
        """Prometheus' text format."""
        registry = CollectorRegistry()
        chunks = Gauge("cloudverge_chunks", "Chunks by state", ["state"], registry=registry)
        live = Gauge("cloudverge_live_bytes", "Live bytes of chunks by state", ["state"], registry=registry)
        for state, counts in (await self.chunk_counts()).items():
            chunks.labels(state).set(counts["chunks"])
            live.labels(state).set(counts["live_bytes"])
        free = Gauge("cloudverge_server_free_bytes", "Free bytes", ["server"], registry=registry)
        unheard = Gauge(
            "cloudverge_server_unheard_seconds", "Since its last heartbeat", ["server"], registry=registry
        )
        for row in await self.servers.all():
            free.labels(str(row.state.server)).set(row.state.free_bytes)
            unheard.labels(str(row.state.server)).set(row.unheard_s)
        return generate_latest(registry)
