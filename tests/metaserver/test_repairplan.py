"""What a sealed chunk needs: pure plans over snapshots."""

import random

from hypothesis import given
from hypothesis import strategies as st

from cloudverge_metaserver.durability import ReplicaState
from cloudverge_metaserver.placement import ServerState
from cloudverge_metaserver.repairplan import SealedChunk, by_urgency, is_idle, plan_repair

GOOD, UNTOLD, BAD, STALE = ReplicaState.GOOD, ReplicaState.UNTOLD, ReplicaState.BAD, ReplicaState.STALE
GIB = 1 << 30


def make(replicas, silent=(), lost=(), wanted=2, count=4, free=None):
    servers = {
        n: ServerState(n, f"h{n}", 1, "", (free or {}).get(n, 10 * GIB), silent=n in silent or n in lost)
        for n in range(1, count + 1)
    }
    chunk = SealedChunk(1, 1, 2, 1000, wanted, replicas)
    return plan_repair(chunk, servers, lambda s: s in lost, random.random)


def ids(servers):
    return [s.server for s in servers]


def test_a_whole_chunk_needs_nothing():
    assert is_idle(make({1: GOOD, 2: UNTOLD}))


def test_a_missing_copy_goes_to_a_server_that_has_none():
    plan = make({1: GOOD})
    assert ids(plan.sources) == [1]
    assert len(plan.copy_to) == 1
    assert plan.copy_to[0].server in (2, 3, 4)


def test_a_stale_replica_is_asked_first_whether_it_is_whole():
    plan = make({1: GOOD, 2: STALE})
    assert ids(plan.take_back) == [2]
    assert plan.surplus == ()


def test_with_no_other_server_a_stale_replica_is_mended():
    assert ids(make({1: GOOD, 2: STALE}, count=2).copy_to) == [2]


def test_a_bad_member_is_mended_where_it_is():
    plan = make({1: GOOD, 2: BAD})
    assert ids(plan.mend) == [2]
    assert ids(plan.sources) == [1, 2]


def test_two_bad_members_can_still_be_sources_for_each_other():
    plan = make({1: BAD, 2: BAD})
    assert ids(plan.mend) == [1, 2]
    assert ids(plan.sources) == [1, 2]


def test_a_silent_server_is_waited_for_and_a_lost_one_is_not():
    assert is_idle(make({1: GOOD, 2: GOOD}, silent=(2,)))
    assert len(make({1: GOOD, 2: GOOD}, lost=(2,)).copy_to) == 1


def test_with_no_copy_that_answers_nothing_can_be_done():
    assert is_idle(make({1: GOOD, 2: GOOD}, lost=(1, 2)))


def test_stale_lost_and_surplus_replicas_go_once_there_are_enough():
    assert make({1: GOOD, 2: GOOD, 3: STALE}).surplus == (3,)
    assert make({1: GOOD, 2: GOOD, 3: GOOD}, lost=(3,)).surplus == (3,)
    assert make({1: GOOD, 2: GOOD, 3: GOOD}, free={2: GIB}).surplus == (2,)


@given(
    st.dictionaries(st.integers(1, 5), st.sampled_from([GOOD, UNTOLD, BAD, STALE]), min_size=1),
    st.sets(st.integers(1, 5)),
    st.sets(st.integers(1, 5)),
    st.integers(1, 3),
)
def test_a_plan_never_gives_up_what_is_needed(replicas, silent, lost, wanted):
    plan = make(replicas, silent, lost, wanted, count=5)
    answering = [s for s, state in replicas.items() if state in (GOOD, UNTOLD) and s not in silent | lost]
    kept = [s for s in answering if s not in plan.surplus]
    assert not plan.surplus or len(kept) >= min(wanted, len(answering))
    assert not (plan.surplus and plan.copy_to)
    assert not {s.server for s in (*plan.mend, *plan.take_back, *plan.copy_to)} & (silent | lost)


def test_fewest_copies_come_first():
    plans = [make({1: GOOD, 3: STALE}), make({3: STALE}), make({1: GOOD, 2: GOOD, 3: STALE})]
    assert [plan.copies for plan in by_urgency(plans)] == [0, 1, 2]
