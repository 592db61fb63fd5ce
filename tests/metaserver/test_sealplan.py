"""The seal of a chunk: never below a promise, never lowered by a shorter replica."""

from hypothesis import given
from hypothesis import strategies as st

from cloudverge_metaserver.sealplan import plan_seal

lengths = st.integers(0, 1000)
answers = st.dictionaries(st.integers(1, 5), st.none() | lengths, min_size=1)


@given(lengths, lengths, answers)
def test_every_seal_keeps_the_rules(durable, committed, verified):
    plan = plan_seal(durable, committed, verified)
    assert plan.length >= max(durable, committed)
    if plan.damaged:
        assert all(has is None or has < plan.length for has in verified.values())
        assert not plan.dropped
        return
    assert plan.members
    assert all(verified[s] is not None and verified[s] >= plan.length for s in plan.members)
    assert set(plan.members) | set(plan.dropped) == set(verified)
    assert all(verified[s] is None or verified[s] < plan.length for s in plan.dropped)


@given(st.dictionaries(st.integers(1, 5), lengths, min_size=1))
def test_what_all_reachable_servers_have_is_kept(verified):
    assert plan_seal(0, 0, verified).length == min(verified.values())


def test_a_shorter_replica_is_dropped_and_a_longer_one_is_good():
    plan = plan_seal(500, 400, {1: 499, 2: 500, 3: 900})
    assert (plan.length, plan.members, plan.dropped) == (500, (2, 3), (1,))


def test_a_server_that_cannot_be_reached_is_dropped():
    plan = plan_seal(500, 0, {1: 700, 2: None})
    assert (plan.length, plan.members, plan.dropped, plan.damaged) == (700, (1,), (2,), False)


def test_nobody_reaching_the_promise_is_damage_and_drops_nobody():
    plan = plan_seal(500, 600, {1: 599, 2: None})
    assert (plan.length, plan.members, plan.dropped, plan.damaged) == (600, (), (), True)


def test_nobody_reachable_is_damage_even_for_an_empty_chunk():
    assert plan_seal(0, 0, {1: None, 2: None}).damaged


def test_a_damaged_replica_does_not_lower_the_seal_below_what_a_sound_one_has():
    plan = plan_seal(0, 0, {1: 262_144, 2: 3_145_728}, damaged={1})
    assert (plan.length, plan.members, plan.dropped) == (3_145_728, (2,), (1,))


def test_of_damaged_replicas_the_one_that_proves_most_is_kept():
    plan = plan_seal(0, 0, {1: 100, 2: 300}, damaged={1, 2})
    assert (plan.length, plan.members, plan.damaged) == (300, (2,), False)
