"""BATCH: a session's journal entries become the committed state of its space.

One transaction: lock the space, check the session, count receipts, load rows, apply, write back, commit. Round
trips decide how long a single entry takes, so each step is one statement and none is made without need.

A mount has one batch under way at a time: numbers may have gaps (entries that were refused and set aside), so one
that arrives after a later one has been applied counts as applied.

Invariants: an entry is applied once, whatever batches it comes in; entries before a refused one are
committed, those after it untouched; receipts are counted even if nothing else is.
"""

from typing import Final

from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.admission import Admitted, admit, check_writer
from cloudverge_metaserver.applying import (
    Applied,
    Applier,
    IdRanges,
    Standing,
    Usage,
    check_batch,
    fresh,
    usage_of,
)
from cloudverge_metaserver.batchset import BatchSet
from cloudverge_metaserver.chunkrows import load_chunks
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.durability import count_receipts
from cloudverge_metaserver.loading import load_batch
from cloudverge_metaserver.rows import Connection
from cloudverge_metaserver.writeback import Writing, write_chunks, write_log, write_receipts, write_rows
from cloudverge_protocol.ids import ChunkId, Seq
from cloudverge_protocol.messages import Batch, BatchReply
from cloudverge_protocol.operations import ChunkDone, Create, Link, Operation, Rename, Write

_RANGES: Final = "select first, count from meta.id_ranges where session = $1"


async def commit_batch(database: Database, identity: Identity, batch: Batch) -> BatchReply:
    """Commit what can be committed of ``batch``; raises Denied if its session may not act at all."""
    check_writer(identity)
    check_batch(batch.entries)
    async with database.on_space(identity.space) as connection:
        who = await admit(connection, identity, batch.session, batch.incarnation, batch.lease_epoch)
        ws = BatchSet()
        applied, usage = await _commit(connection, who, batch, ws)
    return _reply(applied, who.used_bytes + usage.used_bytes)


async def _commit(connection: Connection, who: Admitted, batch: Batch, ws: BatchSet) -> tuple[Applied, Usage]:
    ops = fresh(batch.entries, who.high_water)
    chunks = await load_chunks(connection, who.space, _chunks_of(batch, ops))
    counted = count_receipts(chunks, batch.receipts)
    await load_batch(connection, who.space, who.session, ops, ws)
    ids = await _ids_of(connection, who, ops)
    standing = Standing(
        who.session,
        who.high_water,
        ids,
        who.seq,
        who.used_bytes,
        who.used_inodes,
        who.quota_bytes,
        who.quota_inodes,
    )
    applied = Applier(ws, standing, chunks).run(batch.entries)
    usage = usage_of(ws)
    writing = Writing(who.space)
    write_receipts(writing, counted)
    durable = {receipt.chunk: chunks[receipt.chunk].durable for receipt in counted}
    write_chunks(writing, applied, usage, durable)
    write_rows(writing, ws, who.session)
    write_log(writing, applied, usage, who.session)
    await writing.run(connection)
    return applied, usage


def _chunks_of(batch: Batch, ops: list[Operation]) -> set[ChunkId]:
    chunks = {receipt.chunk for receipt in batch.receipts}
    for op in ops:
        if isinstance(op, Write):
            chunks.update(extent.chunk for extent in op.extents)
        elif isinstance(op, ChunkDone):
            chunks.add(op.chunk)
    return chunks


async def _ids_of(connection: Connection, who: Admitted, ops: list[Operation]) -> IdRanges:
    """The session's ids, if any operation brings new ones."""
    if not any(isinstance(op, Create | Link | Rename) for op in ops):
        return IdRanges(())
    return IdRanges([(r[0], r[1]) for r in await connection.fetch(_RANGES, who.session)])


def _reply(applied: Applied, used_bytes: int) -> BatchReply:
    refused, error = applied.refused, applied.error
    if refused is None or error is None:
        return BatchReply(
            tuple(applied.seqs), applied.seq, used_bytes=used_bytes, used_inodes=applied.used_inodes
        )
    return BatchReply(
        tuple(applied.seqs),
        Seq(applied.seq),
        refused.incarnation,
        refused.number,
        int(error.code),
        error.message,
        used_bytes,
        applied.used_inodes,
    )
