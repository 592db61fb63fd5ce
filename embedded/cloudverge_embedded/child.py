"""One child process: start it, know when it is ready, notice its end, stop it.

It never decides: when to start again is upkeep's business. All calls return at once but ``prepare`` of a
PostgreSQL, which may first have to end leftovers of a killed one.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cloudverge_embedded.atomicfile import read_optional
from cloudverge_embedded.logs import tail
from cloudverge_embedded.plan import PASSED_FOLDER, ChildSpec, Finished, PostmasterFile, ReadyFile
from cloudverge_embedded.postgres import evict_leftovers
from cloudverge_embedded.processes import Identity, leash
from cloudverge_embedded.upkeep import PROVEN_AFTER_S, Phase, Standing, pause_s

_KILL_LIMIT_S = 10.0  # only a process stuck in the kernel outlives SIGKILL


class _ReadyNote(msgspec.Struct):
    pid: int


class Child:
    """The process of one spec, and its history."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.phase = Phase.DOWN
        self.identity: Identity | None = None
        self.requested = False
        self.trouble: str | None = None  # why the last start failed; None while all is well
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._failures = 0
        self._due_s = 0.0

    @property
    def pid(self) -> int | None:
        """The pid while the process lives."""
        return self._process.pid if self._process else None

    @property
    def standing(self) -> Standing:
        """For upkeep."""
        return Standing(self.spec.name, self.phase, self.spec.needs, self.requested, self._due_s)

    def request(self) -> None:
        """A person wants it up now: no pause, a clean sheet."""
        if self.phase is Phase.DOWN:
            self.requested, self.trouble = True, None
            self._failures, self._due_s = 0, 0.0

    def start(self, now_s: float) -> None:
        """Start the process; an impossible start counts as a failure."""
        self._started_s = now_s
        try:
            self._prepare()
            self._process = _spawn(self.spec)
        except (OSError, subprocess.SubprocessError) as error:
            self._failed(f"{self.spec.name} could not be started: {error}", now_s)
            return
        self.identity = Identity.of(self._process.pid)
        self.phase = Phase.STARTING

    def poll(self, now_s: float) -> None:
        """Look at the process: has it ended, is it ready, has it taken too long?"""
        if self._process is None:
            return
        code = self._process.poll()
        if code is not None:
            self._ended(code, now_s)
        elif self.phase is Phase.STARTING:
            if _is_ready(self.spec, self._process.pid):
                self._became_ready()
            elif now_s > self._started_s + self.spec.start_limit_s:
                self.kill()
                self._failed(f"{self.spec.name} was not ready after {self.spec.start_limit_s:.0f} s", now_s)
        elif now_s > self._started_s + PROVEN_AFTER_S:
            self._failures = 0

    def signal_stop(self) -> None:
        """Ask it to end; ``poll`` notices when it has."""
        if self._process:
            self._process.send_signal(self.spec.stop_signal)

    def kill(self) -> None:
        """End it now and wait for the kernel to have done so."""
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_KILL_LIMIT_S)
            self._process = self.identity = None

    def _prepare(self) -> None:
        ready = self.spec.ready
        if isinstance(ready, ReadyFile):
            ready.path.unlink(missing_ok=True)
        if isinstance(ready, PostmasterFile):
            evict_leftovers(ready.path.parent)
        else:
            self.spec.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _became_ready(self) -> None:
        self.phase, self.requested, self.trouble = Phase.READY, False, None

    def _ended(self, code: int, now_s: float) -> None:
        self._process = self.identity = None
        if isinstance(self.spec.ready, Finished) and code == 0:
            self._became_ready()
            return
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self._failed(f"{self.spec.name} {how}", now_s)

    def _failed(self, what: str, now_s: float) -> None:
        starting = self.phase is not Phase.READY
        self.phase = Phase.DOWN
        self._failures += 1
        self._due_s = now_s + pause_s(self._failures)
        said = tail(self.spec.log)
        self.trouble = f"{what}\n--- {self.spec.log}\n{said}" if said and starting else what


def _is_ready(spec: ChildSpec, pid: int) -> bool:
    match spec.ready:
        case ReadyFile(path):
            content = read_optional(path)
            try:
                return content is not None and msgspec.json.decode(content, type=_ReadyNote).pid == pid
            except msgspec.DecodeError:
                return False
        case PostmasterFile(path):
            lines = (read_optional(path) or b"").split(b"\n")
            return len(lines) > 7 and lines[0] == str(pid).encode() and lines[7].strip() == b"ready"
        case Finished():
            return False


def _spawn(spec: ChildSpec) -> subprocess.Popen[bytes]:
    log = os.open(spec.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    shared = _open_folder(spec.shared_folder)
    account = spec.account
    try:
        return subprocess.Popen(
            _with_folder(spec.argv, shared),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=spec.working_folder,
            env=_environment() | spec.environment,
            pass_fds=shared,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            umask=0o077,
            preexec_fn=leash(spec.stop_signal),
        )
    finally:
        for descriptor in (log, *shared):
            os.close(descriptor)


def _open_folder(folder: Path | None) -> tuple[int, ...]:
    return (os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC),) if folder else ()


def _with_folder(argv: Sequence[str], shared: Sequence[int]) -> list[str]:
    """Put the number of the passed descriptor where the plan left room for it."""
    seen = f"/proc/self/fd/{shared[0]}" if shared else ""
    return [part.replace(PASSED_FOLDER, seen) if seen else part for part in argv]


def _environment() -> dict[str, str]:
    """Our own variables, without those that would turn PostgreSQL or its clients elsewhere."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")}
