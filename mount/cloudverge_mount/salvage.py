"""Work that was not shipped when the right to the space was lost: kept for its author, never applied.

A folder below ``recovery`` gets the operations as lines of JSON (``changes.jsonl``) and, under ``files``, the bytes
of each dirty file at its path: those that were written here and not stored, with holes for the rest, which is not
ours any more. Whatever cannot be written is logged; nothing here may keep the caches from being dropped.
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
    dirty = content.dirty_inodes()
    if not (entries or held or dirty):
        return None
    folder = recovery / f"{time.strftime('%Y%m%d-%H%M%S')}-not-shipped"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_changes(folder / "changes.jsonl", entries, held, error)
        for ino in dirty:
            path = folder / "files" / path_of(core.rows, ino)
            _write_dirty(path, content.dirty_pieces(ino))
    except OSError as failure:
        _log.error("not all that was not shipped could be kept", folder=str(folder), error=str(failure))
    return folder


def _write_dirty(path: Path, pieces: Iterable[tuple[int, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        for offset, data in pieces:
            os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def path_of(rows: Rows, ino: InodeId) -> Path:
    """Where the inode is, as far as its names are known here; its number stands for what is not."""
    parts: list[str] = []
    for _ in range(DEPTH_MAX):
        if ino == ROOT_INODE:
            break
        name = _name_of(rows, ino)
        if name is None:
            parts.append(f"inode-{ino}")
            break
        parts.append(os.fsdecode(name.name))
        ino = name.parent
    return Path(*reversed(parts))


def _name_of(rows: Rows, ino: InodeId) -> Dentry | None:
    for changed in (rows.changes.names, rows.being_written.names):
        for names in changed.values():
            for entry in names.values():
                if entry is not None and entry.ino == ino:
                    return entry
    return rows.replica.name_of(ino)
