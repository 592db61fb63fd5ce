"""Clean bytes of files: extents to chunk ranges, ranges to cached or fetched runs, holes to zeroes.

Every byte comes out of a ``Run``, and a run is made only from bytes that passed their checksum here (from the
wire in ``Sources``, from the disk cache in ``DiskCache``). A block being fetched is never fetched twice at once:
who needs it waits for the fetch under way, and asks itself if that one fails. Fetches ahead of need are
bounded in bytes and fail silently; the read that needs their bytes finds out for itself. A miss fetches more than is
needed; if that is damaged, what is needed is fetched alone, and so from then on in this chunk: bytes that are good are
given, whatever lies beside them.
"""

import structlog
import trio

from cloudverge_mount.blockcache import BlockCache, Run, key_of
from cloudverge_mount.diskcache import DiskCache
from cloudverge_mount.readahead import RANDOM_BYTES, STREAM_MISS_BYTES, Advice, Readahead, Trails
from cloudverge_mount.sink import Sink
from cloudverge_mount.sources import AHEAD, Sources
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import ChunkFault, CloudVergeError, Code
from cloudverge_protocol.ids import BLOCK_BYTES, CHUNK_BYTES, ChunkId, InodeId
from cloudverge_protocol.inodes import Extent, Extents

log = structlog.get_logger(__name__)

FETCH_BYTES = 2 * 1024 * 1024  # of one request ahead of need
AHEAD_BYTES = 24 * 1024 * 1024  # under way together
PART_BYTES = 16 * 1024  # random reads of up to this size are read from the disk cache as they are
DOUBTED_MAX = 1000  # chunks
MOVED_TRIES = 5
MOVED_PAUSE_S = 0.3


class _Fetch:
    """Blocks on their way; ``run`` is there when ``done`` is set and nothing failed."""

    __slots__ = ("chunk", "done", "end", "need", "run", "start")

    def __init__(self, chunk: ChunkId, start: int, end: int, need: int) -> None:
        self.chunk = chunk
        self.start = start
        self.end = end
        self.need = need
        self.done = trio.Event()
        self.run: Run | None = None


