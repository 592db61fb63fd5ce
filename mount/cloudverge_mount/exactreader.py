"""Clean bytes of files for a session that is confined to a sub-tree: exactly those its files refer to.

The blocks around them hold other people's bytes, which never come here; so nothing is cached by block, nothing is
fetched because it lies near, and nothing goes to the disk cache. What is fetched are pieces of extents, cut where
the chunk's offset is a multiple of ``PIECE_BYTES``, so each byte belongs to one piece only; they are cached in RAM.

Every byte passed its checksum here (in ``Sources``). A piece under way is not fetched twice. An extent whose right
cannot be had yet (our own Write is not committed) is asked for again, like a chunk that has MOVED.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

import structlog
import trio

from cloudverge_mount.rangebook import RangeBook
from cloudverge_mount.readahead import Advice, Readahead
from cloudverge_mount.sink import Sink
from cloudverge_mount.sources import Sources
from cloudverge_protocol.errors import ChunkFault, CloudVergeError, Code, Denied
from cloudverge_protocol.ids import ChunkId, InodeId
from cloudverge_protocol.inodes import Extent

log = structlog.get_logger(__name__)

PIECE_BYTES: Final = 1024 * 1024
AHEAD_PIECES: Final = 8  # under way ahead of need
TRIES: Final = 6
PAUSE_S: Final = 0.3


class _Piece(NamedTuple):
    """Bytes [start, end) of a chunk, which ``ino`` has from ``offset`` on."""

    chunk: ChunkId
    start: int
    end: int
    ino: InodeId
    offset: int

    @property
    def key(self) -> tuple[ChunkId, int, int]:
        return self.chunk, self.start, self.end


class ExactReader:
    """Reads by inode, as ``Reader`` does."""

    def __init__(self, sink: Sink, sources: Sources, ranges: RangeBook, limit_bytes: int) -> None:
        self._sink = sink
        self._sources = sources
        self._ranges = ranges
        self._limit_bytes = limit_bytes
        self._cached: OrderedDict[tuple[ChunkId, int, int], memoryview] = OrderedDict()
        self._cached_bytes = 0
        self._under_way: dict[tuple[ChunkId, int, int], trio.Event] = {}
        self._patterns = Readahead()
        self._ahead = 0
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Serve fetches ahead of need and hedges, for ever."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._sources.hedge, nursery)
            await trio.sleep_forever()

    def clear(self) -> None:
        """Forget all bytes."""
        self._cached.clear()
        self._cached_bytes = 0

    async def read(self, ino: InodeId, offset: int, length: int) -> bytes:
        """The clean bytes [offset, offset + length) of ``ino``; what no extent covers is zeroes."""
        advice = self._patterns.note(ino, offset, length)
        if advice.ahead_end:
            await self._read_ahead(ino, advice)
        for attempt in range(TRIES):
            try:
                return await self._read(ino, offset, length)
            except (ChunkFault, Denied) as fault:
                if fault.code not in (Code.MOVED, Code.UNAUTHORIZED) or attempt == TRIES - 1:
                    raise
            await trio.sleep(PAUSE_S * attempt)
        raise AssertionError("unreachable")

    async def _read(self, ino: InodeId, offset: int, length: int) -> bytes:
        result = bytearray(length)
        end = offset + length
        for extent in await self._sink.file_extents(ino, offset, length):
            for piece in _pieces(ino, extent):
                low = max(offset, piece.offset)
                high = min(end, piece.offset + piece.end - piece.start)
                if low < high:
                    data = await self._bytes_of(piece)
                    result[low - offset : high - offset] = data[low - piece.offset : high - piece.offset]
        return bytes(result)

    async def _bytes_of(self, piece: _Piece) -> memoryview:
        while True:
            known = self._cached.get(piece.key)
            if known is not None:
                self._cached.move_to_end(piece.key)
                return known
            under_way = self._under_way.get(piece.key)
            if under_way is None:
                return await self._fetch(piece)
            await under_way.wait()

    async def _fetch(self, piece: _Piece) -> memoryview:
        done = self._under_way[piece.key] = trio.Event()
        try:
            right = await self._ranges.right(piece.ino, piece.offset, piece.chunk, piece.start, piece.end)
            if right is None:
                raise ChunkFault(Code.MOVED, f"no right to these bytes of chunk {piece.chunk} yet")
            data = await self._sources.read_exactly(
                piece.chunk, piece.start, piece.end, right.ticket, right.places
            )
        except Denied:
            self._ranges.forget(piece.chunk)
            raise
        finally:
            del self._under_way[piece.key]
            done.set()
        self._keep(piece, data)
        return data

    def _keep(self, piece: _Piece, data: memoryview) -> None:
        self._cached[piece.key] = data
        self._cached_bytes += len(data)
        while self._cached_bytes > self._limit_bytes and len(self._cached) > 1:
            self._cached_bytes -= len(self._cached.popitem(last=False)[1])

    # --- ahead of need ----------------------------------------------------------------------------------

    async def _read_ahead(self, ino: InodeId, advice: Advice) -> None:
        start, end = advice.ahead_start, advice.ahead_end
        for extent in await self._sink.file_extents(ino, start, end - start):
            for piece in _pieces(ino, extent):
                meets = piece.offset < end and start < piece.offset + piece.end - piece.start
                is_near = piece.key in self._cached or piece.key in self._under_way
                if meets and not is_near and self._ahead < AHEAD_PIECES and self._nursery is not None:
                    self._ahead += 1
                    self._nursery.start_soon(self._fetch_ahead, piece)

    async def _fetch_ahead(self, piece: _Piece) -> None:
        try:
            await self._bytes_of(piece)
        except CloudVergeError as error:
            log.debug("nothing came ahead of need", chunk=piece.chunk, error=str(error))
        finally:
            self._ahead -= 1


def _pieces(ino: InodeId, extent: Extent) -> Iterator[_Piece]:
    """The extent cut at multiples of PIECE_BYTES of its chunk."""
    at, end = extent.chunk_offset, extent.chunk_offset + extent.length
    while at < end:
        stop = min(end, at - at % PIECE_BYTES + PIECE_BYTES)
        yield _Piece(extent.chunk, at, stop, ino, extent.offset + at - extent.chunk_offset)
        at = stop
