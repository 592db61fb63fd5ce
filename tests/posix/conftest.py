"""Fixtures of real mounts."""

from tests.fixtures.mounts import cluster, new_mount, owned, owned_mount, shared, shared_mount

__all__ = ["cluster", "new_mount", "owned", "owned_mount", "shared", "shared_mount"]
