"""The cache folder: everything a mount keeps on this machine, held by one process at a time.

``cache-id`` names the session to the metaserver, so the same folder takes its own lease over. The lock is a
flock: it goes with the process, however that ends. ``home`` pins the folder to one space of one cluster: another
one's journal must never be shipped into this one.
"""

import fcntl
import os
import secrets
from pathlib import Path
from typing import Final

import platformdirs

from cloudverge_protocol.errors import Code, Denied, NoRoom, Refused

CACHE_ID_BYTES: Final = 16


def default_cache_folder(cluster: str, space: int) -> Path:
    """Where the cache of a space lies when nobody says."""
    return platformdirs.user_cache_path("cloudverge") / f"{cluster[:16]}-{space}"


class CacheFolder:
    """An existing, empty or new folder; ``lock`` before anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fd = -1

    def lock(self) -> bool:
        """Take the folder for this process; False when another one has it."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError as error:
            raise Denied(Code.FORBIDDEN, f"the cache folder {self.path} is not yours: {error}") from None
        except OSError as error:
            raise NoRoom(Code.NO_SPACE, f"the cache folder {self.path} cannot be made: {error}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._lock_fd = fd
        return True

    def unlock(self) -> None:
        """Let the next one have it."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def cache_id(self) -> bytes:
        """The folder's own id, made at the first call."""
        path = self.path / "cache-id"
        known = path.read_bytes() if path.exists() else b""
        if len(known) == CACHE_ID_BYTES:
            return known
        made = secrets.token_bytes(CACHE_ID_BYTES)
        _write_durably(path, made)
        return made

    def belong_to(self, cluster: str, space: int) -> None:
        """Remember whose cache this is; raises Refused when it is another space's."""
        path = self.path / "home"
        home = f"{cluster} {space}\n"
        if not path.exists():
            _write_durably(path, home.encode())
        elif path.read_text() != home:
            raise Refused(
                Code.INVALID,
                f"{self.path} is the cache of another space: name another folder with --cache-dir",
            )


def _write_durably(path: Path, data: bytes) -> None:
    scratch = path.with_suffix(".new")
    with scratch.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
