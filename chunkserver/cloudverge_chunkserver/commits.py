"""Group commit: everybody who waits for a chunk to be durable shares one fdatasync.

A sync that begins makes durable what the chunk has *then*; who appended afterwards waits for the next one. A
failed sync is final for the chunk: the kernel may have dropped the pages, so a second fdatasync would lie
(I2). The chunk takes no more, and keeps what was durable before.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from cloudverge_chunkserver.chunks import OpenChunk
from cloudverge_chunkserver.disk import Disk, Part, fault_of

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """The threads in which calls that wait for the disk are made."""

    def __init__(self, threads: int = 8) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="disk")

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``call`` in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: call(*args, **kwargs))

    def close(self) -> None:
        """Wait for what is running, and end."""
        self._pool.shutdown(wait=True)


class Commits:
    """The syncs under way, one per chunk at most."""

    def __init__(self, disk: Disk, workers: Workers) -> None:
        self._disk = disk
        self._workers = workers
        self._running: dict[OpenChunk, asyncio.Task[None]] = {}

    def durable_at_once(self, chunk: OpenChunk, length: int) -> bool:
        """Whether ``length`` bytes are durable, or could be made so without waiting for a device."""
        if self._disk.in_memory and chunk.sync_fault is None and (chunk.durable < length or not chunk.named):
            self._sync(chunk, chunk.length, chunk.log_end)
        return chunk.durable >= length and chunk.named

    async def durable(self, chunk: OpenChunk, length: int, log_end: int = 0) -> None:
        """Returns when the first ``length`` bytes (and the log up to ``log_end``) are fsynced, or raises."""
        while chunk.durable < length or chunk.log_durable < log_end or not chunk.named:
            if chunk.sync_fault is not None:
                raise fault_of(chunk.sync_fault, chunk.header.chunk)
            if self._disk.in_memory:
                self._sync(chunk, chunk.length, chunk.log_end)
                continue
            running = self._running.get(chunk)
            if running is None:
                running = self._running[chunk] = asyncio.create_task(self._commit(chunk))
            await asyncio.shield(running)

    async def _commit(self, chunk: OpenChunk) -> None:
        try:
            await self._workers.run(self._sync, chunk, chunk.length, chunk.log_end)
        finally:
            # Not in a done callback: that runs a turn later, and who came in between would find a finished
            # sync, wait for it without yielding, and spin for ever.
            del self._running[chunk]

    def _sync(self, chunk: OpenChunk, length: int, log_end: int) -> None:
        """In a thread: the loop alone changes the chunk, but for these four fields."""
        number = chunk.header.chunk
        try:
            self._disk.sync(number, Part.DATA, Part.LOG)
            if not chunk.named:
                self._disk.sync_names(number)
        except OSError as error:
            chunk.sync_fault = error
            return
        chunk.named = True
        chunk.durable = max(chunk.durable, length)
        chunk.log_durable = max(chunk.log_durable, log_end)
