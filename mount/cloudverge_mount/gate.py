"""The gate: while rows are being forgotten and rebuilt, nothing else reads or changes them.

Everybody who runs a rule or reads rows passes here first, just before the synchronous part, so that part
never sees rows half rebuilt. Open nearly always; then passing costs one comparison.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Gate:
    """``closed`` is None while it is open; those who come otherwise wait for the event."""

    def __init__(self) -> None:
        self.closed: trio.Event | None = None
        self._lock = trio.Lock()

    async def passed(self) -> None:
        """Wait until it is open."""
        while self.closed is not None:
            await self.closed.wait()

    @asynccontextmanager
    async def shut(self) -> AsyncIterator[None]:
        """Keep everybody else out."""
        async with self._lock:
            self.closed = event = trio.Event()
            try:
                yield
            finally:
                self.closed = None
                event.set()
