"""Where the replicas of chunks are that bytes may be read from: the likeliest to answer rightly first.

A replica that is about to be removed is none, nor is one that is behind, unless the chunk has no better.
"""

from collections.abc import Collection
from typing import Final

from cloudverge_metaserver.durability import ChunkState, ReplicaState
from cloudverge_metaserver.rows import Connection
from cloudverge_protocol.ids import ChunkId, ServerId, SpaceId
from cloudverge_protocol.messages import ChunkPlaces, Place

_PLACES: Final = f"""
    select c.chunk, c.state, coalesce(c.sealed_length, c.durable_length) as length,
        r.server, s.host, s.frame_port
    from unnest($2::bigint[]) k(chunk)
    join meta.chunks c on c.chunk = k.chunk and c.space = $1 and c.state <> {ChunkState.DELETED:d}
    join meta.replicas r on r.chunk = c.chunk and r.state <> {ReplicaState.DOOMED:d}
        and (r.state <> {ReplicaState.STALE:d} or c.state = {ChunkState.DAMAGED:d})
    join meta.servers s on s.server = r.server
    order by c.chunk, r.state = {ReplicaState.BAD:d}, s.last_seen < now() - interval '10 s', r.position
"""  # noqa: S608  # numbers of ours


async def chunk_places(
    connection: Connection, space: SpaceId, chunks: Collection[ChunkId]
) -> dict[ChunkId, ChunkPlaces]:
    """Those of ``chunks`` that are the space's, by number."""
    if not chunks:
        return {}
    found: dict[ChunkId, tuple[bool, int, list[Place]]] = {}
    for chunk, state, length, server, host, port in await connection.fetch(_PLACES, space, list(chunks)):
        sealed = state == ChunkState.SEALED
        places = found.setdefault(ChunkId(chunk), (sealed, length, []))[2]
        places.append(Place(ServerId(server), host, port))
    return {
        chunk: ChunkPlaces(chunk, sealed, length, tuple(places))
        for chunk, (sealed, length, places) in found.items()
    }
