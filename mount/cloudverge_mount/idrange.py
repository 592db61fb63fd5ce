"""Inode and dentry ids given to this incarnation, spent one by one. No I/O."""

from collections import deque
from typing import Final

from cloudverge_protocol.errors import Code, Unavailable

REFILL_IDS: Final = 20_000
LOW_IDS: Final = 10_000


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
