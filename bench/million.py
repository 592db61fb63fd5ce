#!/usr/bin/env python3
"""million.py --cluster DIR [--user NAME] [--work DIR]: a mount of a space with very many files (see fill_space.py).

What is measured, and what it must be: the mount is ready within 3 s with a cold and with a warm replica; ``ls`` of
a folder of 100,000 entries works; the resident memory of the mount stays below 300 MiB, also after
``find | wc -l`` over everything. Ends with 1 if something is not so.
"""

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

READY_WITHIN_S = 3.0
RSS_MAX_MIB = 300.0
PROGRAMS = Path(sys.executable).parent


class Memory:
    """The highest resident size of a process, looked at all the time."""

    def __init__(self, pid: int) -> None:
        self.peak_mib = 0.0
        self._file = Path(f"/proc/{pid}/status")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def now_mib(self) -> float:
        """VmHWM is not used: it would count what was before."""
        line = next(line for line in self._file.read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.peak_mib = max(self.peak_mib, self.now_mib())


class Checks:
    """Figures, and whether they are as they must be."""

    def __init__(self) -> None:
        self.failed = False

    def note(self, what: str, value: float, unit: str, limit: float = 0.0) -> None:
        """Print a figure; ``limit`` 0: just a figure."""
        bad = bool(limit) and value > limit
        self.failed |= bad
        verdict = f"  limit {limit:g} {'EXCEEDED' if bad else 'kept'}" if limit else ""
        print(f"{what:<48}{value:>12,.2f} {unit}{verdict}", flush=True)


def run(*command: object, **options: object) -> str:
    """A command's stdout; raises when it fails."""
    return subprocess.run(
        list(map(str, command)), check=True, capture_output=True, text=True, **options
    ).stdout


def mount(options: argparse.Namespace, work: Path) -> float:
    """Mount; how long until it was ready."""
    started = time.monotonic()
    run(
        *(PROGRAMS / "cvmount", "--cluster", options.cluster, "--user", options.user),
        *("--cache-dir", work / "cache", work / "mnt"),
    )
    list((work / "mnt").iterdir())
    return time.monotonic() - started


def pid_of(path: Path) -> int:
    """The process that serves a mount."""
    mounts = json.loads(run(PROGRAMS / "cv", "status", "--json"))["mounts"]
    return next(each["pid"] for each in mounts if each["mountpoint"] == str(path))


def walk(checks: Checks, path: Path, how: str) -> None:
    """ls of the largest folder, then find over everything."""
    with Memory(pid_of(path)) as memory:
        checks.note(f"{how}: RSS when mounted", memory.now_mib(), "MiB", RSS_MAX_MIB)
        folder = next(path.glob("**/flat/folder-0"))
        started = time.monotonic()
        entries = len(run("ls", "-U", folder).splitlines())
        checks.note(f"{how}: ls -U of {entries} entries", time.monotonic() - started, "s")
        started = time.monotonic()
        entries = len(run("ls", "-l", folder).splitlines()) - 1
        checks.note(f"{how}: ls -l of {entries} entries", time.monotonic() - started, "s")
        started = time.monotonic()
        found = int(run("sh", "-c", 'find "$1" | wc -l', "sh", path))
        checks.note(f"{how}: find of {found} names", time.monotonic() - started, "s")
        checks.note(f"{how}: RSS afterwards", memory.now_mib(), "MiB", RSS_MAX_MIB)
    checks.note(f"{how}: highest RSS", memory.peak_mib, "MiB", RSS_MAX_MIB)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cluster", type=Path, required=True, help="folder of a running embedded cluster")
    parser.add_argument("--user", default="", help="whose space; as with cvmount")
    parser.add_argument("--work", type=Path, default=Path("/tmp/cv-million"), help="for mountpoint and cache")
    options = parser.parse_args()
    work, checks = options.work.absolute(), Checks()
    shutil.rmtree(work / "cache", ignore_errors=True)
    work.mkdir(exist_ok=True)
    for how in ("cold", "warm"):
        checks.note(f"{how}: mounted and root listed", mount(options, work), "s", READY_WITHIN_S)
        try:
            walk(checks, work / "mnt", how)
        finally:
            run(PROGRAMS / "cvumount", work / "mnt")
    size_mib = sum(file.stat().st_size for file in (work / "cache").rglob("*") if file.is_file()) / 2**20
    checks.note("cache folder", size_mib, "MiB")
    sys.exit(checks.failed)


if __name__ == "__main__":
    main()
