"""The file system behind the binding: one class that satisfies ``filesystem.FileSystem``. (Being built.)"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import trio

from cloudverge_mount.metaclient import MetaClient
from cloudverge_mount.rights import Rights
from cloudverge_mount.sink import Sink


class OwnerPolicy(NamedTuple):
    """Who owns the files: as stored (``preserve``), or all of them this user."""

    preserve: bool
    uid: int
    gid: int


class Vfs:
    """Satisfies ``filesystem.FileSystem``; made by ``open_vfs``."""

    invalidate: Callable[[list[int], list[tuple[int, bytes]]], None] | None = None
    """Set by the process: drop these inodes and names from the kernel's caches (from a thread)."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The background work (shipping, writing the replica, prefetching); runs until cancelled."""
        raise NotImplementedError

    async def sync(self) -> None:
        """Everything done so far is durable and committed."""
        raise NotImplementedError

    def status(self) -> dict[str, Any]:
        """pending_entries, journal_bytes, degraded (list of reasons), set_aside."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Write what memory holds to the replica and close the files; call it after ``run`` has ended."""
        raise NotImplementedError


async def open_vfs(
    cache_dir: Path,
    session: Rights,
    meta: MetaClient,
    make_content: Callable[[Sink], Any],
    owners: OwnerPolicy,
) -> Vfs:
    """Recover what the cache folder holds and make the file system ready; ``make_content(sink)`` makes Content.

    The session must be open. Start ``vfs.run`` (and Content's own tasks) in a nursery afterwards.
    """
    raise NotImplementedError
