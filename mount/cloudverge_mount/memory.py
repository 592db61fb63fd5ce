"""The process's memory: told to give back what it no longer uses, and not to look for garbage too often."""

import ctypes
import gc
from typing import Final

import trio

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
ARENAS: Final = 2  # threads write the replica and the disk cache; each arena keeps memory for itself
TRIM_THRESHOLD_BYTES: Final = 64 * 1024 * 1024
# Buffers of writes, reads and frames (128 KiB to 4 MiB) come from the heap: mapped one by one, as glibc would,
# each costs page faults for all of it, which halves the speed of streams.
MMAP_THRESHOLD_BYTES: Final = 8 * 1024 * 1024
TRIM_EVERY_S: Final = 20.0
YOUNG_OBJECTS: Final = 20_000  # before the collector looks; most of our values are not tracked at all


def tune_allocator() -> None:
    """Bound the allocator's appetite; call before threads start. Does nothing where libc is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, ARENAS)
        mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)


def settle() -> None:
    """Everything loaded so far is here to stay: the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)


async def trim_now_and_then() -> None:
    """Give free memory back to the system; runs until cancelled."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await trio.sleep(TRIM_EVERY_S)
        await trio.to_thread.run_sync(trim, 0)