class Reader:
    """Reads by inode. ``nursery`` runs the fetches ahead of need; it is set by ``run``."""

    def __init__(self, sink: Sink, sources: Sources, cache: BlockCache, disk: DiskCache | None) -> None:
        self._sink = sink
        self._sources = sources
        self._cache = cache
        self._disk = disk
        self._patterns = Readahead()
        self._trails = Trails()
        self._fetches: dict[int, _Fetch] = {}  # by block
        self._doubted: set[ChunkId] = set()  # with damage on all replicas
        self._ahead_bytes = 0
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Serve fetches ahead of need and hedges, for ever."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._sources.hedge, nursery)
            await trio.sleep_forever()

    async def views(self, ino: InodeId, offset: int, length: int) -> list[Buffer]:
        """The clean bytes [offset, offset + length) of ``ino`` in pieces; what no extent covers is zeroes."""
        advice = self._patterns.note(ino, offset, length)
        if advice.ahead_end:
            await self._read_ahead(ino, advice)
        for attempt in range(MOVED_TRIES):
            extents = await self._sink.file_extents(ino, offset, length)
            try:
                return await self._read_extents(extents, offset, length, advice.pattern)
            except ChunkFault as fault:
                if fault.code != Code.MOVED or attempt == MOVED_TRIES - 1:
                    raise
                await trio.sleep(MOVED_PAUSE_S * (attempt + 1))
        raise AssertionError("unreachable")

    async def _read_extents(self, extents: Extents, offset: int, length: int, pattern: str) -> list[Buffer]:
        end = offset + length
        views: list[Buffer] = []
        at = offset
        for extent in extents:
            start, stop = max(at, extent.offset), min(end, extent.end)
            if start >= stop:
                continue
            if start > at:
                views.append(bytes(start - at))
            views += await self._views(extent, start, stop, pattern)
            at = stop
        if at < end:
            views.append(bytes(end - at))
        return views

    async def _views(self, extent: Extent, start: int, end: int, pattern: str) -> list[memoryview]:
        """The file bytes [start, end), which ``extent`` covers."""
        chunk = extent.chunk
        at = extent.chunk_offset + start - extent.offset
        stop = at + end - start
        if pattern == "start":
            self._follow_trail(chunk, at)
        views = []
        while at < stop:
            run = self._cache.get(chunk, at)
            if run is None and pattern == "random" and stop - at <= PART_BYTES and self._disk is not None:
                part = await self._disk.part(chunk, at, stop)
                if part is not None:
                    views.append(part)
                    at += len(part)
                    continue
            if run is None:
                run = await self._fetched(extent, at, stop, pattern)
            taken = min(stop, run.end)
            views.append(run.data[at - run.start : taken - run.start])
            at = taken
        return views

    # --- misses -----------------------------------------------------------------------------------------

    async def _fetched(self, extent: Extent, at: int, stop: int, pattern: str) -> Run:
        """A run that holds the byte at ``at``; the caller needs bytes up to ``stop``."""
        chunk = extent.chunk
        while True:
            under_way = self._fetches.get(key_of(chunk, at))
            if under_way is None:
                is_doubted = chunk in self._doubted
                start, end = _miss_range(extent, at, stop, "needed" if is_doubted else pattern)
                while start + BLOCK_BYTES <= at and self._is_near(chunk, start):
                    start += BLOCK_BYTES
                fetch = _Fetch(chunk, start, self._free_end(chunk, start, end), 0)
                fetch.need = min(stop, fetch.end)
                try:
                    return await self._fetch(fetch, "read", is_stream=pattern == "stream")
                except ChunkFault as fault:
                    if fault.code != Code.DAMAGED or is_doubted:
                        raise
                self._doubt(chunk)
                continue
            await under_way.done.wait()
            run = under_way.run
            if run is not None and run.start <= at < run.end:
                return run
            cached = self._cache.get(chunk, at)
            if cached is not None:
                return cached

    def _doubt(self, chunk: ChunkId) -> None:
        if len(self._doubted) >= DOUBTED_MAX:
            self._doubted.clear()
        self._doubted.add(chunk)

    def _free_end(self, chunk: ChunkId, start: int, end: int) -> int:
        """Where blocks that are cached or under way begin; ``end`` if there are none from the second on."""
        for block in range(start + BLOCK_BYTES, end, BLOCK_BYTES):
            if self._is_near(chunk, block):
                return block
        return end

    def _is_near(self, chunk: ChunkId, block: int) -> bool:
        """Whether the block is cached in RAM or under way."""
        return key_of(chunk, block) in self._fetches or self._cache.has(chunk, block)

    async def _fetch(self, fetch: _Fetch, purpose: str, *, is_stream: bool) -> Run:
        first = key_of(fetch.chunk, fetch.start)
        keys = range(first, first + (fetch.end - fetch.start + BLOCK_BYTES - 1) // BLOCK_BYTES)
        for key in keys:
            self._fetches[key] = fetch
        try:
            run = await self._from_disk(fetch)
            if run is None:
                run = await self._sources.read(fetch.chunk, fetch.start, fetch.end, fetch.need, purpose)
                if self._disk is not None:
                    self._disk.offer(run, is_stream=is_stream)
            self._cache.put(run)
            fetch.run = run
            return run
        finally:
            for key in keys:
                if self._fetches.get(key) is fetch:
                    del self._fetches[key]
            fetch.done.set()

    async def _from_disk(self, fetch: _Fetch) -> Run | None:
        disk, chunk, at = self._disk, fetch.chunk, fetch.start
        if disk is None or not disk.has(chunk, at) or not disk.has(chunk, max(at, fetch.need - 1)):
            return None
        parts: list[memoryview] = []
        while at < fetch.end:
            run = await disk.get(chunk, at, fetch.end)
            if run is None:
                break
            parts.append(run.data[at - run.start :])
            at = run.end
        if at < fetch.need or not parts:
            return None
        data = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
        return Run(chunk, fetch.start, data)

    # --- ahead of need ----------------------------------------------------------------------------------

    def _follow_trail(self, chunk: ChunkId, at: int) -> None:
        piece = self._trails.note(chunk, at)
        if piece is not None:
            start = piece.start - piece.start % BLOCK_BYTES
            self._ahead(chunk, start, piece.end, known=False)

    async def _read_ahead(self, ino: InodeId, advice: Advice) -> None:
        start, end = advice.ahead_start, advice.ahead_end
        for extent in await self._sink.file_extents(ino, start, end - start):
            low, high = max(start, extent.offset), min(end, extent.end)
            if low < high:
                at = extent.chunk_offset + low - extent.offset
                stop = at + high - low
                self._ahead(extent.chunk, at - at % BLOCK_BYTES, stop, known=True)

    def _ahead(self, chunk: ChunkId, start: int, end: int, *, known: bool) -> None:
        """Fetch what of [start, end) is not here yet; ``known``: an extent says that it exists."""
        while start < end and self._nursery is not None and chunk not in self._doubted:
            if self._is_near(chunk, start):
                start += BLOCK_BYTES
                continue
            stop = self._free_end(chunk, start, min(end, start + FETCH_BYTES))
            if self._ahead_bytes + stop - start > AHEAD_BYTES:
                return
            fetch = _Fetch(chunk, start, stop, stop if known else start)
            first = key_of(chunk, start)
            for key in range(first, first + (stop - start + BLOCK_BYTES - 1) // BLOCK_BYTES):
                self._fetches[key] = fetch  # now, not when the task starts: the next read must see it
            self._ahead_bytes += stop - start
            self._nursery.start_soon(self._fetch_ahead, fetch, known)
            start = stop

    async def _fetch_ahead(self, fetch: _Fetch, known: bool) -> None:
        try:
            await self._fetch(fetch, AHEAD, is_stream=known)
        except CloudVergeError as error:
            log.debug("nothing came ahead of need", chunk=fetch.chunk, error=str(error))
        except Exception as error:
            log.error("a fetch ahead of need failed", chunk=fetch.chunk, exc_info=error)
        finally:
            self._ahead_bytes -= fetch.end - fetch.start


def _miss_range(extent: Extent, at: int, stop: int, pattern: str) -> tuple[int, int]:
    """What of the chunk to fetch for a miss at ``at``: whole blocks up to ``stop``, and more if that pays.

    For the start of a file it does not: the trail brings its neighbours, and of a large one nobody may want the rest.
    """
    start = at - at % BLOCK_BYTES
    extent_end = extent.chunk_offset + extent.length
    if pattern == "random":
        start = at - at % RANDOM_BYTES
        start = max(start, extent.chunk_offset - extent.chunk_offset % BLOCK_BYTES)
        end = min(start + RANDOM_BYTES, extent_end)
    elif pattern == "stream":
        end = min(start + STREAM_MISS_BYTES, extent_end)
    else:
        end = start
    end = max(end, min(stop, start + FETCH_BYTES))
    return start, min(CHUNK_BYTES, end + -end % BLOCK_BYTES)
