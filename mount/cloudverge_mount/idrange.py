"""Inode and dentry ids given to this incarnation: spent one by one, and more asked for before they run out."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from cloudverge_mount.lease import RETRY_S
from cloudverge_protocol.errors import CloudVergeError, Code, Unavailable

REFILL_IDS: Final = 20_000
LOW_IDS: Final = 10_000

_log = structlog.get_logger()


class IdRange:
    """Ids at hand, in the order they were given."""

    def __init__(self) -> None:
        self._ranges: deque[range] = deque()
        self.left = 0

    def add(self, first: int, count: int) -> None:
        """More ids: [first, first + count)."""
        if count > 0:
            self._ranges.append(range(first, first + count))
            self.left += count

    def clear(self) -> None:
        """Forget them all: they were given to another incarnation."""
        self._ranges.clear()
        self.left = 0

    def take(self) -> int:
        """One id, never given out again; raises Unavailable."""
        if not self._ranges:
            raise Unavailable(Code.UNAVAILABLE, "no inode numbers are left until the metaserver answers")
        ids = self._ranges[0]
        if len(ids) == 1:
            self._ranges.popleft()
        else:
            self._ranges[0] = ids[1:]
        self.left -= 1
        return ids[0]


class IdSupply:
    """``ask(count)`` fetches ids; none, when another incarnation has begun meanwhile. Keep ``run`` running."""

    def __init__(self, ask: Callable[[int], Awaitable[range]]) -> None:
        self._ask = ask
        self._ids = IdRange()
        self._refilling = trio.Lock()
        self._low = trio.Event()

    def begin(self, first: int, count: int) -> None:
        """Another incarnation begins, with these."""
        self._ids.clear()
        self._ids.add(first, count)

    def take(self) -> int:
        """One id; raises Unavailable when none is at hand."""
        if self._ids.left <= LOW_IDS:
            self._low.set()
        return self._ids.take()

    async def ensure(self, count: int) -> None:
        """Wait until ``count`` ids are at hand; raises Unavailable."""
        while self._ids.left < count:
            await self._refill(count)

    async def _refill(self, count: int) -> None:
        left = self._ids.left
        async with self._refilling:
            if self._ids.left > left:
                return  # another did it meanwhile
            given = await self._ask(max(count, REFILL_IDS))
            self._ids.add(given.start, len(given))

    async def run(self) -> None:
        """Ask for more whenever few are left; runs until cancelled."""
        while True:
            await self._low.wait()
            self._low = trio.Event()
            try:
                if self._ids.left <= LOW_IDS:
                    await self._refill(REFILL_IDS)
            except CloudVergeError as error:
                _log.info("no fresh ids", reason=error.message)
                await trio.sleep(RETRY_S)
                self._low.set()
