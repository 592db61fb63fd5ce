"""Serve a MemoryFiles at a mountpoint: ``serve.py MOUNTPOINT FAULTS PATIENCE_S BINDING``, until it is unmounted.

FAULTS is a file whose words say what should go wrong: ``raise:OPERATION``, ``hang:OPERATION``. It need not exist.
``ready`` goes to stdout, and at the end a JSON object: the CPU time, the longest time another task had to wait for
its turn, and how often each operation was asked for.
"""

import collections
import contextlib
import functools
import json
import os
import sys
import time
from pathlib import Path

import trio
from memoryfiles import MemoryFiles

from cloudverge_mount import logs
from cloudverge_mount.bindings import make_mount


class Faulty:
    """A file system that fails as the fault file says."""

    def __init__(self, files: MemoryFiles, faults: Path) -> None:
        self._files = files
        self._faults = faults
        self.asked = collections.Counter()

    def __getattr__(self, operation: str):
        return functools.partial(self._run, operation, getattr(self._files, operation))

    async def _run(self, operation, function, *arguments):
        self.asked[operation] += 1
        faults = ""
        with contextlib.suppress(FileNotFoundError):
            faults = self._faults.read_text()
        words = faults.split()
        if f"raise:{operation}" in words:
            raise RuntimeError(f"{operation} was told to fail")
        if f"hang:{operation}" in words:
            await trio.sleep_forever()
        return await function(*arguments)


async def serve(mountpoint: Path, faults: Path, patience_s: float, kind: str) -> None:
    faulty = Faulty(MemoryFiles(os.getuid(), os.getgid()), faults)
    options = {"default_permissions", "fsname=memory"}
    if os.getuid() == 0:
        options |= {"suid", "dev", "allow_other"}
    kernel = make_mount(kind, faulty, mountpoint, options, patience_s)
    kernel.attach()
    print("ready", flush=True)
    started = time.process_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat)
        await kernel.serve()
        nursery.cancel_scope.cancel()
    kernel.detach()
    said = {
        "cpu_s": time.process_time() - started,
        "longest_pause_s": max(PAUSES, default=0.0),
        "asked": faulty.asked,
    }
    print(json.dumps(said), flush=True)


PAUSES: list[float] = []


async def beat() -> None:
    """Measure how long another task of the loop has to wait for its turn."""
    while True:
        before = trio.current_time()
        await trio.sleep(0.01)
        PAUSES.append(trio.current_time() - before - 0.01)


if __name__ == "__main__":
    logs.set_up()
    trio.run(serve, Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
