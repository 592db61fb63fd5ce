"""BATCH: a session's journal entries become the committed state of its space.

One transaction: lock the space, check the session, count receipts, load rows, apply, write back, commit. Round
trips decide how long a single entry takes, so each step is one statement and none is made without need; a batch
that asks for nothing but what its predecessor left in memory (see ``kept``) is one statement altogether.

A mount has one batch under way at a time: numbers may have gaps (entries that were refused and set aside), so one
that arrives after a later one has been applied counts as applied.

Invariants: an entry is applied once, whatever batches it comes in; entries before a refused one are
committed, those after it untouched; receipts are counted even if nothing else is.
"""

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.admission import admit, check_writer
from cloudverge_metaserver.applying import (
    Applied,
    Applier,
    IdRanges,
    Standing,
    check_batch,
    fresh,
    usage_of,
)
from cloudverge_metaserver.chunkrows import load_chunks
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.durability import count_receipts
from cloudverge_metaserver.kept import Kept, KeptSpaces
from cloudverge_metaserver.loading import is_at_hand, load_batch
from cloudverge_metaserver.rows import Connection
from cloudverge_metaserver.scope import Scope
from cloudverge_metaserver.subtree import Confinement, confinement_of
from cloudverge_metaserver.writeback import (
    Writing,
    write_chunks,
    write_log,
    write_receipts,
    write_rows,
    write_space,
)
from cloudverge_protocol.errors import ChunkFault, Code
from cloudverge_protocol.ids import ChunkId, Seq
from cloudverge_protocol.messages import Batch, BatchReply, Receipt
from cloudverge_protocol.operations import ChunkDone, Create, Link, Operation, Rename, Write
from cloudverge_wire.misconduct import misconduct

_RANGES: Final = "select first, count from meta.id_ranges where session = $1"
_NO_IDS: Final = IdRanges(())


async def commit_batch(
    database: Database, kept_spaces: KeptSpaces, identity: Identity, batch: Batch
) -> BatchReply:
    """Commit what can be committed of ``batch``; raises Denied if its session may not act at all."""
    check_writer(identity)
    check_batch(batch)
    if identity.is_confined:
        return await _commit_confined(database, identity, batch)
    kept = kept_spaces.take(identity.space)
    if kept is not None and not kept.is_for(identity, batch):
        kept = None
    applied = None
    if kept is not None and _has_all(kept, batch):
        applied = await _commit_kept(database, kept, batch)
        if applied is None:
            kept = None  # what was tried on it is not so
    if kept is None or applied is None:
        kept, applied = await _commit(database, kept, identity, batch)
    kept_spaces.put(identity.space, kept)
    _note(identity, applied)
    return _reply(applied, kept.who.used_bytes)


async def _commit_confined(database: Database, identity: Identity, batch: Batch) -> BatchReply:
    """The same for a session that reaches a sub-tree only: nothing is kept, all is asked of the database."""
    scope = Scope(identity.root)
    batch = replace(
        batch, entries=tuple(replace(entry, op=scope.inward_op(entry.op)) for entry in batch.entries)
    )
    kept, applied = await _commit(database, None, identity, batch)
    _note(identity, applied)
    reply = _reply(applied, kept.who.used_bytes)
    return replace(reply, refused_message=scope.words(reply.refused_message))


async def _commit(
    database: Database, kept: Kept | None, identity: Identity, batch: Batch
) -> tuple[Kept, Applied]:
    """Under the space's lock, loading what is not at hand."""
    async with database.on_space(identity.space) as connection:
        who = await admit(connection, identity, batch.session, batch.incarnation, batch.lease_epoch)
        if kept is None or kept.who.revision + 1 != who.revision:
            kept = Kept(who)
        await _load(connection, kept, batch)
        confinement = None
        if identity.is_confined:
            ops = fresh(batch.entries, who.high_water)
            confinement = await confinement_of(connection, identity, who.session, ops)
        applied, writing, used_bytes = _apply(kept, batch, confinement)
        write_space(writing, applied, used_bytes)
        await writing.run(connection)
    kept.settle(applied, used_bytes, who.revision)
    return kept, applied


async def _commit_kept(database: Database, kept: Kept, batch: Batch) -> Applied | None:
    """In one statement, if the space is still as it is remembered; None if it is not, and ``kept`` is spoilt.

    Servers' receipt keys are no rows of the space: who seems to lack receipts is looked at again with fresh ones.
    """
    applied, writing, used_bytes = _apply(kept, batch)
    if isinstance(applied.error, ChunkFault):
        return None
    async with database.connection() as connection:
        written = await writing.run_at(connection, kept.who.revision, applied, used_bytes)
    if not written:
        return None
    kept.settle(applied, used_bytes, kept.who.revision + 1)
    return applied


def _has_all(kept: Kept, batch: Batch) -> bool:
    ops = fresh(batch.entries, kept.who.high_water)
    if kept.ids is None and _brings_ids(ops):
        return False
    return _chunks_of(batch, ops) <= kept.chunks.keys() and is_at_hand(ops, kept.ws)


async def _load(connection: Connection, kept: Kept, batch: Batch) -> None:
    who = kept.who
    ops = fresh(batch.entries, who.high_water)
    kept.chunks |= await load_chunks(connection, who.space, _chunks_of(batch, ops))
    await load_batch(connection, who.space, who.session, ops, kept.ws)
    if kept.ids is None and _brings_ids(ops):
        ranges = await connection.fetch(_RANGES, who.session)
        kept.ids = IdRanges([(first, count) for first, count in ranges])


def _apply(kept: Kept, batch: Batch, confinement: Confinement | None = None) -> tuple[Applied, Writing, int]:
    """Apply to what is at hand: what came of it, what is to be written, by how much the bytes used have grown."""
    who, ws, chunks = kept.who, kept.ws, kept.chunks
    forged: list[Receipt] = []
    counted = count_receipts(chunks, batch.receipts, forged)
    standing = Standing(
        who.session,
        who.high_water,
        kept.ids or _NO_IDS,
        who.seq,
        who.used_bytes,
        who.used_inodes,
        who.quota_bytes,
        who.quota_inodes,
    )
    applied = Applier(ws, standing, chunks, confinement).run(batch.entries)
    applied.forged = len(forged)
    for entry in applied.entries:
        if isinstance(entry.op, Create):
            ws.known.add_made(entry.op.ino)
    usage = usage_of(ws)
    writing = Writing(who.space)
    write_receipts(writing, counted)
    durable = {receipt.chunk: chunks[receipt.chunk].durable for receipt in counted}
    write_chunks(writing, applied, usage, durable)
    write_rows(writing, ws, who.session)
    write_log(writing, applied, who.session)
    return applied, writing, usage.used_bytes


def _chunks_of(batch: Batch, ops: Sequence[Operation]) -> set[ChunkId]:
    chunks = {receipt.chunk for receipt in batch.receipts}
    for op in ops:
        if isinstance(op, Write):
            chunks.update(extent.chunk for extent in op.extents)
        elif isinstance(op, ChunkDone):
            chunks.add(op.chunk)
    return chunks


def _brings_ids(ops: Sequence[Operation]) -> bool:
    return any(isinstance(op, Create | Link | Rename) for op in ops)


def _note(identity: Identity, applied: Applied) -> None:
    """A word in the log about what only a lying client sends."""
    if applied.forged:
        misconduct.note(identity, "forged receipts", Code.NOT_DURABLE)
    if applied.refused is not None and applied.error is not None and applied.error.is_suspicious:
        misconduct.note(identity, type(applied.refused.op).__name__, applied.error.code)


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
