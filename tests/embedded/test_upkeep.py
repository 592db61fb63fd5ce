"""When a child is started, decided from standings and the time alone."""

from cloudverge_embedded.settings import Restart
from cloudverge_embedded.upkeep import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    PATIENCE_S,
    Phase,
    Standing,
    pause_s,
    to_start,
)


def test_a_requested_child_waits_for_all_it_needs_however_long():
    standings = [Standing("a", Phase.STARTING), Standing("b", Phase.DOWN, ("a",), requested=True)]
    assert to_start(standings, Restart.ALWAYS, 1e6) == []
    standings[0] = Standing("a", Phase.READY)
    assert to_start(standings, Restart.NEVER, 0) == ["b"]


def test_a_dead_child_is_restarted_when_its_pause_is_over():
    standings = [Standing("a", Phase.DOWN, due_s=5)]
    assert to_start(standings, Restart.ALWAYS, 4.9) == []
    assert to_start(standings, Restart.ALWAYS, 5) == ["a"]


def test_a_dead_child_stays_down_with_restart_never():
    assert to_start([Standing("a", Phase.DOWN)], Restart.NEVER, 1e6) == []


def test_a_restart_does_not_wait_for_ever_for_a_needed_child():
    standings = [Standing("a", Phase.DOWN, due_s=1e9), Standing("b", Phase.DOWN, ("a",), due_s=5)]
    assert to_start(standings, Restart.ALWAYS, 5) == []
    assert to_start(standings, Restart.ALWAYS, 5 + PATIENCE_S) == ["b"]


def test_what_starts_or_runs_is_left_alone():
    standings = [Standing("a", Phase.STARTING), Standing("b", Phase.READY)]
    assert to_start(standings, Restart.ALWAYS, 1e6) == []


def test_pauses_grow_and_are_bounded():
    pauses = [pause_s(failures) for failures in range(1, 2000)]
    assert pauses[0] == FIRST_PAUSE_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S
