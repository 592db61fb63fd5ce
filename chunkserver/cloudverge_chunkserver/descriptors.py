"""A bounded set of open file descriptors, least recently used first out.

A descriptor in use is never closed under its user: ``acquire`` pins it, ``release`` lets it go. When the
system has none left (EMFILE), the unpinned ones are closed and the open is tried once more. Thread-safe.
"""

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Descriptor:
    """One open file; ``fd`` is valid between acquire and release."""

    __slots__ = ("dropped", "fd", "pins")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.pins = 0
        self.dropped = False  # no longer in the table: the last release closes it


class Descriptors(Generic[K]):
    """At most ``limit`` descriptors stay open while nobody uses them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: OrderedDict[K, Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def acquire(self, key: K, opener: Callable[[], int]) -> Descriptor:
        """The pinned descriptor of ``key``, opened by ``opener`` if it is not open yet."""
        with self._lock:
            held = self._open.get(key)
            if held is None:
                held = self._open[key] = Descriptor(self._opened(opener))
                held.pins = 1
                self._shrink(self._limit)
            else:
                self._open.move_to_end(key)
                held.pins += 1
            return held

    def release(self, held: Descriptor) -> None:
        """The user of ``acquire`` is done."""
        with self._lock:
            held.pins -= 1
            if held.dropped and not held.pins:
                os.close(held.fd)

    def drop(self, key: K) -> None:
        """Forget a file (it was removed or replaced); its descriptor closes after its last user."""
        with self._lock:
            held = self._open.pop(key, None)
            if held is not None:
                self._let_go(held)

    def close(self) -> None:
        """Drop everything."""
        with self._lock:
            for held in self._open.values():
                self._let_go(held)
            self._open.clear()

    def _opened(self, opener: Callable[[], int]) -> int:
        try:
            return opener()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._shrink(0)
            return opener()

    def _shrink(self, limit: int) -> None:
        if len(self._open) <= limit:
            return
        for key in [key for key, held in self._open.items() if not held.pins]:
            self._let_go(self._open.pop(key))
            if len(self._open) <= limit:
                return

    def _let_go(self, held: Descriptor) -> None:
        if held.pins:
            held.dropped = True
        else:
            os.close(held.fd)
