"""Range tickets of a session that is confined to a sub-tree: what it may read of which chunk, by file.

A ticket is asked for with the span of a file that is about to be read, and some more of that file, and kept for most
of its life. With a small file its neighbours are asked for: files that were made together have numbers that follow
one another, and their bytes lie side by side. Numbers that are no files of ours get no ticket, and no harm is done.
Nothing is known here of what lies beside those bytes in their chunk.
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import trio

from cloudverge_mount.metaclient import MetaClient
from cloudverge_mount.ticketbook import USABLE, Rights
from cloudverge_protocol.ids import ROOT_INODE, ChunkId, InodeId
from cloudverge_protocol.messages import Place, RangeTicket, Span, Tickets

SPAN_BYTES: Final = 64 * 1024 * 1024  # of a file, asked for at once
SMALL_BYTES: Final = 128 * 1024  # a file up to this size has neighbours
NUMBERS: Final = 128  # asked for together: names have numbers, too, so these are some 64 files
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
        self._asking = trio.Lock()

    async def right(self, ino: InodeId, offset: int, chunk: ChunkId, start: int, end: int) -> Right | None:
        """A right to [start, end) of ``chunk``, which are bytes of ``ino`` from ``offset`` on; None: there is none."""
        found = self._find(chunk, start, end)
        if found is not None:
            return found
        async with self._asking:  # who asked before us may have asked for ours, too
            found = self._find(chunk, start, end)
            if found is None:
                await self._ask(spans_for(ino, offset, end - start))
                found = self._find(chunk, start, end)
        return found

    def forget(self, chunk: ChunkId, ticket: str) -> None:
        """A server did not believe this ticket, or did not have the chunk: ask again, for places too."""
        self._held[chunk] = [right for right in self._held.get(chunk, ()) if right.ticket != ticket]

    def _find(self, chunk: ChunkId, start: int, end: int) -> Right | None:
        held = self._held.get(chunk)
        if held is None:
            return None
        index = bisect_right(held, start, key=_start) - 1
        if index < 0 or held[index].end < end or held[index].until < self._clock():
            return None
        self._held.move_to_end(chunk)
        return held[index]

    async def _ask(self, spans: tuple[Span, ...]) -> None:
        asked_at, rights = self._clock(), self._rights
        request = Tickets(rights.space, rights.session, rights.incarnation, rights.lease_epoch, spans=spans)
        reply = await self._meta.tickets(request)
        until = asked_at + reply.life_s * USABLE
        for chunk in {given.chunk for given in reply.ranges}:
            self._drop_expired(chunk)
        tickets: dict[str, str] = {}  # many ranges share one
        for given in reply.ranges:
            self._take(given, tickets.setdefault(given.ticket, given.ticket), until)

    def _drop_expired(self, chunk: ChunkId) -> None:
        held = self._held.get(chunk)
        if held:
            now = self._clock()
            held[:] = [right for right in held if now < right.until]

    def _take(self, given: RangeTicket, ticket: str, until: float) -> None:
        right = Right(given.offset, given.offset + given.length, ticket, given.places, until)
        held = self._held.setdefault(given.chunk, [])
        index = _put(held, right)
        if len(held) > RANGES_MAX:
            del held[0 if index > RANGES_MAX // 2 else -1]  # what is far from where we read
        self._held.move_to_end(given.chunk)
        if len(self._held) > CHUNKS_MAX:
            self._held.popitem(last=False)


def spans_for(ino: InodeId, offset: int, length: int) -> tuple[Span, ...]:
    """What to ask for, to read ``length`` bytes of a file at ``offset``: first of all that."""
    first = Span(ino, offset, max(length, SPAN_BYTES - offset % SPAN_BYTES))
    if offset or length > SMALL_BYTES:
        return (first,)
    low = ino - ino % NUMBERS
    near = range(max(low, ROOT_INODE + 1), low + NUMBERS)
    return first, *(Span(InodeId(number), 0, SMALL_BYTES) for number in near if number != ino)


def _put(held: list[Right], right: Right) -> int:
    """Put ``right`` over what ``held`` has there; where it now stands. Only what it meets is touched."""
    low = bisect_right(held, right.start, key=_start)
    if low and held[low - 1].end > right.start:
        low -= 1
    high = bisect_left(held, right.end, lo=low, key=_start)
    beside = [part for old in held[low:high] for part in _beside(old, right)]
    index = bisect_right(beside, right.start, key=_start)
    held[low:high] = [*beside[:index], right, *beside[index:]]
    return low + index


def _start(right: Right) -> int:
    return right.start


def _beside(old: Right, new: Right) -> Iterator[Right]:
    """What ``old`` gives beside ``new``: its ticket is good for parts of it."""
    if old.start < new.start:
        yield old._replace(end=min(old.end, new.start))
    if old.end > new.end:
        yield old._replace(start=max(old.start, new.end))
