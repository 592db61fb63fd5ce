"""The frame port: each request checked, done, answered.

``handle`` is called in arrival order and does all that needs that order (append: decide, send onward, write)
before it returns; what must wait (an fsync, the rest of the chain, a cold disk) is left to a task. So pipelined
appends of one connection are written in the order they were sent, and a reply never goes out before the bytes
it speaks of are where it says they are.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from cloudverge_auth.tokens import ChunkTicket
from cloudverge_chunkserver import chain
from cloudverge_chunkserver.chunks import OpenChunk, View
from cloudverge_chunkserver.commits import Commits, Workers
from cloudverge_chunkserver.disk import Part, fault_of
from cloudverge_chunkserver.fetching import Fetcher
from cloudverge_chunkserver.links import Links
from cloudverge_chunkserver.reading import Span, bad_in_span, crcs_of, plan_read
from cloudverge_chunkserver.replicas import Replicas, ReplicaStatus
from cloudverge_chunkserver.rights import Rights
from cloudverge_chunkserver.store import ChunkStore
from cloudverge_protocol.checksum import piece_crcs
from cloudverge_protocol.errors import Code, ProtocolFault
from cloudverge_protocol.ids import ChunkId, Epoch, ServerId
from cloudverge_protocol.messages import (
    Append,
    AppendReply,
    Empty,
    Epochs,
    FrameType,
    Message,
    Read,
    ReadReply,
    Receipt,
    ReplicaDelete,
    ReplicaFetch,
    ReplicaSeal,
    ReplicaStat,
    ReplicaState,
    ReplicaStates,
    ReplicaVerified,
    ReplicaVerify,
)
from cloudverge_protocol.receipts import make_receipt
from cloudverge_wire.peer import Answer, Peer

log = structlog.get_logger("cloudverge.chunkserver")

STATS_MAX: Final = 10_000


class Service:
    """What the frame port answers; ``server`` is set once the metaserver has named this one."""

    def __init__(
        self,
        store: ChunkStore,
        commits: Commits,
        workers: Workers,
        rights: Rights,
        links: Links,
        receipt_key: bytes,
    ) -> None:
        self.server = ServerId(0)
        self.appended_bytes = 0
        self.read_bytes = 0
        self._store = store
        self._commits = commits
        self._workers = workers
        self._rights = rights
        self._links = links
        self._receipt_key = receipt_key
        self.replicas = Replicas(store, commits, workers)
        self._fetcher = Fetcher(self.replicas, workers, links)
        self._handlers: dict[FrameType, Callable[[Any, memoryview], Answer | Awaitable[Answer]]] = {
            FrameType.APPEND: self._append,
            FrameType.READ: self._read,
            FrameType.REPLICA_SEAL: self._seal,
            FrameType.REPLICA_STAT: self._stat,
            FrameType.REPLICA_DELETE: self._delete,
            FrameType.REPLICA_VERIFY: self._verify,
            FrameType.REPLICA_FETCH: self._fetch,
            FrameType.EPOCHS: self._raise_floors,
        }

    def handle(
        self, peer: Peer, kind: FrameType, message: Message, body: memoryview
    ) -> Answer | Awaitable[Answer]:
        """Do one request."""
        handler = self._handlers.get(kind)
        if handler is None:
            raise ProtocolFault(Code.BAD_REQUEST, f"a chunkserver does not answer {kind.name}")
        return handler(message, body)

    # --- append -----------------------------------------------------------------------------------------

    def _append(self, message: Append, body: memoryview) -> Answer | Awaitable[Answer]:
        right = self._rights.append(message)
        prepared = self._store.prepare(right, message.offset, body, message.crcs)
        onward = chain.forward(self._links, message, body)
        try:
            chunk = self._store.commit(prepared)
        except BaseException:
            if onward is not None:
                onward.abandon()
            raise
        self.appended_bytes += len(body)
        if not message.sync:
            own = AppendReply(chunk.length)
        elif self._commits.durable_at_once(chunk, chunk.length):
            own = self._receipted(chunk, chunk.length)
        else:
            return self._finish_synced(chunk, chunk.length, onward)
        return (own, ()) if onward is None else self._finish(own, onward)

    async def _finish(self, own: AppendReply, onward: chain.Forward) -> Answer:
        return await onward.merged_into(own), ()

    async def _finish_synced(self, chunk: OpenChunk, length: int, onward: chain.Forward | None) -> Answer:
        try:
            await self._commits.durable(chunk, length)
        except BaseException:
            if onward is not None:
                onward.abandon()
            raise
        own = self._receipted(chunk, length)
        return (own if onward is None else await onward.merged_into(own)), ()

    def _receipted(self, chunk: OpenChunk, length: int) -> AppendReply:
        header = chunk.header
        return AppendReply(length, (self._receipt(header.chunk, header.epoch, chunk.durable),))

    def _receipt(self, chunk: ChunkId, epoch: Epoch, length: int) -> Receipt:
        return make_receipt(self._receipt_key, self.server, chunk, epoch, length)

    # --- read -------------------------------------------------------------------------------------------

    def _read(self, message: Read, _body: memoryview) -> Answer | Awaitable[Answer]:
        right = self._rights.read(message)
        view = self._store.view(message.chunk, right.space)
        span = plan_read(view, message.offset, message.length)
        if not span.size:
            return ReadReply(span.start, ()), ()
        try:
            data = self._store.disk.read_at_once(message.chunk, Part.DATA, span.start, span.size)
        except FileNotFoundError:
            data = memoryview(b"")
        except OSError as error:
            raise fault_of(error, message.chunk) from None
        if data is None:
            return self._read_slowly(message, right, view, span)
        return self._checked(message, right, view, span, data)

    async def _read_slowly(self, message: Read, right: ChunkTicket, view: View, span: Span) -> Answer:
        data = await self._workers.run(self._store.read_raw, message.chunk, span)
        if bad_in_span(view, span, data):  # perhaps it was sealed shorter, or deleted, while we waited
            view = self._store.view(message.chunk, right.space)
            span = plan_read(view, message.offset, message.length)
            data = await self._workers.run(self._store.read_raw, message.chunk, span)
        self._rights.read(message)  # a right that ended meanwhile
        return self._checked(message, right, view, span, data)

    def _checked(self, message: Read, right: ChunkTicket, view: View, span: Span, data: memoryview) -> Answer:
        good = self._store.checked(message.chunk, view, span, data)
        if right.ranges:
            good = good[message.offset - span.start :][: message.length]
            self.read_bytes += len(good)
            return ReadReply(message.offset, tuple(piece_crcs(good, message.offset))), (good,)
        self.read_bytes += len(good)
        return ReadReply(span.start, crcs_of(view, span)), (good,)

    # --- for the metaserver -----------------------------------------------------------------------------

    def _state(self, status: ReplicaStatus) -> ReplicaState:
        receipt = self._receipt(status.chunk, status.epoch, status.length) if status.epoch else None
        return ReplicaState(status.chunk, status.state.value, status.epoch, status.length, receipt)

    async def _seal(self, message: ReplicaSeal, _body: memoryview) -> Answer:
        self._rights.control(message.ticket, message.chunk)
        return self._state(await self.replicas.seal(message.chunk, message.epoch, message.length)), ()

    def _stat(self, message: ReplicaStat, _body: memoryview) -> Answer:
        self._rights.control(message.ticket, *message.chunks)
        if len(message.chunks) > STATS_MAX:
            raise ProtocolFault(Code.BAD_REQUEST, f"more than {STATS_MAX} chunks at once")
        states = tuple(self._state(self.replicas.status(chunk)) for chunk in message.chunks)
        return ReplicaStates(states), ()

    async def _delete(self, message: ReplicaDelete, _body: memoryview) -> Answer:
        self._rights.control(message.ticket, *message.chunks)
        for chunk in message.chunks:
            await self.replicas.delete(chunk)
        return Empty(), ()

    async def _verify(self, message: ReplicaVerify, _body: memoryview) -> Answer:
        self._rights.control(message.ticket, message.chunk)
        length, bad = await self.replicas.verify(message.chunk)
        return ReplicaVerified(length, tuple(bad)), ()

    def _raise_floors(self, message: Epochs, _body: memoryview) -> Answer:
        self._rights.control(message.ticket)
        self._rights.raise_floors(message.spaces)
        return Empty(), ()

    async def _fetch(self, message: ReplicaFetch, _body: memoryview) -> Answer:
        self._rights.control(message.ticket, message.chunk)
        return self._state(await self._fetcher.fetch(message)), ()
