"""The cache folder: everything a mount keeps on this machine, held by one process at a time.

``cache-id`` names the session to the metaserver, so the same folder takes its own lease over. The lock is a
flock: it goes with the process, however that ends. ``home`` pins the folder to what one user may see of one space of
one cluster: another one's journal must never be shipped into this one, nor under this one's name.
"""

import fcntl
import os
import secrets
from pathlib import Path
from typing import Final, NamedTuple

import platformdirs

from cloudverge_protocol.errors import Code, Denied, NoRoom, Refused

CACHE_ID_BYTES: Final = 16


class Home(NamedTuple):
    """What a cache folder is of: a space, or what a grant gives of it, as one user has it."""

    cluster: str
    space: int
    user: str
    grant: int | None = None

    def __str__(self) -> str:
        return f"{self.cluster} {self.space} {self.user} {self.grant or 'whole'}"


def default_cache_folder(home: Home, *, owned: bool) -> Path:
    """Where a cache lies when nobody says. The folder of before, of a space's owner, is used on if it is there."""
    caches = platformdirs.user_cache_path("cloudverge")
    given = f"-grant{home.grant}" if home.grant else ""
    folder = caches / f"{home.cluster[:16]}-{home.space}-{home.user}{given}"
    before = caches / f"{home.cluster[:16]}-{home.space}"
    return before if owned and not given and before.exists() and not folder.exists() else folder


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

    def belong_to(self, home: Home) -> None:
        """Remember whose cache this is; raises Refused when it is another's."""
        path = self.path / "home"
        kept = path.read_text() if path.exists() else ""
        if kept in ("", f"{home.cluster} {home.space}\n"):  # new, or of before users were told apart
            _write_durably(path, f"{home}\n".encode())
        elif kept != f"{home}\n":
            raise Refused(
                Code.INVALID,
                f"{self.path} is the cache of another space or user: name another folder with --cache-dir",
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
