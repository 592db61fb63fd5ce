"""Arithmetic on extent lists: what a file's bytes are after writes, cuts and truncations.

Pure functions on ``Extents`` tuples (sorted by offset, never overlapping, positive lengths); they take such
tuples, return such tuples, and never change one. Where nothing changes the same tuple comes back. All are
linear at worst (lists come from untrusted peers), searching is by bisection, and the usual case, one new
extent behind all others, copies the tuple and makes one object at most.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Final

from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import CHUNK_BYTES, FILE_BYTES_MAX, ID_MAX, REGION_BYTES
from cloudverge_protocol.inodes import Extent, Extents

_by_offset: Final = attrgetter("offset")


def find(extents: Extents, offset: int) -> int:
    """Index of the first extent that ends after ``offset`` (it holds ``offset`` or follows it)."""
    index = bisect_right(extents, offset, key=_by_offset)
    if index and extents[index - 1].end > offset:
        return index - 1
    return index


def _part(extent: Extent, start: int, end: int) -> Extent:
    """The bytes [start, end) of the file out of ``extent``, which holds them."""
    if start == extent.offset and end == extent.end:
        return extent
    return Extent(start, end - start, extent.chunk, extent.chunk_offset + start - extent.offset)


def cut(extents: Extents, start: int, end: int) -> Extents:
    """``extents`` without the file range [start, end): a hole is left there."""
    low = find(extents, start)
    high = bisect_left(extents, end, lo=low, key=_by_offset)
    if start >= end or low >= high:
        return extents
    first, last = extents[low], extents[high - 1]
    left = (_part(first, first.offset, start),) if first.offset < start else ()
    right = (_part(last, end, last.end),) if end < last.end else ()
    return extents[:low] + left + right + extents[high:]


def meeting(extents: Extents, start: int, end: int) -> Extents:
    """Those that have bytes in the file range [start, end), whole."""
    low = find(extents, start)
    return extents[low : bisect_left(extents, end, lo=low, key=_by_offset)] if start < end else ()


def clip(extents: Extents, start: int, end: int) -> Extents:
    """Only what lies in the file range [start, end)."""
    low = find(extents, start)
    high = bisect_left(extents, end, lo=low, key=_by_offset)
    if start >= end or low >= high:
        return ()
    inside = list(extents[low:high])
    inside[0] = _part(inside[0], max(start, inside[0].offset), inside[0].end)
    inside[-1] = _part(inside[-1], inside[-1].offset, min(end, inside[-1].end))
    return tuple(inside)


def truncate(extents: Extents, size: int) -> Extents:
    """Only what lies below ``size``."""
    if not extents or extents[-1].end <= size:
        return extents
    return clip(extents, 0, size)


def splice(extents: Extents, new: Extents) -> Extents:
    """``extents`` with ``new`` laid over them; neighbours that continue each other in one chunk become one."""
    if not new:
        return extents
    if not extents or extents[-1].end <= new[0].offset:
        return extents[:-1] + _joined((*extents[-1:], *new))
    low = find(extents, new[0].offset)
    high = bisect_left(extents, new[-1].end, lo=low, key=_by_offset)
    kept = _without(extents[low:high], new)
    kept.extend(new)
    kept.sort(key=_by_offset)  # two sorted runs: linear
    before = max(0, low - 1)  # the neighbours on both sides may continue into what is new
    return (
        extents[:before]
        + _joined((*extents[before:low], *kept, *extents[high : high + 1]))
        + extents[high + 1 :]
    )


def _without(extents: Extents, new: Extents) -> list[Extent]:
    """The parts of ``extents`` that ``new`` does not cover; one pass over both."""
    parts: list[Extent] = []
    index, count = 0, len(new)
    for extent in extents:
        start, end = extent.offset, extent.end
        while index < count and new[index].end <= start:
            index += 1
        while index < count and new[index].offset < end:
            if new[index].offset > start:
                parts.append(_part(extent, start, new[index].offset))
            start = new[index].end
            if start >= end:
                break  # it may reach into the next one as well
            index += 1
        if start < end:
            parts.append(_part(extent, start, end))
    return parts


def _joined(extents: Iterable[Extent]) -> Extents:
    """The same bytes with neighbours joined where they are contiguous in file and chunk."""
    joined: list[Extent] = []
    last: Extent | None = None
    for extent in extents:
        if (
            last is not None
            and last.chunk == extent.chunk
            and last.offset + last.length == extent.offset
            and last.chunk_offset + last.length == extent.chunk_offset
        ):
            last = joined[-1] = Extent(
                last.offset, last.length + extent.length, last.chunk, last.chunk_offset
            )
        else:
            joined.append(extent)
            last = extent
    return tuple(joined)


def shift(extents: Extents, distance: int) -> Extents:
    """The same bytes ``distance`` further in the file (or back, if negative)."""
    return tuple(Extent(e.offset + distance, e.length, e.chunk, e.chunk_offset) for e in extents)


def by_region(extents: Extents) -> dict[int, Extents]:
    """The extents of each region, those that cross a boundary cut there."""
    if not extents:
        return {}
    first = extents[0].offset // REGION_BYTES
    if (extents[-1].end - 1) // REGION_BYTES == first:
        return {first: extents}
    regions: dict[int, list[Extent]] = {}
    for region, piece in _region_pieces(extents):
        regions.setdefault(region, []).append(piece)
    return {region: tuple(pieces) for region, pieces in regions.items()}


def _region_pieces(extents: Extents) -> Iterator[tuple[int, Extent]]:
    for extent in extents:
        start, end = extent.offset, extent.end
        while start < end:
            region = start // REGION_BYTES
            stop = min(end, (region + 1) * REGION_BYTES)
            yield region, _part(extent, start, stop)
            start = stop


def bytes_in(extents: Extents) -> int:
    """How many bytes are mapped; holes do not count."""
    return sum(extent.length for extent in extents)


def validate(extents: Extents, region: int | None = None) -> None:
    """Refuse (INVALID) whatever is not an extent list; with ``region`` also what lies outside that region."""
    low, high = 0, FILE_BYTES_MAX
    if region is not None:
        low, high = region * REGION_BYTES, min(FILE_BYTES_MAX, (region + 1) * REGION_BYTES)
    for extent in extents:
        offset, length, chunk_offset = extent.offset, extent.length, extent.chunk_offset
        if not (
            low <= offset
            and 0 < length <= CHUNK_BYTES
            and offset + length <= high
            and 0 < extent.chunk <= ID_MAX
            and 0 <= chunk_offset <= CHUNK_BYTES - length
        ):
            raise Refused(
                Code.INVALID,
                f"bad extent: {length} bytes at {offset} from chunk {extent.chunk} at {chunk_offset}"
                + (f" (expected between {low} and {high})" if offset < low else ""),
            )
        low = offset + length


def plan_read(extents: Extents, offset: int, length: int) -> list[tuple[int, int, Extent | None]]:
    """What to read for [offset, offset + length): pieces (file offset, length, extent) in order, None for holes."""
    plan: list[tuple[int, int, Extent | None]] = []
    position, end = offset, offset + length
    for extent in clip(extents, offset, end):
        if extent.offset > position:
            plan.append((position, extent.offset - position, None))
        plan.append((extent.offset, extent.length, extent))
        position = extent.end
    if position < end:
        plan.append((position, end - position, None))
    return plan
