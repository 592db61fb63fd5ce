"""The process that keeps one cluster running: ``python -m cloudverge_embedded.supervisor FOLDER``.

One thread, one loop: wait for a signal or a moment, look at the children, start what is due, write down what
changed. SIGUSR1 means "read the request": the settings may have changed, and all children shall be up.
SIGTERM stops everything. It holds the supervisor lock while it lives, and the children die with it, so there
are never two sets of servers on one folder. It must never wait for a child outside of ``signal.sigtimedwait``.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import msgspec
import structlog

from cloudverge_embedded.accounts import postgres_account
from cloudverge_embedded.atomicfile import read_optional, write_json
from cloudverge_embedded.binaries import find_binaries
from cloudverge_embedded.certificates import ensure_certificates
from cloudverge_embedded.fleet import Fleet
from cloudverge_embedded.folder import Folder
from cloudverge_embedded.locks import wait_for_lock
from cloudverge_embedded.logs import turn_over
from cloudverge_embedded.plan import POSTGRES, ChildSpec, server_plan
from cloudverge_embedded.postgres import create_data_folder, evict_leftovers, postgres_spec
from cloudverge_embedded.processes import Identity, stop
from cloudverge_embedded.report import Report, build_report, keep_endpoints, load_report, save_report
from cloudverge_embedded.secretfiles import read_dsn
from cloudverge_embedded.settings import Settings
from cloudverge_embedded.upkeep import Phase
from cloudverge_protocol.errors import CloudVergeError, Code, Unavailable

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
_LOCK_LIMIT_S = 5.0
_STOP_GRACE_S = 15.0
_BUSY_TICK_S = 0.02
_RESTART_TICK_S = 0.2
_IDLE_TICK_S = 1.0
_LOGS_EVERY_S = 5.0
_CERTIFICATES_EVERY_S = 6 * 3600.0

log = structlog.get_logger("supervisor")


class Request(msgspec.Struct):
    """A note of ``cv up``."""

    number: str


class Answer(msgspec.Struct):
    """What became of the request with that number; no error means that all children are ready."""

    number: str
    error: str | None = None


class Survivor(msgspec.Struct):
    """A child, for whoever finds the supervisor killed."""

    name: str
    identity: Identity
    stop_signal: int


class Supervisor:
    """The loop and its notes; the children are the fleet's."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._fleet = Fleet()
        self._settings: Settings | None = None
        self._pending: str | None = None
        self._fault: str | None = None  # why the pending request cannot even be planned
        self._report: Report | None = None
        self._phases: dict[str, Phase] = {}
        self._logs_due_s = 0.0
        self._certificates_due_s = time.monotonic() + _CERTIFICATES_EVERY_S

    def run(self) -> None:
        """Until SIGTERM."""
        stop_survivors(self._folder)
        self._take_request()
        while True:
            received = signal.sigtimedwait(SIGNALS, self._tick_s())
            number = received.si_signo if received else 0
            if number in (signal.SIGTERM, signal.SIGINT):
                break
            if number == signal.SIGUSR1:
                self._take_request()
            self._fleet.tick(time.monotonic())
            with contextlib.suppress(OSError):  # a full disk: the notes are written when there is room again
                self._note_changes()
                self._answer()
            self._turn_logs_over()
            self._renew_certificates()
        self._stop()

    def _tick_s(self) -> float:
        if self._pending or self._fleet.is_starting:
            return _BUSY_TICK_S
        return _IDLE_TICK_S if self._fleet.is_ready else _RESTART_TICK_S

    def _take_request(self) -> None:
        content = read_optional(self._folder.request_file)
        self._pending = msgspec.json.decode(content, type=Request).number if content else None
        self._fault = None
        try:
            self._settings, specs = load_plan(self._folder)
        except (CloudVergeError, OSError) as error:
            self._fault = str(error)
            return
        self._fleet.follow(specs, self._settings.restart)
        self._fleet.request()

    def _answer(self) -> None:
        if self._pending is None:
            return
        if self._fault:
            self._reply(self._fault)
        elif self._fleet.is_ready:
            self._reply(None)
        elif self._fleet.troubles:
            self._reply("\n".join(self._fleet.troubles))
            self._fleet.give_up()

    def _reply(self, error: str | None) -> None:
        if self._pending is not None:
            write_json(self._folder.answer_file, Answer(self._pending, error))
        self._pending = None

    def _note_changes(self) -> None:
        """Log, and rewrite the files, when a child has come or gone."""
        for name, child in self._fleet.children.items():
            if self._phases.get(name) is not child.phase:
                self._phases[name] = child.phase
                log.warning("child", name=name, phase=child.phase.name, pid=child.pid, trouble=child.trouble)
        pids = {name: child.pid for name, child in self._fleet.children.items()}
        self._publish(pids, os.getpid())

    def _publish(self, pids: dict[str, int | None], supervisor: int | None) -> None:
        if self._settings is None:
            return
        specs = [child.spec for child in self._fleet.children.values()]
        report = build_report(self._settings, read_dsn(self._folder, "owner"), specs, pids, supervisor)
        if report == self._report:
            return
        save_survivors(self._folder, self._fleet)
        older = load_report(self._folder) if self._report else None
        save_report(self._folder, keep_endpoints(report, older) if older else report)
        self._report = report

    def _turn_logs_over(self) -> None:
        if time.monotonic() >= self._logs_due_s:
            self._logs_due_s = time.monotonic() + _LOGS_EVERY_S
            for path in self._folder.logs.glob("*.log"):
                turn_over(path)

    def _renew_certificates(self) -> None:
        """A cluster may run for years; its servers take a renewed certificate in by themselves."""
        if self._settings is None or not self._settings.tls or time.monotonic() < self._certificates_due_s:
            return
        self._certificates_due_s = time.monotonic() + _CERTIFICATES_EVERY_S
        try:
            renewed = ensure_certificates(self._folder, self._settings)
        except (CloudVergeError, OSError) as error:
            log.error("certificates cannot be renewed", why=str(error))
        else:
            if renewed:
                log.warning("certificates renewed", servers=renewed)

    def _stop(self) -> None:
        log.warning("stopping")
        self._fleet.stop(_STOP_GRACE_S)
        self._publish({}, None)


