"""What reads learn about servers."""

import pytest

from cloudverge_mount.chunkclient import Standing


@pytest.fixture
def standing():
    return Standing()


def test_a_slow_server_is_asked_after_a_quick_one(standing):
    quick = Standing()
    standing.answered(0.5, 100.0)
    quick.answered(0.002, 100.0)
    assert quick.cost(100.1) < standing.cost(100.1)


def test_what_was_slow_is_tried_again_after_a_while(standing):
    standing.answered(0.5, 100.0)
    assert standing.expected_s(400.0) == pytest.approx(Standing().expected_s(400.0))


def test_a_busy_server_costs_more(standing):
    idle = standing.cost(100.0)
    standing.in_flight = 3
    assert standing.cost(100.0) == pytest.approx(4 * idle)


def test_a_server_that_has_just_failed_comes_last(standing):
    slow = Standing()
    slow.answered(10.0, 100.0)
    standing.failed_at = 100.0
    assert standing.cost(101.0) > slow.cost(101.0)
    assert standing.cost(104.0) < slow.cost(104.0)
