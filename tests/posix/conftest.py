"""Fixtures of real mounts; every test runs with each binding."""

import pytest

from tests.fixtures.mounts import cluster, new_mount, owned, owned_mount, shared, shared_mount

__all__ = ["cluster", "fuse", "new_mount", "owned", "owned_mount", "shared", "shared_mount"]


@pytest.fixture(scope="session", params=["pyfuse3", "direct"])
def fuse(request: pytest.FixtureRequest) -> str:
    """Which binding serves the mounts."""
    return str(request.param)
