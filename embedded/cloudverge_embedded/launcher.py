"""What ``cv up`` and ``cv down`` do: settle the settings, start the supervisor or send it a note, wait.

Both hold the up lock, so any number of them may be called at once, on any state of the folder; the second
finds done what the first did. All waiting has a deadline.
"""

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from cloudverge_embedded.atomicfile import read_optional, write_json
from cloudverge_embedded.folder import Folder
from cloudverge_embedded.locks import holder_of, wait_for_lock
from cloudverge_embedded.logs import tail
from cloudverge_embedded.plan import POSTGRES
from cloudverge_embedded.ports import WELL_KNOWN, check_host, settle_ports, still_free
from cloudverge_embedded.report import Report, load_report
from cloudverge_embedded.secretfiles import (
    external_dsn,
    make_secrets,
    new_cluster_id,
    write_dsn,
    write_dsns,
)
from cloudverge_embedded.settings import Settings, Wish, port_names, settle
from cloudverge_embedded.supervisor import Answer, Request, stop_survivors
from cloudverge_protocol.errors import Code, Refused, Unavailable

_LOCK_LIMIT_S = 240.0
_UP_LIMIT_S = 180.0
_DOWN_LIMIT_S = 90.0
_POLL_S = 0.02


def bring_up(root: Path, wish: Wish) -> Report:
    """Have every child of the cluster in ``root`` ready, and tell where they are."""
    folder = Folder(root)
    folder.make()
    with wait_for_lock(folder.up_lock, _LOCK_LIMIT_S):
        supervisor = holder_of(folder.supervisor_lock)
        settle_folder(folder, wish, is_running=supervisor is not None)
        request = Request(secrets.token_hex(8))
        write_json(folder.request_file, request)
        if supervisor is None or not _ask_running(folder, supervisor, request):
            _start_and_ask(folder, request)
        report = load_report(folder)
    if report is None:
        raise Unavailable(Code.INTERNAL, f"the cluster is up, but {folder.cluster_file} cannot be read")
    return report


def bring_down(root: Path) -> bool:
    """Stop the cluster in ``root``; False if it was not running."""
    folder = Folder(root)
    if not folder.settings_file.exists():
        return False
    with wait_for_lock(folder.up_lock, _LOCK_LIMIT_S):
        supervisor = holder_of(folder.supervisor_lock)
        if supervisor is not None:
            _end_supervisor(folder, supervisor)
        stop_survivors(folder)
    return supervisor is not None


def settle_folder(folder: Folder, wish: Wish, is_running: bool) -> None:
    """Bring settings, secrets and ports on disk in line with the wish."""
    old = Settings.load(folder)
    given = external_dsn()
    if old is not None and given and not old.external_database:
        raise Refused(Code.INVALID, f"CLOUDVERGE_DSN is set, but {folder.root} has a PostgreSQL of its own")
    new = settle(old, wish, new_cluster_id(), given is not None)
    if is_running and old is not None:
        _check_same_network(old, new)
    check_host(new.host)
    kept = new.ports if is_running else _worth_keeping(old, new)
    ports = settle_ports(port_names(new), kept, random.SystemRandom(), new.host)
    new = msgspec.structs.replace(new, ports=ports)
    make_secrets(folder)
    if not new.external_database:
        write_dsns(folder, new.ports[POSTGRES])
    elif given:
        for role in ("owner", "auth", "meta"):
            write_dsn(folder, role, given)
    if new != old:
        new.save(folder)


def _check_same_network(old: Settings, new: Settings) -> None:
    """Servers that run do not change how they are reached."""
    if (old.tls, old.listen) == (new.tls, new.listen):
        return
    speaks = "TLS" if old.tls else "plain text"
    raise Refused(
        Code.BUSY,
        f"the cluster runs, speaking {speaks} on {old.host}: unmount what is mounted, stop it with cv down, "
        "then say this again",
    )


def _worth_keeping(old: Settings | None, new: Settings) -> dict[str, int]:
    """The ports to start with again; with another address the well-known ones are looked for first."""
    moved = old is not None and old.listen != new.listen
    ports = {name: port for name, port in new.ports.items() if not (moved and name in WELL_KNOWN)}
    return still_free(ports, new.host)


def _ask_running(folder: Folder, supervisor: int, request: Request) -> bool:
    """Have a running supervisor take the request; False if it ended instead of answering."""
    os.kill(supervisor, signal.SIGUSR1)
    answer = _await_answer(folder, request)
    if answer is not None and answer.error:
        raise Unavailable(Code.UNAVAILABLE, answer.error)
    return answer is not None


def _start_and_ask(folder: Folder, request: Request) -> None:
    """Start a supervisor; if the cluster cannot come up, nothing is left running."""
    process = _launch(folder)
    try:
        answer = _await_answer(folder, request, process)
        if answer is None:
            raise Unavailable(
                Code.UNAVAILABLE, f"the supervisor ended:\n{tail(folder.log_file('supervisor'))}"
            )
        if answer.error:
            raise Unavailable(Code.UNAVAILABLE, answer.error)
    except BaseException:
        if process.poll() is None:
            process.terminate()
            _wait_free(folder, process)
        raise


def _launch(folder: Folder) -> "subprocess.Popen[bytes]":
    log = os.open(folder.log_file("supervisor"), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "cloudverge_embedded.supervisor", str(folder.root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            umask=0o077,
            start_new_session=True,
        )
    finally:
        os.close(log)


def _await_answer(
    folder: Folder, request: Request, process: "subprocess.Popen[bytes] | None" = None
) -> Answer | None:
    """The answer to this request, or None if the supervisor ended without one."""
    deadline = time.monotonic() + _UP_LIMIT_S
    while time.monotonic() < deadline:
        ended = process.poll() is not None if process else holder_of(folder.supervisor_lock) is None
        content = read_optional(folder.answer_file)
        answer = msgspec.json.decode(content, type=Answer) if content else None
        if answer is not None and answer.number == request.number:
            return answer
        if ended:
            return None
        time.sleep(_POLL_S)
    raise Unavailable(
        Code.TIMEOUT,
        f"the cluster was not ready after {_UP_LIMIT_S:.0f} s; see {folder.log_file('supervisor')}",
    )


def _end_supervisor(folder: Folder, supervisor: int) -> None:
    os.kill(supervisor, signal.SIGTERM)
    if not _wait_free(folder):
        os.kill(supervisor, signal.SIGKILL)
        _wait_free(folder)


def _wait_free(folder: Folder, process: "subprocess.Popen[bytes] | None" = None) -> bool:
    deadline = time.monotonic() + _DOWN_LIMIT_S
    while time.monotonic() < deadline:
        ended = process.poll() is not None if process else True
        if ended and holder_of(folder.supervisor_lock) is None:
            return True
        time.sleep(_POLL_S)
    return False
