"""Chunks and replicas as the transactions of a space need them."""

from collections.abc import Iterable
from typing import Final

import asyncpg

from cloudverge_metaserver.durability import ChunkFacts, ChunkState, ReplicaState
from cloudverge_metaserver.rows import Connection
from cloudverge_protocol.ids import ID_MAX, ChunkId, SpaceId

_FACTS: Final = f"""
    select c.chunk, c.state, c.epoch, c.session, c.incarnation, c.limit_bytes, c.durable_length,
        c.committed_end, c.sealed_length, c.pinned_by, r.servers, r.receipted, r.keys
    from unnest($2::bigint[]) k(chunk)
    join meta.chunks c on c.chunk = k.chunk and c.space = $1
    cross join lateral (
        select array_agg(r.server order by r.position) as servers,
            array_agg(r.receipted order by r.position) as receipted,
            array_agg(s.receipt_key order by r.position) as keys
        from meta.replicas r join meta.servers s on s.server = r.server
        where r.chunk = c.chunk and r.state not in ({ReplicaState.STALE:d}, {ReplicaState.DOOMED:d})
    ) r
"""  # noqa: S608  # numbers of ours


async def load_chunks(
    connection: Connection, space: SpaceId, chunks: Iterable[ChunkId]
) -> dict[ChunkId, ChunkFacts]:
    """Those of ``chunks`` that belong to ``space``."""
    wanted = [chunk for chunk in set(chunks) if 0 < chunk <= ID_MAX]
    if not wanted:
        return {}
    return {ChunkId(r["chunk"]): facts_of(r) for r in await connection.fetch(_FACTS, space, wanted)}


def facts_of(record: asyncpg.Record) -> ChunkFacts:
    """One chunk out of a record of the query above."""
    servers = record["servers"] or ()
    return ChunkFacts(
        chunk=record["chunk"],
        state=ChunkState(record["state"]),
        epoch=record["epoch"],
        session=record["session"],
        incarnation=record["incarnation"],
        limit=record["limit_bytes"],
        durable=record["durable_length"],
        committed_end=record["committed_end"],
        sealed=record["sealed_length"],
        pinned_by=record["pinned_by"],
        receipted=dict(zip(servers, record["receipted"] or (), strict=True)),
        keys=dict(zip(servers, record["keys"] or (), strict=True)),
    )
