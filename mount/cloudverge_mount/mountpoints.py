"""The mountpoint, seen from outside: is something mounted there, is it dead, and how it is unmounted.

The mount table is read from /proc, never by looking at the mountpoint itself: a look is a request to whoever
serves it, and the process that serves would wait for itself.
"""

import errno
import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from cloudverge_protocol.errors import Code, Denied, Refused, Unavailable

MOUNTINFO = Path("/proc/self/mountinfo")
COMMAND_TIMEOUT_S = 20.0


class MountedThere(NamedTuple):
    """One line of the mount table."""

    device: str  # MAJOR:MINOR
    kind: str
    source: str


def parse_mountinfo(text: str, path: Path) -> MountedThere | None:
    """What is mounted at ``path`` on top, according to a mount table. Pure."""
    found = None
    for line in text.splitlines():
        fields, _, tail = line.partition(" - ")
        words, tails = fields.split(), tail.split()
        if len(words) > 4 and len(tails) > 1 and _unescape(words[4]) == str(path):
            found = MountedThere(words[2], tails[0], _unescape(tails[1]))
    return found


def _unescape(text: str) -> str:
    raw = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), os.fsencode(text))
    return os.fsdecode(raw)


def mounted_at(path: Path) -> MountedThere | None:
    """What is mounted at ``path``."""
    return parse_mountinfo(os.fsdecode(MOUNTINFO.read_bytes()), path)


def resolve(path: Path) -> Path:
    """The absolute path of a mountpoint, without looking at what may be mounted there."""
    absolute = Path(os.path.abspath(path.expanduser()))
    return absolute if absolute == absolute.parent else absolute.parent.resolve() / absolute.name


def prepare(path: Path, *, nonempty: bool = False) -> None:
    """Make the mountpoint ready: repaired if it is stale, created if it does not exist.

    Raises Refused when it is no folder, in use by another mount, or, unless ``nonempty``, not empty.
    """
    there = mounted_at(path)
    if there is not None and there.kind.startswith("fuse") and _is_dead(path):
        unmount(path, lazy=True)
        there = mounted_at(path)
    if there is not None and there.kind.startswith("fuse"):
        raise Refused(Code.BUSY, f"{path} is a mountpoint already, of {there.source}")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with os.scandir(path) as entries:
            if any(entries) and not nonempty:
                raise Refused(
                    Code.NOT_EMPTY,
                    f"{path} is not empty, a mount would hide that: -o nonempty if you mean it",
                )
    except FileExistsError:
        raise Refused(Code.NOT_DIR, f"{path} is not a folder") from None
    except PermissionError as error:
        raise Denied(Code.FORBIDDEN, f"{path} cannot be a mountpoint: {error.strerror}") from None


def _is_dead(path: Path) -> bool:
    """Whether whoever served ``path`` is gone: "Transport endpoint is not connected". (stat may be cached.)"""
    try:
        os.statvfs(path)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def unmount_command(path: Path, *, lazy: bool) -> list[str]:
    """The command that unmounts ``path`` for this user."""
    if os.geteuid() == 0:
        return ["umount", *(["-l"] if lazy else []), "--", str(path)]
    return ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(path)]


def unmount(path: Path, *, lazy: bool = False) -> None:
    """Unmount ``path``; raises Refused(BUSY) while something in it is in use."""
    try:
        ended = subprocess.run(
            unmount_command(path, lazy=lazy),
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            Code.TIMEOUT, f"unmounting {path} took longer than {COMMAND_TIMEOUT_S:g} s"
        ) from None
    except FileNotFoundError as error:
        raise Unavailable(Code.UNAVAILABLE, f"{error.filename} is not installed") from None
    if ended.returncode:
        said = ended.stderr.strip() or f"exit code {ended.returncode}"
        code = Code.BUSY if "busy" in said.lower() else Code.NOT_PERMITTED
        raise Refused(code, f"{path} cannot be unmounted: {said}")
