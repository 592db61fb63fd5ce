"""``-o auto_unmount``: a process beside the mount that unmounts what the mount leaves when it dies.

It holds the one end of a pipe whose other end dies with the mount, however that dies. fusermount3(1) can do the same
for libfuse, but first looks at the mountpoint and lets it be unless the answer is ENOTCONN; while the kernel still
closes the dead process's files the answer may be another one, and the dead mountpoint stays. We ask the mount table
instead, and unmount what has our device number, whether it is dead yet or not.

Must never unmount what somebody else has mounted there since.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from cloudverge_mount.mountpoints import mounted_at, unmount
from cloudverge_protocol.errors import CloudVergeError

END_WAIT_S: Final = 20.0


class Tie:
    """Ties the mount of ``device`` (MAJOR:MINOR) at ``mountpoint`` to the life of this process."""

    def __init__(self, mountpoint: Path, device: str) -> None:
        self._watcher = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(mountpoint), device],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def release(self) -> None:
        """The mount is gone, or to be unmounted now."""
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._watcher.wait(END_WAIT_S)


def watch(mountpoint: Path, device: str, tie: int) -> None:
    """Wait until nobody holds the other end of ``tie``, then unmount ``device`` if it is still there."""
    while os.read(tie, 4096):
        pass
    there = mounted_at(mountpoint)
    if there is not None and there.device == device:
        with contextlib.suppress(CloudVergeError):
            unmount(mountpoint, lazy=True)


def _main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # what ends the mount is not to end us
    mountpoint, device = sys.argv[1:]
    watch(Path(mountpoint), device, sys.stdin.fileno())


if __name__ == "__main__":
    _main()
