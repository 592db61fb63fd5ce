"""Range tickets of a session that is confined to a sub-tree: what it may read of which chunk, by file.

A ticket is asked for with the span of a file that is about to be read, and some more of that file, and kept for most
of its life. Nothing is known here of what lies beside those bytes in their chunk.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

import trio

from cloudverge_mount.metaclient import MetaClient
from cloudverge_mount.ticketbook import USABLE, Rights
from cloudverge_protocol.ids import ChunkId, InodeId
from cloudverge_protocol.messages import Place, RangeTicket, Span, Tickets

SPAN_BYTES: Final = 64 * 1024 * 1024  # of a file, asked for at once
CHUNKS_MAX: Final = 1024  # of which something is remembered
RANGES_MAX: Final = 4096  # remembered of one chunk


class Right(NamedTuple):
    """A ticket to read [start, end) of a chunk, and where."""

    start: int
    end: int
    ticket: str
    places: tuple[Place, ...]
    until: float  # on the loop's clock


class RangeBook:
    """Rights by chunk; ``clock`` is the loop's."""

    def __init__(
        self, meta: MetaClient, rights: Rights, clock: Callable[[], float] = trio.current_time
    ) -> None:
        self._meta = meta
        self._rights = rights
        self._clock = clock
        self._held: OrderedDict[ChunkId, list[Right]] = OrderedDict()  # by start, not overlapping

    async def right(self, ino: InodeId, offset: int, chunk: ChunkId, start: int, end: int) -> Right | None:
        """A right to [start, end) of ``chunk``, which are bytes of ``ino`` from ``offset`` on; None: there is none."""
        found = self._find(chunk, start, end)
        if found is None:
            await self._ask(Span(ino, offset, max(end - start, SPAN_BYTES - offset % SPAN_BYTES)))
            found = self._find(chunk, start, end)
        return found

    def forget(self, chunk: ChunkId) -> None:
        """A server did not believe a ticket for this chunk."""
        self._held.pop(chunk, None)

    def _find(self, chunk: ChunkId, start: int, end: int) -> Right | None:
        held = self._held.get(chunk)
        if held is None:
            return None
        index = bisect_right(held, start, key=lambda right: right.start) - 1
        if index < 0 or held[index].end < end or held[index].until < self._clock():
            return None
        return held[index]

    async def _ask(self, span: Span) -> None:
        asked_at, rights = self._clock(), self._rights
        request = Tickets(rights.space, rights.session, rights.incarnation, rights.lease_epoch, spans=(span,))
        reply = await self._meta.tickets(request)
        until = asked_at + reply.life_s * USABLE
        for given in reply.ranges:
            self._take(given, until)

    def _take(self, given: RangeTicket, until: float) -> None:
        right = Right(given.offset, given.offset + given.length, given.ticket, given.places, until)
        held = [old for old in self._held.get(given.chunk, ()) if not _meet(old, right)][-RANGES_MAX:]
        held.insert(bisect_right(held, right.start, key=lambda old: old.start), right)
        self._held[given.chunk] = held
        self._held.move_to_end(given.chunk)
        if len(self._held) > CHUNKS_MAX:
            self._held.popitem(last=False)


def _meet(one: Right, other: Right) -> bool:
    return one.start < other.end and other.start < one.end
