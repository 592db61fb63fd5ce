"""The cache of a confined session: runs at any offset, within a weight."""

from cloudverge_mount.exactcache import RUN_WEIGHT, ExactCache


def view(text):
    return memoryview(text)


def test_a_run_gives_what_lies_in_it_and_nothing_beyond():
    cache = ExactCache(10_000)
    cache.put(1, 100, view(b"0123456789"))
    assert cache.get(1, 100, 110) == b"0123456789"
    assert cache.get(1, 103, 105) == b"34"
    for chunk, start, end in ((1, 99, 105), (1, 105, 111), (2, 100, 105), (1, 110, 111)):
        assert cache.get(chunk, start, end) is None


def test_of_runs_with_the_same_start_the_longest_stays():
    cache = ExactCache(10_000)
    cache.put(1, 0, view(b"ab"))
    cache.put(1, 0, view(b"abcd"))
    cache.put(1, 0, view(b"abc"))
    assert cache.get(1, 0, 4) == b"abcd"
    assert cache.held_bytes == 4 + RUN_WEIGHT


def test_the_least_recently_used_runs_go_and_what_they_weigh_with_them():
    cache = ExactCache(4 * (RUN_WEIGHT + 100))
    for number in range(4):
        cache.put(number, 0, view(bytes(100)))
    assert cache.get(0, 0, 100) is not None
    cache.put(9, 0, view(bytes(100)))
    assert cache.get(1, 0, 100) is None
    assert cache.get(0, 0, 100) is not None
    assert cache.held_bytes == 4 * (RUN_WEIGHT + 100)
    for number in range(10_000):
        cache.put(5, number, view(b"x"))
    assert cache.held_bytes <= 4 * (RUN_WEIGHT + 100)
