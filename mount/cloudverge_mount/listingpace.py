"""How many names of a folder are asked for at a time, so that a reply is filled with one question and little is wasted.

The kernel's buffer is of a size in bytes, the file system counts names. What fitted the last time, and a little more,
is asked for the next time; when that was too few, the rest comes in small helpings.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from cloudverge_protocol.inodes import Inode

START: Final = 64
MAX: Final = 2048
SPARE: Final = 8

Names = Sequence[tuple[bytes, Inode, int]]


class ListingPace:
    """Of one binding."""

    def __init__(self) -> None:
        self._names = START

    async def give(
        self,
        names: Callable[[int, int], Awaitable[Names]],
        after: int,
        add: Callable[[bytes, Inode, int], bool],
    ) -> None:
        """``add`` the names after a cookie to a reply, until it takes no more or there are none.

        ``names(after, budget)`` are those after a cookie, at most ``budget``; fewer only if there are no more.
        """
        asked, given = self._names, 0
        while listed := await names(after, asked):
            for name, inode, cookie in listed:
                if not add(name, inode, cookie):
                    self._names = min(MAX, max(START, given + SPARE))
                    return
                after = cookie
                given += 1
            if len(listed) < asked:
                return
            asked = START
