"""The RAM cache of a session that is confined to a sub-tree: runs of chunk bytes at any offset, not whole blocks.

Chunk bytes never change, so nothing here can be stale. Runs may overlap; what is asked for is found if the run that
begins last before it holds all of it. The least recently used runs go first.
"""

from bisect import bisect_right, insort
from collections import OrderedDict
from typing import Final

from cloudverge_protocol.ids import ChunkId

RUN_WEIGHT: Final = 512  # what a run costs beside its bytes


class ExactCache:
    """Runs that together weigh at most ``limit_bytes`` (but one is always kept)."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._runs: OrderedDict[tuple[ChunkId, int], memoryview] = OrderedDict()
        self._starts: dict[ChunkId, list[int]] = {}
        self.held_bytes = 0

    def get(self, chunk: ChunkId, start: int, end: int) -> memoryview | None:
        """The bytes [start, end) of ``chunk`` if one run holds them."""
        starts = self._starts.get(chunk, ())
        index = bisect_right(starts, start) - 1
        if index < 0:
            return None
        key = (chunk, starts[index])
        run = self._runs[key]
        if key[1] + len(run) < end:
            return None
        self._runs.move_to_end(key)
        return run[start - key[1] : end - key[1]]

    def put(self, chunk: ChunkId, start: int, data: memoryview) -> None:
        """Keep a run; one with the same start is replaced if it is shorter."""
        key = (chunk, start)
        known = self._runs.get(key)
        if known is None:
            insort(self._starts.setdefault(chunk, []), start)
            self.held_bytes += RUN_WEIGHT
        elif len(known) >= len(data):
            return
        self.held_bytes += len(data) - (len(known) if known is not None else 0)
        self._runs[key] = data
        self._runs.move_to_end(key)
        while self.held_bytes > self._limit_bytes and len(self._runs) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        (chunk, start), data = self._runs.popitem(last=False)
        self.held_bytes -= len(data) + RUN_WEIGHT
        starts = self._starts[chunk]
        del starts[bisect_right(starts, start) - 1]
        if not starts:
            del self._starts[chunk]

    def clear(self) -> None:
        """Forget all."""
        self._runs.clear()
        self._starts.clear()
        self.held_bytes = 0
