"""A PostgreSQL of our own: made once with scram-sha-256 and a generated password, run small, fsync always on.

It listens on loopback only, on no unix socket, and ignores files and variables of the system's PostgreSQL.
As root it runs as an unprivileged user. If that user cannot walk to the data folder, because a folder above
is private, the supervisor opens the folder and passes the descriptor: PostgreSQL then knows its data as
``/proc/self/fd/N/data``, which needs no right on any folder above, and nothing above is opened up for it.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from cloudverge_embedded.accounts import Account, can_reach
from cloudverge_embedded.atomicfile import read_optional
from cloudverge_embedded.binaries import Binaries
from cloudverge_embedded.folder import Folder
from cloudverge_embedded.plan import (
    PASSED_FOLDER,
    POSTGRES,
    POSTGRES_START_LIMIT_S,
    ChildSpec,
    PostmasterFile,
)
from cloudverge_embedded.processes import Identity, stop, working_in
from cloudverge_embedded.secretfiles import ROLES, load_passwords
from cloudverge_embedded.settings import LOOPBACK
from cloudverge_protocol.errors import Code, Unavailable

_INITDB_LIMIT_S = 120
_EVICT_GRACE_S = 10.0

_CONFIGURATION = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",
    "password_encryption": "scram-sha-256",
    "shared_buffers": "96MB",
    "max_wal_size": "512MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "autovacuum_max_workers": "2",
    "autovacuum_naptime": "20s",
    "client_connection_check_interval": "10s",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    "logging_collector": "off",
    "timezone": "UTC",
}


def postgres_spec(folder: Folder, port: int, binaries: Binaries, account: Account | None) -> ChildSpec:
    """How to start the server."""
    direct = account is None or can_reach(folder.postgres, account)
    data = str(folder.postgres_data) if direct else f"{PASSED_FOLDER}/{folder.postgres_data.name}"
    settings = (part for key, value in _CONFIGURATION.items() for part in ("-c", f"{key}={value}"))
    return ChildSpec(
        POSTGRES,
        (binaries.program("postgres"), "-D", data, "-p", str(port), *settings),
        PostmasterFile(folder.postgres_data / "postmaster.pid"),
        folder.log_file(POSTGRES),
        folder.postgres_data,
        account=account,
        environment={"LC_ALL": "C", "TZ": "UTC"},
        shared_folder=None if direct else folder.postgres,
        stop_signal=signal.SIGINT,  # "fast": sessions are cut, everything committed is flushed
        start_limit_s=POSTGRES_START_LIMIT_S,
    )


def create_data_folder(folder: Folder, binaries: Binaries, account: Account | None) -> None:
    """Run initdb, once: under another name, so that a killed initdb leaves nothing that looks finished."""
    folder.postgres.mkdir(mode=0o700, exist_ok=True)
    folder.postgres.chmod(0o700)
    if account is not None:
        os.chown(folder.postgres, account.uid, account.gid)
    if folder.postgres_data.exists():
        return
    new = folder.postgres_data.with_name("data.new")
    shutil.rmtree(new, ignore_errors=True)
    _initdb(folder, new, binaries, account)
    new.rename(folder.postgres_data)


def _initdb(folder: Folder, new: Path, binaries: Binaries, account: Account | None) -> None:
    password = folder.postgres / "initial-password"
    password.write_text(load_passwords(folder)["owner"])
    password.chmod(0o600)
    if account is not None:
        os.chown(password, account.uid, account.gid)
    descriptor = os.open(folder.postgres, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    seen = f"/proc/self/fd/{descriptor}"
    command = [
        binaries.program("initdb"), "-D", f"{seen}/{new.name}", "-U", ROLES["owner"],
        "-A", "scram-sha-256", f"--pwfile={seen}/{password.name}", "--encoding=UTF8", "--locale=C",
    ]  # fmt: skip
    try:
        _run(command, descriptor, account)
    finally:
        password.unlink(missing_ok=True)
        os.close(descriptor)


def _run(command: list[str], descriptor: int, account: Account | None) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            pass_fds=(descriptor,),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            umask=0o077,
            timeout=_INITDB_LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(Code.UNAVAILABLE, f"initdb did not run: {error}") from error
    if done.returncode:
        said = done.stdout.decode(errors="replace")[-2000:]
        raise Unavailable(Code.UNAVAILABLE, f"initdb failed:\n{said}")


def evict_leftovers(data_folder: Path) -> None:
    """End servers that a killed supervisor or postmaster left behind, and forget their lock file.

    The file ``postmaster.pid`` is PostgreSQL's own guard against two servers on one folder. It may be removed
    only when no process works in the folder any more; otherwise its pid may have been given to a stranger
    (after a restart of the machine), and PostgreSQL would refuse to start for ever.
    """
    lock_file = data_folder / "postmaster.pid"
    content = read_optional(lock_file)
    first_line = content.split(b"\n", 1)[0] if content else b""
    postmaster = int(first_line) if first_line.isdigit() else 0
    holders = working_in(data_folder)
    _stop_holders(holders, postmaster)
    if content is not None and not working_in(data_folder):
        lock_file.unlink(missing_ok=True)


def _stop_holders(holders: list[Identity], postmaster: int) -> None:
    if any(holder.pid == postmaster for holder in holders):
        stop([(holder, signal.SIGINT) for holder in holders if holder.pid == postmaster], _EVICT_GRACE_S)
        holders = [holder for holder in holders if holder.is_alive()]
    stop([(holder, signal.SIGQUIT) for holder in holders], _EVICT_GRACE_S)
