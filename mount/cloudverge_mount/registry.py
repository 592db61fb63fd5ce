"""The mounts of this user: a small file for each in the runtime folder, and the way to its control socket.

The process that serves a mount writes its file when it is mounted and removes it at its end. A file whose process
is gone is stale and removed by whoever finds it. The folder is private (0700): what lies there is trusted.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import platformdirs

from cloudverge_protocol.errors import Code, Refused

SOCKET_PATH_BYTES_MAX = 107


class MountRecord(msgspec.Struct, frozen=True):
    """One mount, as others find it. ``started`` tells the process from a later one with the same pid.

    ``server_url`` or ``cluster_folder``, and ``profile_user`` (empty: who owns that cluster) say whose account it is.
    """

    mountpoint: str
    pid: int
    started: int
    space: str
    cache_dir: str
    socket: str
    server_url: str = ""
    cluster_folder: str = ""
    profile_user: str = ""
    user: str = ""
    space_id: int = 0
    grant: int | None = None
    machine: bool = False  # nobody's account


def start_time(pid: int) -> int:
    """When a process started, in ticks since boot; 0: there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


def is_alive(record: MountRecord) -> bool:
    """Whether the process that wrote this record still runs."""
    return record.started != 0 and start_time(record.pid) == record.started


def _candidates() -> Iterator[Path]:
    """Where records may lie; the environment of those who look need not be that of those who wrote."""
    if os.geteuid() == 0:
        yield Path("/run/cloudverge")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "cloudverge"
    yield Path(f"/run/user/{os.geteuid()}/cloudverge")
    yield platformdirs.user_cache_path("cloudverge") / "run"
    yield Path(tempfile.gettempdir()) / f"cloudverge-{os.geteuid()}"


def _is_private(folder: Path) -> bool:
    found = folder.lstat()
    return found.st_uid == os.geteuid() and not found.st_mode & 0o077 and folder.is_dir()


def runtime_folder() -> Path:
    """The first place where we can keep records and a socket path fits; made if it is not there."""
    for folder in _candidates():
        if len(os.fsencode(folder / "1234567890.sock")) > SOCKET_PATH_BYTES_MAX:
            continue
        try:
            if not folder.parent.is_dir() and "run" in folder.parent.parts[:2]:
                continue  # /run/user/UID is the system's to make
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_private(folder):
                return folder
        except OSError:
            continue
    raise Refused(Code.INVALID, "no private folder for control sockets: set XDG_RUNTIME_DIR to one of yours")


@contextmanager
def registered(record: MountRecord) -> Iterator[None]:
    """Make a mount known for as long as it lasts."""
    path = Path(record.socket).with_suffix(".json")
    scratch = path.with_suffix(".new")
    scratch.write_bytes(msgspec.json.encode(record))
    scratch.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def all_mounts() -> list[MountRecord]:
    """The living mounts of this user, by mountpoint."""
    found = {}
    for folder in _candidates():
        try:
            files = sorted(folder.glob("*.json")) if folder.is_dir() and _is_private(folder) else []
        except OSError:
            continue
        for file in files:
            if (record := _read(file)) is not None:
                found[record.pid] = record
    return sorted(found.values(), key=lambda record: record.mountpoint)


def _read(file: Path) -> MountRecord | None:
    try:
        record = msgspec.json.decode(file.read_bytes(), type=MountRecord)
    except (OSError, msgspec.DecodeError):
        return None
    if is_alive(record):
        return record
    for stale in (file, file.with_suffix(".sock")):
        stale.unlink(missing_ok=True)
    return None


def mount_at(mountpoint: Path) -> MountRecord | None:
    """The living mount at this path."""
    return next((record for record in all_mounts() if record.mountpoint == str(mountpoint)), None)
