"""Patterns of access and the RAM cache."""

import itertools

from cloudverge_mount.blockcache import BlockCache, Run
from cloudverge_mount.readahead import FIRST_TRAIL, LARGEST_TRAIL, LARGEST_WINDOW, Readahead, Trails
from cloudverge_protocol.ids import CHUNK_BYTES

KIB = 1024
MIB = 1024 * KIB


def run(start, length, chunk=1):
    return Run(chunk, start, memoryview(bytes(length)))


def test_the_window_of_a_stream_grows_and_never_asks_twice():
    patterns, asked, at = Readahead(), [], 0
    while at < 64 * MIB:
        advice = patterns.note(1, at, 128 * KIB)
        assert advice.pattern == "stream"
        if advice.ahead_end:
            asked.append((advice.ahead_start, advice.ahead_end))
        at += 128 * KIB
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(asked))
    assert asked[-1][1] - at <= LARGEST_WINDOW
    assert len(asked) < 40


def test_reads_in_the_order_of_the_kernel_s_queue_are_a_stream():
    patterns = Readahead()
    offsets = [0, 128, 384, 256, 640, 512, 768]
    kinds = [patterns.note(1, offset * KIB, 128 * KIB).pattern for offset in offsets]
    assert kinds == ["stream"] * 7


def test_scattered_reads_are_random_and_ask_for_nothing_ahead():
    patterns = Readahead()
    for offset in (500, 10, 900, 300, 700):
        advice = patterns.note(1, offset * MIB, 4096)
        assert advice.pattern == "random"
        assert not advice.ahead_end


def test_the_first_short_read_of_a_file_is_a_start():
    patterns = Readahead()
    assert patterns.note(1, 0, 3000).pattern == "start"
    assert patterns.note(2, 0, 3000).pattern == "start"


def test_many_streams_share_the_window():
    patterns = Readahead()
    for step in range(40):
        for ino in range(20):
            advice = patterns.note(ino, step * 128 * KIB, 128 * KIB)
    assert advice.ahead_end - advice.ahead_start <= MIB or not advice.ahead_end


def test_a_trail_of_small_files_is_fetched_before_it_is_reached():
    trails, reached, at = Trails(), 0, 0
    for _ in range(2000):
        piece = trails.note(1, at)
        if piece is not None:
            assert piece.start <= max(reached, at)
            assert piece.end - piece.start <= LARGEST_TRAIL
            reached = piece.end
        assert reached > at
        at += 8000
    assert trails.note(1, 0) == (0, FIRST_TRAIL)


def test_a_trail_ends_with_its_chunk():
    trails = Trails()
    piece = trails.note(1, CHUNK_BYTES - 1000)
    assert piece is not None
    assert piece.end == CHUNK_BYTES


def test_the_cache_finds_bytes_by_block_and_stays_within_its_budget():
    cache = BlockCache(MIB)
    for number in range(64):
        cache.put(run(number * 64 * KIB, 64 * KIB))
    assert cache.held_bytes == MIB
    assert cache.get(1, 0) is None
    found = cache.get(1, 63 * 64 * KIB + 5)
    assert found is not None
    assert found.start == 63 * 64 * KIB


def test_a_short_last_block_is_replaced_by_a_longer_one():
    cache = BlockCache(MIB)
    cache.put(run(0, 100))
    assert cache.get(1, 99) is not None
    assert cache.get(1, 100) is None
    cache.put(run(0, 64 * KIB))
    assert cache.get(1, 100) is not None


def test_what_is_used_stays_longer():
    cache = BlockCache(2 * MIB)
    cache.put(run(0, MIB))
    cache.put(run(MIB, MIB))
    cache.get(1, 0)
    cache.put(run(2 * MIB, MIB))
    assert cache.has(1, 0)
    assert not cache.has(1, MIB)