def load_plan(folder: Folder) -> tuple[Settings, list[ChildSpec]]:
    """The settings, and the children they call for; makes what these need: certificates, PostgreSQL's folder."""
    settings = Settings.load(folder)
    if settings is None:
        raise Unavailable(Code.UNAVAILABLE, f"{folder.root} holds no cluster; cv up makes one")
    if settings.tls:
        ensure_certificates(folder, settings)
    specs = server_plan(folder, settings, sys.executable)
    if settings.external_database:
        return settings, specs
    account = postgres_account(folder.postgres)
    binaries = find_binaries(folder.postgres_data, account)
    create_data_folder(folder, binaries, account)
    return settings, [postgres_spec(folder, settings.ports[POSTGRES], binaries, account), *specs]


def save_survivors(folder: Folder, fleet: Fleet) -> None:
    """Note who would survive us."""
    survivors = [
        Survivor(name, child.identity, int(child.spec.stop_signal))
        for name, child in fleet.children.items()
        if child.identity
    ]
    write_json(folder.children_file, survivors)


def stop_survivors(folder: Folder) -> None:
    """End what a killed supervisor left running, so that nothing runs twice on one folder."""
    content = read_optional(folder.children_file)
    if content:
        survivors = msgspec.json.decode(content, type=list[Survivor])
        stop([(one.identity, signal.Signals(one.stop_signal)) for one in survivors], _STOP_GRACE_S)
        folder.children_file.unlink()
    evict_leftovers(folder.postgres_data)


def main(arguments: list[str]) -> None:
    """Entry point of the supervisor process."""
    structlog.configure(
        processors=[structlog.processors.TimeStamper(fmt="iso"), structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    folder = Folder(Path(arguments[0]))
    with wait_for_lock(folder.supervisor_lock, _LOCK_LIMIT_S):
        Supervisor(folder).run()


if __name__ == "__main__":
    main(sys.argv[1:])
