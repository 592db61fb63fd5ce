"""Folders that will be wanted next: loaded while the reader of a tree is still busy with those before.

A TREE reply names sub-folders that it had no room for. They are kept in the order in which a walk comes to them,
and when somebody opens a folder of the newest reply, the first of them that is still unknown is loaded. So a walk
over a fresh mount is one reply ahead of its reader, and nothing is loaded for somebody who has stopped.

Invariants: at most one reply is under way, and none is asked for before its predecessor has been of use; what is
remembered is bounded.
"""

import stat
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
import trio

from cloudverge_protocol.errors import CloudVergeError
from cloudverge_protocol.ids import InodeId
from cloudverge_protocol.messages import TreeReply

LEFT_MAX: Final = 4_000
ARRIVES_WITHIN_S: Final = 2.0

_log = structlog.get_logger()


class Ahead:
    """``entries_of(ino)``: names in this folder if it is worth loading and not loaded yet, otherwise None."""

    def __init__(self, entries_of: Callable[[int], int | None]) -> None:
        self._entries_of = entries_of
        self._left: list[int] = []  # the next one is last
        self._newest: frozenset[int] = frozenset()
        self._used = trio.Event()
        self._under_way: trio.Event | None = None

    def take(self, ino: int, budget: int) -> list[int]:
        """The folders left that a walk comes to after ``ino``, in order, as many as may fit one reply."""
        try:
            place = len(self._left) - 1 - self._left[::-1].index(ino)
        except ValueError:
            return []
        taken: list[int] = []
        first = place
        while first and budget > 0:
            first -= 1
            entries = self._entries_of(self._left[first])
            if entries is not None:
                taken.append(self._left[first])
                budget -= 1 + entries
        del self._left[first : place + 1]
        return taken

    def took(self, roots: Sequence[int], reply: TreeReply) -> None:
        """A reply to a request for these folders has been put into the rows."""
        left = left_out(roots, reply)[:LEFT_MAX]
        self._left = [*self._left[max(0, len(self._left) + len(left) - LEFT_MAX) :], *reversed(left)]
        self._newest = frozenset(folder.ino for folder in reply.folders)

    def opened(self, ino: int) -> None:
        """Somebody opens a folder."""
        if ino in self._newest:
            self._newest = frozenset()
            self._used.set()

    async def arrived(self) -> None:
        """Wait a little for what is under way: it may be what the caller is missing."""
        if self._under_way is not None:
            with trio.move_on_after(ARRIVES_WITHIN_S):
                await self._under_way.wait()

    async def run(self, load: Callable[[int], Awaitable[None]]) -> None:
        """Load ahead, for ever. ``load(ino)`` loads a folder and what ``take`` gives for it."""
        while True:
            await self._used.wait()
            self._used = trio.Event()
            ino = self._next()
            if ino:
                self._under_way = trio.Event()
                try:
                    await load(ino)
                except CloudVergeError as error:
                    _log.info("a folder could not be loaded ahead", inode=ino, reason=error.message)
                except Exception:  # nobody has asked for it: whoever does will be told
                    _log.exception("loading ahead failed unexpectedly", inode=ino)
                finally:
                    self._under_way.set()
                    self._under_way = None

    def _next(self) -> int:
        while self._left and self._entries_of(self._left[-1]) is None:
            self._left.pop()
        return self._left[-1] if self._left else 0


def left_out(roots: Sequence[int], reply: TreeReply) -> list[int]:
    """The folders at and below ``roots`` that ``reply`` does not list whole, as a walk comes to them. Pure.

    The first root is what was asked for: its own listing may go on elsewhere.
    """
    listed = {folder.ino: folder for folder in reply.folders}
    left: list[int] = []
    todo = list(reversed(roots))
    while todo:
        ino = todo.pop()
        folder = listed.pop(InodeId(ino), None)  # once, whatever the reply says
        if folder is None or not (folder.complete or ino == roots[0]):
            left.append(ino)
        if folder is not None:
            below = [entry.ino for entry in folder.dentries if stat.S_ISDIR(entry.kind)]
            todo.extend(reversed(below))
    return left
