"""The oplog as a session confined to a sub-tree may see it: what touches its files, as it looks from inside. Pure.

A move in is a new name, a move out a name less, a name made or taken outside a change of the inode; the rest is
silence. Which inodes are inside is told as of now, so what had happened to a folder before it was moved in would be
shown as if it had always been here: then there is no telling, and the reader has to start afresh (``Resync``).
"""

from collections.abc import Collection, Iterable

from msgspec.structs import replace

from cloudverge_metaserver.scope import Scope, inodes_named
from cloudverge_protocol.ids import InodeId
from cloudverge_protocol.operations import (
    ChunkDone,
    CloneRange,
    Create,
    Link,
    LogEntry,
    Operation,
    Rename,
    Rmdir,
    Setattr,
    Unlink,
)


class Resync(Exception):
    """The feed cannot tell what happened: the namespace must be read anew."""


def filtered(entries: Iterable[LogEntry], inside: Collection[InodeId], scope: Scope) -> list[LogEntry]:
    """The entries that touch what is ``inside``, in the numbers of ``scope``; raises Resync."""
    shown: list[LogEntry] = []
    for entry in entries:
        op = _seen(entry.op, inside)
        if op is not None:
            shown.append(replace(entry, op=scope.outward_op(op)))
    return shown


def inodes_in(entries: Iterable[LogEntry]) -> set[InodeId]:
    """All inodes that ``filtered`` has to know of."""
    return {ino for entry in entries for ino in inodes_named(entry.op)}


def _seen(op: Operation, inside: Collection[InodeId]) -> Operation | None:
    if isinstance(op, ChunkDone):
        return None
    if isinstance(op, Rename):
        return _seen_rename(op, inside)
    if isinstance(op, CloneRange):
        return _touch(op.dst, op.now_ns) if op.dst in inside else None
    if isinstance(op, Create | Link | Unlink | Rmdir):
        if op.parent in inside:
            return op
        return _touch(op.ino, op.now_ns) if op.ino in inside else None
    return op if op.ino in inside else None


def _seen_rename(op: Rename, inside: Collection[InodeId]) -> Operation | None:
    leaves, arrives = op.parent in inside, op.new_parent in inside
    if leaves and arrives:
        return op
    if arrives or (leaves and op.flags):
        raise Resync
    if leaves:
        return Unlink(op.parent, op.name, op.ino, False, op.now_ns)
    return None


def _touch(ino: InodeId, now_ns: int) -> Setattr:
    """The inode has changed, whatever it was."""
    return Setattr(ino, now_ns)
