"""Which process is which: a pid alone is reused, so a process is known by pid, start time and boot.

Also the leash: what a child does between fork and exec so that it dies with the supervisor.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

import msgspec

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_POLL_S = 0.02


class Identity(msgspec.Struct, frozen=True):
    """One process for all time."""

    pid: int
    started_ticks: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Who ``pid`` is now, or None if nobody (a zombie is nobody)."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat.rpartition(")")[2].split()  # the name before may contain blanks and brackets
        if fields[0] in "ZX":
            return None
        return cls(pid, int(fields[19]), boot_id())

    def is_alive(self) -> bool:
        """True while this very process runs."""
        return Identity.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Signal this process if it still is this process."""
        if self.is_alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass


def boot_id() -> str:
    """Changes with each start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def working_in(folder: Path) -> list[Identity]:
    """All processes whose working folder is ``folder``: of a PostgreSQL data folder, its servers."""
    try:
        wanted = folder.stat()
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            seen = (entry / "cwd").stat()
        except OSError:
            continue  # gone, a kernel thread, or not ours to look at
        if (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino):
            identity = Identity.of(int(entry.name))
            found += [identity] if identity else []
    return found


def stop(processes: Iterable[tuple[Identity, signal.Signals]], grace_s: float) -> None:
    """Ask each to stop by its own signal, wait, then kill what is left."""
    left = [pair for pair in processes if pair[0].is_alive()]
    for identity, number in left:
        identity.send(number)
    if not _wait_gone([identity for identity, _ in left], grace_s):
        for identity, _ in left:
            identity.send(signal.SIGKILL)
        _wait_gone([identity for identity, _ in left], grace_s)


def leash(death_signal: signal.Signals) -> Callable[[], None]:
    """A preexec function: no blocked signals, and ``death_signal`` when the parent dies.

    It runs after the change of user, which would clear the death signal. The supervisor has one thread, so
    Python between fork and exec is safe here.
    """
    parent = os.getpid()

    def bind() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died before prctl could take hold
            os._exit(1)

    return bind


def _wait_gone(identities: list[Identity], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while any(identity.is_alive() for identity in identities):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True
