"""File locks: the kernel drops them when their holder dies, so none is ever stale."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from cloudverge_protocol.errors import Code, Unavailable

_POLL_S = 0.02


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock, with our pid in the file, or yield False if somebody else does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        mine = _acquire(descriptor)
        if mine:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield mine
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def wait_for_lock(path: Path, limit_s: float) -> Iterator[None]:
    """Hold the lock; TIMEOUT if its holder does not let go in time."""
    deadline = time.monotonic() + limit_s
    while True:
        with try_lock(path) as mine:
            if mine:
                yield
                return
        if time.monotonic() > deadline:
            raise Unavailable(Code.TIMEOUT, f"{path} has been held by another process for {limit_s:.0f} s")
        time.sleep(_POLL_S)


def holder_of(path: Path) -> int | None:
    """The pid of the process holding the lock, or None if it is free."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if _acquire(descriptor):
            return None
        content = os.pread(descriptor, 32, 0).strip()
        return int(content) if content else None
    finally:
        os.close(descriptor)


def _acquire(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
