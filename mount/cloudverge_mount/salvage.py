"""Work that was not shipped when the right to the space was lost: kept for its author, never applied.

A folder below ``recovery`` gets the operations as lines of JSON (``changes.jsonl``) and, under ``files``, the bytes
of each file that were written here and are not known to be committed, at its path, with holes for the rest, which
is not ours any more. Names came from a server: none leads out of that folder. What cannot be written is logged,
and keeps neither the other files from being written nor the caches from being dropped.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import structlog

from cloudverge_mount.aside import write_changes
from cloudverge_mount.content import Content
from cloudverge_mount.core import Core
from cloudverge_mount.outbox import entry_of
from cloudverge_mount.rows import Rows
from cloudverge_protocol.errors import CloudVergeError
from cloudverge_protocol.ids import ROOT_INODE, InodeId
from cloudverge_protocol.inodes import Dentry

_log = structlog.get_logger()

DEPTH_MAX: Final = 256


def salvage(core: Core, content: Content, recovery: Path, error: CloudVergeError) -> Path | None:
    """Keep what was not shipped; the folder it lies in, or None if there was nothing."""
    entries = [entry_of(item) for item in core.ledger.outbox]
    held = list(core.holding.held.values())
    unstored = content.unstored_inodes()
    if not (entries or held or unstored):
        return None
    folder = recovery / f"{time.strftime('%Y%m%d-%H%M%S')}-not-shipped"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_changes(folder / "changes.jsonl", entries, held, error)
    except OSError as failure:
        _log.error("changes that were not shipped could not be kept", folder=str(folder), error=str(failure))
    paths = Paths(core.rows, unstored)
    for ino in unstored:
        keep(folder / "files", paths.of(ino), ino, content.unstored_pieces(ino))
    return folder


def keep(folder: Path, path: Path, ino: InodeId, pieces: Iterable[tuple[int, bytes]]) -> None:
    """Write the bytes of a file to ``path`` below ``folder``, or under its number where that cannot be."""
    try:
        try:
            fd = _create(folder / path)
        except OSError:  # too long, or another file is there
            fd = _create(folder / f"inode-{ino}")
        try:
            for offset, data in pieces:
                os.pwrite(fd, data, offset)
        finally:
            os.close(fd)
    except OSError as failure:
        _log.error(
            "a file that was not shipped could not be kept", ino=ino, path=str(path), error=str(failure)
        )


def _create(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


class Paths:
    """Where inodes are, as far as their names are known here; numbers stand for what is not, or is no name."""

    def __init__(self, rows: Rows, inos: Iterable[InodeId]) -> None:
        self._names: dict[int, Dentry] = {}
        for changes in (rows.being_written, rows.changes):
            for names in changes.names.values():
                self._names |= {int(entry.ino): entry for entry in names.values() if entry is not None}
        level = set[int](inos)
        for _ in range(DEPTH_MAX):
            level.discard(ROOT_INODE)
            if not level:
                break
            self._names |= rows.replica.names_of(level - self._names.keys())
            level = {int(self._names[ino].parent) for ino in level if ino in self._names}

    def of(self, ino: InodeId) -> Path:
        """The path of ``ino``: relative, and without steps up."""
        parts: list[str] = []
        at = ino
        while at != ROOT_INODE and len(parts) < DEPTH_MAX:
            entry = self._names.get(at)
            if entry is None:
                parts.append(f"inode-{at}")
                break
            parts.append(os.fsdecode(entry.name) if _is_a_name(entry.name) else f"inode-{at}")
            at = entry.parent
        return Path(*reversed(parts or [f"inode-{ino}"]))


def _is_a_name(name: bytes) -> bool:
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name
