"""Fixtures of the fault tests: whole clusters, killed and broken; see ``tests/fixtures/cluster``."""

import pytest

from tests.fixtures.cluster import cluster, lasting_cluster, make_cluster

__all__ = ["cluster", "lasting_cluster", "make_cluster"]

TEST_TIMEOUT_S = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here starts many processes: it is marked, and gets more time than others."""
    for item in items:
        if item.path.is_relative_to(__file__.rpartition("/")[0]):
            item.add_marker(pytest.mark.faults)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))
