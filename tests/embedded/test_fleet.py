"""The fleet with stand-in children: order, failure, restart, stop."""

import os
import signal
from itertools import pairwise

import pytest

from cloudverge_embedded.processes import Identity
from cloudverge_embedded.settings import Restart
from cloudverge_embedded.upkeep import Phase


def test_children_start_in_the_order_of_their_needs(fleet, stand_in, wait_for, folder):
    plan = [stand_in("c", needs=("b",)), stand_in("b", needs=("a",)), stand_in("a", "task")]
    fleet.follow(plan, Restart.ALWAYS)
    fleet.request()
    wait_for(fleet, lambda: fleet.is_ready)
    started = [folder.home_of(name).stat().st_ctime_ns for name in ("a", "b", "c")]
    assert all(earlier < later for earlier, later in pairwise(started))


def test_a_failing_child_is_reported_with_the_end_of_its_log(fleet, stand_in, wait_for):
    fleet.follow([stand_in("bad", "fail")], Restart.NEVER)
    fleet.request()
    wait_for(fleet, lambda: fleet.troubles)
    assert "bad ended with exit code 1" in fleet.troubles[0]
    assert "the stand-in says no" in fleet.troubles[0]


def test_a_child_that_never_gets_ready_is_killed_and_reported(fleet, stand_in, wait_for):
    fleet.follow([stand_in("mute", "silent", limit_s=0.2)], Restart.NEVER)
    fleet.request()
    wait_for(fleet, lambda: fleet.troubles)
    assert "mute was not ready after" in fleet.troubles[0]
    assert fleet.children["mute"].pid is None


def test_a_killed_child_is_restarted(fleet, stand_in, wait_for):
    fleet.follow([stand_in("a")], Restart.ALWAYS)
    fleet.request()
    wait_for(fleet, lambda: fleet.is_ready)
    first = fleet.children["a"].pid
    os.kill(first, signal.SIGKILL)
    wait_for(fleet, lambda: not fleet.is_ready)
    wait_for(fleet, lambda: fleet.is_ready)
    assert fleet.children["a"].pid not in (None, first)


def test_with_restart_never_a_killed_child_stays_down_until_it_is_requested(fleet, stand_in, wait_for):
    fleet.follow([stand_in("a"), stand_in("b")], Restart.NEVER)
    fleet.request()
    wait_for(fleet, lambda: fleet.is_ready)
    other = fleet.children["b"].pid
    os.kill(fleet.children["a"].pid, signal.SIGKILL)
    wait_for(fleet, lambda: fleet.children["a"].pid is None)
    fleet.tick(1e9)
    assert fleet.children["a"].pid is None
    fleet.request()
    wait_for(fleet, lambda: fleet.is_ready)
    assert fleet.children["b"].pid == other


def test_after_giving_up_a_failing_child_is_not_tried_again_with_restart_never(fleet, stand_in, wait_for):
    fleet.follow([stand_in("bad", "fail")], Restart.NEVER)
    fleet.request()
    wait_for(fleet, lambda: fleet.troubles)
    fleet.give_up()
    fleet.tick(1e9)
    assert fleet.children["bad"].phase is Phase.DOWN


def test_a_larger_plan_adds_children_and_leaves_the_others_alone(fleet, stand_in, wait_for):
    fleet.follow([stand_in("a")], Restart.ALWAYS)
    fleet.request()
    wait_for(fleet, lambda: fleet.is_ready)
    first = fleet.children["a"].pid
    fleet.follow([stand_in("a"), stand_in("b", needs=("a",))], Restart.ALWAYS)
    fleet.request()
    wait_for(fleet, lambda: fleet.is_ready)
    assert fleet.children["a"].pid == first
    assert fleet.children["b"].pid


def test_stop_ends_dependants_first_and_kills_the_stubborn(fleet, stand_in, wait_for):
    fleet.follow(
        [stand_in("a"), stand_in("t", "task", ("a",)), stand_in("b", "stubborn", ("t",))], Restart.ALWAYS
    )
    fleet.request()
    wait_for(fleet, lambda: fleet.is_ready)
    pids = [fleet.children[name].pid for name in ("a", "b")]
    fleet.stop(grace_s=0.3)
    assert [Identity.of(pid) for pid in pids] == [None, None]
    assert "signal 15" in fleet.children["a"].trouble


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGCHLD])
def test_children_do_not_inherit_blocked_signals(fleet, stand_in, wait_for, number):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        fleet.follow([stand_in("a")], Restart.NEVER)
        fleet.request()
        wait_for(fleet, lambda: fleet.is_ready)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with open(f"/proc/{fleet.children['a'].pid}/status") as status:
        blocked = next(line for line in status if line.startswith("SigBlk"))
    assert int(blocked.split()[1], 16) == 0
