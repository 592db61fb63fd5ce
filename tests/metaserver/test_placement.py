"""Placement, liveness and quota limits: pure, so tried on many snapshots."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_metaserver.chunks import OVER_QUOTA_BYTES, limit_within
from cloudverge_metaserver.liveness import SILENT_AFTER_S, is_lost, is_silent
from cloudverge_metaserver.placement import (
    CHUNK_AT_LEAST_BYTES,
    ServerState,
    choose,
    place_chunk,
    placeable_bytes,
)
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.ids import BLOCK_BYTES, CHUNK_BYTES

GIB = 1 << 30


def server(number, host="h", rack="r", free=100 * GIB, **more):
    return ServerState(number, host, 1, rack, free, **more)


servers_of_all_kinds = st.lists(
    st.builds(
        ServerState,
        st.integers(1, 10**6),
        st.sampled_from(["a", "b", "c"]),
        st.just(1),
        st.sampled_from(["", "r1", "r2"]),
        st.integers(0, 4 * CHUNK_BYTES),
        st.integers(0, 50),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    max_size=8,
    unique_by=lambda s: s.server,
)


@given(servers_of_all_kinds, st.integers(1, 3), st.sets(st.integers(1, 10**6)), st.integers(0, 2**32))
def test_a_placement_is_right_or_refused(servers, replicas, avoid, seed):
    usable = [s for s in servers if s.takes_more and s.free_bytes >= CHUNK_AT_LEAST_BYTES]
    if len(usable) < replicas:
        with pytest.raises(CloudVergeError) as caught:
            place_chunk(servers, replicas, avoid, random.Random(seed).random)
        assert caught.value.code in (Code.UNAVAILABLE, Code.NO_SPACE)
        return
    placed = place_chunk(servers, replicas, avoid, random.Random(seed).random)
    chosen = placed.servers
    assert len({s.server for s in chosen}) == len(chosen) == replicas
    assert all(s in usable for s in chosen)
    assert 0 < placed.limit <= CHUNK_BYTES
    assert placed.limit % BLOCK_BYTES == 0
    assert all(placed.limit <= s.free_bytes for s in chosen)


@given(st.integers(0, 2**32))
def test_replicas_go_to_different_hosts_where_there_are_some(seed):
    servers = [server(1, "a"), server(2, "a"), server(3, "b"), server(4, "b")]
    chosen = place_chunk(servers, 2, (), random.Random(seed).random).servers
    assert {s.host for s in chosen} == {"a", "b"}


@given(st.integers(0, 2**32))
def test_different_racks_come_after_different_hosts(seed):
    servers = [server(1, "a", "r1"), server(2, "b", "r1"), server(3, "c", "r2")]
    chosen = place_chunk(servers, 2, (), random.Random(seed).random).servers
    assert {s.rack for s in chosen} == {"r1", "r2"}


def test_on_one_machine_all_servers_may_share_the_host():
    servers = [server(n) for n in (1, 2, 3)]
    assert len(place_chunk(servers, 3, (), random.random).servers) == 3


def test_servers_the_caller_complained_about_are_avoided_if_others_are_enough():
    servers = [server(n) for n in (1, 2, 3)]
    for _ in range(20):
        assert {s.server for s in place_chunk(servers, 2, {2}, random.random).servers} == {1, 3}
    assert len(place_chunk(servers, 2, {1, 2}, random.random).servers) == 2


def test_free_space_and_open_chunks_weigh():
    drawn = random.Random(1).random
    pool = [server(1, free=90 * GIB), server(2, free=10 * GIB)]
    first = [choose(pool, 1, (), drawn)[0].server for _ in range(1000)]
    assert 850 < first.count(1) < 950
    pool = [server(1, open_chunks=9), server(2)]
    first = [choose(pool, 1, (), drawn)[0].server for _ in range(1000)]
    assert 50 < first.count(1) < 150


def test_nearly_full_servers_get_smaller_chunks():
    placed = place_chunk([server(1, free=3_000_000), server(2)], 2, (), random.random)
    assert placed.limit == 3_000_000 - 3_000_000 % BLOCK_BYTES


def test_servers_with_room_for_a_whole_chunk_are_preferred():
    servers = [server(1), server(2), server(3, free=CHUNK_BYTES - 1)]
    for _ in range(20):
        assert place_chunk(servers, 2, (), random.random).limit == CHUNK_BYTES


def test_too_few_answering_servers_are_unavailable_and_full_ones_are_no_space():
    with pytest.raises(CloudVergeError) as caught:
        place_chunk([server(1), server(2, silent=True)], 2, (), random.random)
    assert caught.value.code == Code.UNAVAILABLE
    with pytest.raises(CloudVergeError) as caught:
        place_chunk([server(1), server(2, full=True)], 2, (), random.random)
    assert caught.value.code == Code.NO_SPACE


def test_a_server_is_silent_after_three_missed_heartbeats_of_a_time_somebody_listened():
    assert not is_silent(9.0, 1e6)
    assert is_silent(SILENT_AFTER_S + 1, 1e6)
    assert not is_silent(1e6, 5.0)
    assert is_lost(400.0, 1e6, 300.0)
    assert not is_lost(400.0, 100.0, 300.0)


@given(st.integers(1, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_a_chunk_never_lets_a_session_pass_the_quota_by_more_than_the_slack(quota, used, unreferenced):
    limit = limit_within(quota, used, unreferenced)
    assert 0 <= limit <= CHUNK_BYTES
    if limit:
        assert unreferenced + limit <= max(0, quota - used) + OVER_QUOTA_BYTES


def test_without_a_quota_chunks_are_whole():
    assert limit_within(0, 1 << 50, 1 << 50) == CHUNK_BYTES


@given(st.lists(st.integers(0, 1000), max_size=6), st.integers(1, 4))
def test_the_room_that_is_told_is_all_that_can_be_placed_on_distinct_servers(free, replicas):
    def fits(size):
        return sum(min(each, size) for each in free) >= replicas * size

    told = placeable_bytes(free, replicas)
    assert fits(told)
    assert not fits(told + 1)


def test_one_large_server_alone_gives_no_room_for_two_copies():
    assert placeable_bytes([GIB, 0, 0], 2) == 0
    assert placeable_bytes([GIB, 200, 100], 2) == 300
