"""The RAM cache of chunk bytes: runs of blocks as they came from the wire, found by block, evicted by age of use.

A run is kept whole, as a view of the buffer it was received into: nothing is copied into the cache. Blocks map
to the newest run that holds them. Chunk bytes never change, so nothing here can be stale; a run's last block
may be short (the chunk was still growing), then the bytes beyond it are simply not here.

Invariant: everything in it has passed its checksum on this machine; runs together hold at most ``limit_bytes``.
"""

from collections import OrderedDict

from cloudverge_protocol.ids import BLOCK_BYTES, CHUNK_BYTES

BLOCKS = CHUNK_BYTES // BLOCK_BYTES


def key_of(chunk: int, offset: int) -> int:
    """One number for the block of ``chunk`` that holds ``offset``."""
    return chunk * BLOCKS + offset // BLOCK_BYTES


class Run:
    """Verified bytes [start, end) of ``chunk``; ``start`` is a block's."""

    __slots__ = ("chunk", "data", "end", "start")

    def __init__(self, chunk: int, start: int, data: memoryview) -> None:
        self.chunk = chunk
        self.start = start
        self.end = start + len(data)
        self.data = data

    def blocks(self) -> range:
        """The keys of its blocks."""
        first = key_of(self.chunk, self.start)
        return range(first, first + -(-len(self.data) // BLOCK_BYTES))


class BlockCache:
    """Runs within ``limit_bytes``, least recently used out first."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._blocks: dict[int, Run] = {}
        self._runs: OrderedDict[int, Run] = OrderedDict()  # by id

    def get(self, chunk: int, offset: int) -> Run | None:
        """A run that holds the byte at ``offset``."""
        run = self._blocks.get(key_of(chunk, offset))
        if run is None or offset >= run.end:
            return None
        self._runs.move_to_end(id(run))
        return run

    def has(self, chunk: int, offset: int) -> bool:
        """Whether ``get`` would find one; does not count as use."""
        run = self._blocks.get(key_of(chunk, offset))
        return run is not None and offset < run.end

    def put(self, run: Run) -> None:
        """Keep ``run``."""
        if not len(run.data):
            return
        for key in run.blocks():
            self._blocks[key] = run
        self._runs[id(run)] = run
        self.held_bytes += len(run.data)
        while self.held_bytes > self.limit_bytes and self._runs:
            self._evict(self._runs.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget everything."""
        self._blocks.clear()
        self._runs.clear()
        self.held_bytes = 0

    def _evict(self, run: Run) -> None:
        self.held_bytes -= len(run.data)
        blocks = self._blocks
        for key in run.blocks():
            if blocks.get(key) is run:
                del blocks[key]
