"""What every workload needs: constants, running commands, writing and reading files, the disturbance probe."""

import os
import subprocess
import time
from pathlib import Path

MiB = 1 << 20
GiB = 1 << 30
DATA = Path("/tmp/bench-data")  # downloads, kept
RAM = Path("/dev/shm/fsbench")  # prepared inputs, on tmpfs
TREE = "Django-5.1"
PATIENCE = 3.0  # seconds until two_client gives up on one file


class TooLong(Exception):
    pass


def sh(cmd, **kw):
    """Run a command (a list, or a shell line) and raise with its last words if it fails."""
    r = subprocess.run(
        cmd, shell=isinstance(cmd, str), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw
    )
    if r.returncode:
        last = (r.stderr or r.stdout).strip().splitlines()[-1:] or [""]
        raise RuntimeError(f"{cmd if isinstance(cmd, str) else cmd[0]}: exit {r.returncode}: {last[0][:160]}")
    return r.stdout


def percentile(xs, p):
    xs = sorted(xs)
    return xs[min(len(xs) - 1, int(len(xs) * p / 100))]


def write_file(path, data, fsync=True):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    try:
        for p in range(0, len(data), MiB):
            part = data[p : p + MiB]
            while len(part):
                part = part[os.write(fd, part) :]
        if fsync:
            os.fsync(fd)
    finally:
        os.close(fd)


def read_file(path, expect=None):
    """Read in 1 MiB reads; with expect, also compare.  Returns the number of bytes."""
    buf, n = bytearray(MiB), 0
    fd = os.open(path, os.O_RDONLY)
    try:
        while k := os.readv(fd, [buf]):
            if expect is not None and memoryview(buf)[:k] != expect[n : n + k]:
                raise RuntimeError(f"WRONG DATA read back from {path} near byte {n}")
            n += k
    finally:
        os.close(fd)
    if expect is not None and n != len(expect):
        raise RuntimeError(f"WRONG SIZE read back from {path}: {n} instead of {len(expect)}")
    return n


def spin():
    t = time.perf_counter()
    x = 0
    for i in range(1_000_000):
        x += i & 3
    return round((time.perf_counter() - t) * 1000, 1)
