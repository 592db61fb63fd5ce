"""Clean bytes of files for a session that is confined to a sub-tree: exactly those its files refer to.

The blocks around them hold other people's bytes, which never come here; so nothing is cached by block, and nothing
goes to the disk cache. What is fetched lies inside one range that we have a ticket for: what of an extent is asked
for, now or ahead of need, cut where the chunk's offset is a multiple of ``PIECE_BYTES``; or, when small files are
read from their start, as much of the range around as such a piece has: other small files that we may read lie there.

Every byte passed its checksum here (in ``Sources``). What is under way is not fetched twice. An extent whose right
cannot be had yet (our own Write is not committed) is asked for again, like a chunk that has moved; so is what a
server did not believe or did not have, with a fresh ticket.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import structlog
import trio

from cloudverge_mount.exactcache import ExactCache
from cloudverge_mount.rangebook import SMALL_BYTES, RangeBook, Right
from cloudverge_mount.readahead import Advice, Readahead
from cloudverge_mount.sink import Sink
from cloudverge_mount.sources import Sources
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import ChunkFault, CloudVergeError, Code, Unavailable
from cloudverge_protocol.extents import clip
from cloudverge_protocol.ids import ChunkId, InodeId
from cloudverge_protocol.inodes import Extent

log = structlog.get_logger(__name__)

PIECE_BYTES: Final = 1024 * 1024
AHEAD_PIECES: Final = 8  # under way ahead of need
PATIENCE_S: Final = 10.0
PAUSE_S: Final = 0.3
PAUSE_MAX_S: Final = 1.0
MAY_PASS: Final = (Code.MOVED, Code.UNAUTHORIZED, Code.NO_CHUNK)


class _Piece(NamedTuple):
    """Bytes [start, end) of a chunk, which ``ino`` has from ``offset`` on."""

    chunk: ChunkId
    start: int
    end: int
    ino: InodeId
    offset: int


class _Fetch:
    """Bytes [start, end) of a chunk that are under way."""

    __slots__ = ("done", "end", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end
        self.done = trio.Event()


class ExactReader:
    """Reads by inode, as ``Reader`` does."""

    def __init__(self, sink: Sink, sources: Sources, ranges: RangeBook, limit_bytes: int) -> None:
        self._sink = sink
        self._sources = sources
        self._ranges = ranges
        self._cache = ExactCache(limit_bytes)
        self._under_way: dict[ChunkId, list[_Fetch]] = {}
        self._patterns = Readahead()
        self._ahead = 0
        self._nursery: trio.Nursery | None = None

    @property
    def held_bytes(self) -> int:
        """What the cache holds."""
        return self._cache.held_bytes

    async def run(self) -> None:
        """Serve fetches ahead of need and hedges, for ever."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._sources.hedge, nursery)
            await trio.sleep_forever()

    def clear(self) -> None:
        """Forget all bytes."""
        self._cache.clear()

    async def views(self, ino: InodeId, offset: int, length: int) -> list[Buffer]:
        """The clean bytes [offset, offset + length) of ``ino`` in pieces; what no extent covers is zeroes."""
        advice = self._patterns.note(ino, offset, length)
        if advice.ahead_end:
            await self._read_ahead(ino, advice)
        deadline, pause_s = trio.current_time() + PATIENCE_S, 0.0
        while True:
            try:
                return await self._read(ino, offset, length)
            except CloudVergeError as error:
                may_pass = isinstance(error, Unavailable) or error.code in MAY_PASS
                if not may_pass or trio.current_time() + pause_s > deadline:
                    raise
            await trio.sleep(pause_s)
            pause_s = min(PAUSE_MAX_S, pause_s + PAUSE_S)

    async def _read(self, ino: InodeId, offset: int, length: int) -> list[Buffer]:
        end = offset + length
        parts: list[Buffer] = []
        at = offset
        for extent in clip(await self._sink.file_extents(ino, offset, length), offset, end):
            for piece in _pieces(ino, extent, at, end):
                low = max(at, piece.offset)
                high = min(end, piece.offset + piece.end - piece.start)
                data = await self._bytes_of(piece)
                parts += [bytes(low - at)] if low > at else []
                parts.append(data[low - piece.offset : high - piece.offset])
                at = high
        return [*parts, bytes(end - at)] if at < end else parts

    async def _bytes_of(self, piece: _Piece) -> memoryview:
        while True:
            known = self._cache.get(piece.chunk, piece.start, piece.end)
            if known is not None:
                return known
            under_way = self._covering(piece)
            if under_way is not None:
                await under_way.done.wait()
                continue
            right = await self._ranges.right(piece.ino, piece.offset, piece.chunk, piece.start, piece.end)
            if right is None:
                raise ChunkFault(Code.MOVED, f"no right to these bytes of chunk {piece.chunk} yet")
            if not self._is_near(piece):  # while we asked, another may have fetched what lies around
                return await self._fetch(piece, right)

    def _covering(self, piece: _Piece) -> _Fetch | None:
        for fetch in self._under_way.get(piece.chunk, ()):
            if fetch.start <= piece.start and piece.end <= fetch.end:
                return fetch
        return None

    async def _fetch(self, piece: _Piece, right: Right) -> memoryview:
        chunk = piece.chunk
        fetch = _Fetch(*_window(piece, right))
        fetches = self._under_way.setdefault(chunk, [])
        fetches.append(fetch)
        try:
            data = await self._sources.read_exactly(chunk, fetch.start, fetch.end, right.ticket, right.places)
            self._cache.put(chunk, fetch.start, data)
        except CloudVergeError:
            self._ranges.forget(chunk, right.ticket)  # it or the places may be outdated
            raise
        finally:
            fetches.remove(fetch)
            if not fetches:
                self._under_way.pop(chunk, None)
            fetch.done.set()
        return data[piece.start - fetch.start : piece.end - fetch.start]

    # --- ahead of need ----------------------------------------------------------------------------------

    async def _read_ahead(self, ino: InodeId, advice: Advice) -> None:
        start, end = advice.ahead_start, advice.ahead_end
        for extent in clip(await self._sink.file_extents(ino, start, end - start), start, end):
            for piece in _pieces(ino, extent, start, end):
                if self._nursery is None or self._ahead >= AHEAD_PIECES:
                    return
                if not self._is_near(piece):
                    self._ahead += 1
                    self._nursery.start_soon(self._fetch_ahead, piece)

    def _is_near(self, piece: _Piece) -> bool:
        known = self._cache.get(piece.chunk, piece.start, piece.end)
        return known is not None or self._covering(piece) is not None

    async def _fetch_ahead(self, piece: _Piece) -> None:
        try:
            await self._bytes_of(piece)
        except CloudVergeError as error:
            log.debug("nothing came ahead of need", chunk=piece.chunk, error=str(error))
        except Exception as error:
            log.error("a fetch ahead of need failed", chunk=piece.chunk, exc_info=error)
        finally:
            self._ahead -= 1


def _pieces(ino: InodeId, extent: Extent, low: int, high: int) -> Iterator[_Piece]:
    """The extent cut at multiples of PIECE_BYTES of its chunk: what meets [low, high) of the file."""
    low, high = max(low, extent.offset), min(high, extent.end)
    if low >= high:
        return
    shift = extent.chunk_offset - extent.offset
    first = low + shift
    at = max(extent.chunk_offset, first - first % PIECE_BYTES)
    while at < high + shift:
        stop = min(extent.chunk_offset + extent.length, at - at % PIECE_BYTES + PIECE_BYTES)
        yield _Piece(extent.chunk, at, stop, ino, at - shift)
        at = stop


def _window(piece: _Piece, right: Right) -> tuple[int, int]:
    """What to fetch for ``piece``: of a small file, also those that lie around it and that we have a right to."""
    if piece.offset or piece.end - piece.start > SMALL_BYTES:
        return piece.start, piece.end
    floor = piece.start - piece.start % PIECE_BYTES
    return max(right.start, floor), min(right.end, max(piece.end, floor + PIECE_BYTES))
