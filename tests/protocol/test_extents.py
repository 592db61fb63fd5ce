"""Extent arithmetic against a model that knows every byte by itself."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_protocol import extents as arithmetic
from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import CHUNK_BYTES, FILE_BYTES_MAX, REGION_BYTES, ChunkId
from cloudverge_protocol.inodes import Extent, Extents

SPACE = 120  # bytes of the model's file
Bytes = dict[int, tuple[int, int]]  # file offset -> (chunk, chunk offset)


def bytes_of(extents: Extents) -> Bytes:
    return {e.offset + i: (e.chunk, e.chunk_offset + i) for e in extents for i in range(e.length)}


def extent(offset: int, length: int, chunk: int = 1, chunk_offset: int = 0) -> Extent:
    return Extent(offset, length, ChunkId(chunk), chunk_offset)


@st.composite
def extent_lists(draw: st.DrawFn) -> Extents:
    edges = sorted(draw(st.sets(st.integers(0, SPACE), max_size=16)))
    found: list[Extent] = []
    for start, end in zip(edges[::2], edges[1::2], strict=False):
        # few chunks, and often the very place in them that makes neighbours joinable
        place = draw(st.sampled_from((start, start + 7, 3)))
        found.append(extent(start, end - start, draw(st.integers(1, 2)), place))
    return tuple(found)


offsets = st.integers(0, SPACE)


@given(extent_lists(), extent_lists())
def test_later_bytes_win_over_earlier_ones(old: Extents, new: Extents) -> None:
    result = arithmetic.splice(old, new)
    arithmetic.validate(result)
    assert bytes_of(result) == bytes_of(old) | bytes_of(new)


@given(st.lists(extent_lists(), max_size=6))
def test_neighbours_that_continue_each_other_are_joined_where_something_was_laid(
    parts: list[Extents],
) -> None:
    result: Extents = ()
    for part in parts:
        result = arithmetic.splice(result, part)
    for left, right in itertools.pairwise(result):
        assert not (
            left.end == right.offset
            and left.chunk == right.chunk
            and left.chunk_offset + left.length == right.chunk_offset
        )


@given(extent_lists(), offsets, offsets)
def test_a_cut_leaves_a_hole_and_nothing_else(extents: Extents, start: int, end: int) -> None:
    result = arithmetic.cut(extents, start, end)
    arithmetic.validate(result)
    assert bytes_of(result) == {at: v for at, v in bytes_of(extents).items() if not start <= at < end}


@given(extent_lists(), offsets, offsets)
def test_a_clip_keeps_what_a_cut_takes(extents: Extents, start: int, end: int) -> None:
    result = arithmetic.clip(extents, start, end)
    arithmetic.validate(result)
    assert bytes_of(result) == {at: v for at, v in bytes_of(extents).items() if start <= at < end}


@given(extent_lists(), offsets, offsets)
def test_extents_that_meet_a_range_are_those_of_which_a_clip_leaves_something(
    extents: Extents, start: int, end: int
) -> None:
    result = arithmetic.meeting(extents, start, end)
    assert arithmetic.clip(result, start, end) == arithmetic.clip(extents, start, end)
    assert set(result) <= set(extents)
    assert len(result) == len(arithmetic.clip(extents, start, end))


@given(extent_lists(), offsets)
def test_truncation_takes_what_lies_beyond(extents: Extents, size: int) -> None:
    result = arithmetic.truncate(extents, size)
    arithmetic.validate(result)
    assert bytes_of(result) == {at: v for at, v in bytes_of(extents).items() if at < size}


@given(extent_lists(), offsets)
def test_find_gives_the_extent_at_an_offset_or_the_next_one(extents: Extents, offset: int) -> None:
    expected = next((i for i, e in enumerate(extents) if e.end > offset), len(extents))
    assert arithmetic.find(extents, offset) == expected


@given(extent_lists(), offsets, offsets)
def test_a_read_plan_covers_the_range_without_gap_or_overlap(
    extents: Extents, offset: int, length: int
) -> None:
    model, position = bytes_of(extents), offset
    for start, count, part in arithmetic.plan_read(extents, offset, length):
        assert start == position
        assert count > 0
        expected = {at: model[at] for at in range(start, start + count) if at in model}
        assert (bytes_of((part,)) if part else {}) == expected
        assert part is not None or not expected
        position += count
    assert position == offset + length


@given(extent_lists(), st.integers(0, 3))
def test_regions_hold_what_the_file_holds(extents: Extents, where: int) -> None:
    moved = arithmetic.shift(extents, where * REGION_BYTES - SPACE // 2 if where else 0)
    regions = arithmetic.by_region(moved)
    assert bytes_of(tuple(e for region in sorted(regions) for e in regions[region])) == bytes_of(moved)
    for region, part in regions.items():
        assert part
        arithmetic.validate(part, region)


def test_an_appended_extent_that_continues_the_last_one_makes_it_longer() -> None:
    assert arithmetic.splice((extent(0, 10),), (extent(10, 5, 1, 10),)) == (extent(0, 15),)


def test_what_is_laid_between_two_extents_joins_with_both() -> None:
    old = (extent(0, 10), extent(10, 10, 2), extent(20, 10, 1, 20))
    assert arithmetic.splice(old, (extent(10, 10, 1, 10),)) == (extent(0, 30),)
    assert arithmetic.splice(old, (extent(10, 5, 1, 10),)) == (extent(0, 15), extent(15, 5, 2, 5), old[2])
    assert arithmetic.splice(old, (extent(15, 5, 1, 15),)) == (
        old[0],
        extent(10, 5, 2),
        extent(15, 15, 1, 15),
    )


def test_nothing_laid_over_a_list_gives_the_same_list() -> None:
    old = (extent(0, 10),)
    assert arithmetic.splice(old, ()) is old
    assert arithmetic.cut(old, 10, 20) is old
    assert arithmetic.truncate(old, 10) is old


def test_holes_do_not_count_as_bytes() -> None:
    assert arithmetic.bytes_in((extent(0, 10), extent(1000, 5))) == 15


def test_many_interleaved_extents_are_laid_in_linear_time() -> None:
    count = 100_000
    old = tuple(extent(4 * i, 2, 1, 0) for i in range(count))
    new = tuple(extent(4 * i + 1, 2, 2, 0) for i in range(count))
    assert len(arithmetic.splice(old, new)) == 2 * count


@pytest.mark.parametrize(
    "bad",
    [
        (extent(0, 0),),
        (extent(0, -1),),
        (extent(-1, 2),),
        (extent(0, CHUNK_BYTES + 1),),
        (extent(0, 2, 1, CHUNK_BYTES - 1),),
        (extent(0, 1, 1, -1),),
        (extent(0, 1, 0),),
        (extent(0, 1, -5),),
        (extent(0, 1, 1 << 63),),
        (extent(FILE_BYTES_MAX, 1),),
        (extent(1 << 64, 1),),
        (extent(0, 10), extent(5, 10)),
        (extent(10, 5), extent(0, 5)),
    ],
)
def test_what_is_no_extent_list_is_refused(bad: Extents) -> None:
    with pytest.raises(Refused) as caught:
        arithmetic.validate(bad)
    assert caught.value.code == Code.INVALID


def test_an_extent_outside_its_region_is_refused() -> None:
    crossing = (extent(REGION_BYTES - 1, 2),)
    arithmetic.validate(crossing)
    for region in (0, 1):
        with pytest.raises(Refused):
            arithmetic.validate(crossing, region)
