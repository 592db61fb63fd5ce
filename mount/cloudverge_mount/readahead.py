"""What to read beyond what was asked. Pure: patterns of access in, ranges out.

Three patterns:

- *streams*: reads of a file that follow one another (within what the kernel reorders). The window ahead doubles
  from ``FIRST_WINDOW`` to a share of ``WINDOW_SUM``; more is asked for when half of it has been used up;
- *starts*: the first read of a file, at its start, and short: likely one of many small files, which lie in their
  chunk in the order they were written. The *trail* of such reads in a chunk decides how much of the chunk
  comes along: at least ``FIRST_TRAIL``, doubling while the reads go on along it, and the next piece of it is
  fetched before it is reached;
- *random* reads: one aligned piece of ``RANDOM_BYTES``.

Both tables are bounded; the least recently used entry goes.
"""

from collections import OrderedDict
from typing import NamedTuple

from cloudverge_protocol.ids import CHUNK_BYTES, ChunkId, InodeId

KIB = 1024
MIB = 1024 * KIB
FIRST_WINDOW = 1 * MIB
LARGEST_WINDOW = 8 * MIB
WINDOW_SUM = 20 * MIB
BACK_TOLERANCE = 2 * MIB  # reads the kernel sent earlier but that arrive later
AHEAD_TOLERANCE = 2 * MIB
LONG_READ = 128 * KIB
RANDOM_BYTES = 128 * KIB
STREAM_MISS_BYTES = 1 * MIB
FIRST_TRAIL = 256 * KIB
LARGEST_TRAIL = 2 * MIB
TRAIL_REACH = 512 * KIB
STREAMS_MAX = 4096
TRAILS_MAX = 512
BUSY_READS = 200  # a stream counts as active for so many reads of all files


class Advice(NamedTuple):
    """``pattern`` of a read, and the file range [ahead_start, ahead_end) to fetch ahead of need."""

    pattern: str  # "stream", "start" or "random"
    ahead_start: int = 0
    ahead_end: int = 0


STREAM = Advice("stream")
START = Advice("start")
RANDOM = Advice("random")


class _Stream:
    __slots__ = ("end", "streak", "tick", "until", "window")

    def __init__(self) -> None:
        self.end = -1
        self.streak = 0
        self.until = 0
        self.window = FIRST_WINDOW
        self.tick = 0


class Readahead:
    """Patterns by file."""

    def __init__(self) -> None:
        self._streams: OrderedDict[InodeId, _Stream] = OrderedDict()
        self._tick = 0

    def note(self, ino: InodeId, offset: int, length: int) -> Advice:
        """A read of [offset, offset + length) is about to be answered."""
        stream = self._stream_of(ino)
        self._tick += 1
        stream.tick = self._tick
        end = offset + length
        if stream.end < 0 and offset == 0:
            stream.end, stream.streak = end, 1
            if length < LONG_READ:
                return START
        elif stream.end >= 0 and stream.end - BACK_TOLERANCE <= offset <= stream.end + AHEAD_TOLERANCE:
            stream.streak += 1
            stream.end = max(stream.end, end)
        else:
            stream.end, stream.streak, stream.until, stream.window = end, 0, 0, FIRST_WINDOW
            return RANDOM
        return self._ahead(stream)

    def forget(self, ino: InodeId) -> None:
        """The file is gone."""
        self._streams.pop(ino, None)

    def _ahead(self, stream: _Stream) -> Advice:
        if stream.until >= stream.end + stream.window // 2:
            return STREAM
        window = min(stream.window, self._share())
        if stream.until >= stream.end + window // 2:
            return STREAM
        start = max(stream.until, stream.end)
        stream.until = stream.end + window
        stream.window = min(stream.window * 2, LARGEST_WINDOW)
        return Advice("stream", start, stream.until)

    def _share(self) -> int:
        """The largest window while the streams now active share the sum."""
        active = 0
        for stream in reversed(self._streams.values()):
            if stream.tick < self._tick - BUSY_READS:
                break
            active += stream.streak > 1
        return max(FIRST_WINDOW, WINDOW_SUM // max(1, active))

    def _stream_of(self, ino: InodeId) -> _Stream:
        stream = self._streams.get(ino)
        if stream is None:
            stream = self._streams[ino] = _Stream()
            if len(self._streams) > STREAMS_MAX:
                self._streams.popitem(last=False)
        else:
            self._streams.move_to_end(ino)
        return stream


class Range(NamedTuple):
    """A range of a chunk."""

    start: int
    end: int


class _Trail:
    __slots__ = ("end", "size", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.size = FIRST_TRAIL
        self.end = min(CHUNK_BYTES, start + FIRST_TRAIL)


class Trails:
    """How far along each chunk small files have been read."""

    def __init__(self) -> None:
        self._trails: OrderedDict[ChunkId, _Trail] = OrderedDict()

    def note(self, chunk: ChunkId, at: int) -> Range | None:
        """A small file starts at ``at`` of ``chunk``: the next piece of the trail to fetch, if it is time."""
        trail = self._trails.get(chunk)
        if trail is None or not trail.start <= at <= trail.end + TRAIL_REACH:
            trail = self._trails[chunk] = _Trail(at)
            if len(self._trails) > TRAILS_MAX:
                self._trails.popitem(last=False)
            return Range(at, trail.end)
        self._trails.move_to_end(chunk)
        if at < trail.end - trail.size // 2 or trail.end >= CHUNK_BYTES:
            return None
        start = max(trail.end, at)
        trail.size = min(trail.size * 2, LARGEST_TRAIL)
        trail.start, trail.end = at, min(CHUNK_BYTES, start + trail.size)
        return Range(start, trail.end)
