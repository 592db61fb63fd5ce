"""The oplog as a session confined to a sub-tree may see it: what touches its files, as it looks from inside. Pure.

A move out is a name less, a name made, moved or taken outside a change of the inode; the rest is silence. Which
inodes are inside is told as of now, so ``entries`` must reach until now: what had happened to a folder before it was
moved in would be shown as if it had always been here. Then there is no telling, and the reader has to start afresh
(``Resync``). A file that was given a name here may have been elsewhere until then: what happened to it before is not
shown, and the reader learns of it by that name.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

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


def filtered(entries: Sequence[LogEntry], inside: Collection[InodeId], scope: Scope) -> list[LogEntry]:
    """The entries that touch what is ``inside``, in the numbers of ``scope``; raises Resync.

    An entry that touches two inodes by names outside comes twice, once for each.
    """
    shown: list[LogEntry] = []
    linked: set[InodeId] = set()  # given a name here later than the entry looked at
    for entry in reversed(entries):
        seen = tuple(_seen(entry.op, inside, lambda ino: ino in inside and ino not in linked))
        shown += [replace(entry, op=scope.outward_op(op)) for op in reversed(seen)]
        if isinstance(entry.op, Link) and entry.op.parent in inside:
            linked.add(entry.op.ino)
    return shown[::-1]


def inodes_in(entries: Iterable[LogEntry]) -> set[InodeId]:
    """All inodes that ``filtered`` has to know of."""
    return {ino for entry in entries for ino in inodes_named(entry.op)}


def _seen(
    op: Operation, inside: Collection[InodeId], is_here: Callable[[InodeId], bool]
) -> Iterator[Operation]:
    if isinstance(op, ChunkDone):
        return
    if isinstance(op, Rename):
        yield from _seen_rename(op, inside, is_here)
    elif isinstance(op, CloneRange):
        yield from _touched(op.now_ns, is_here, op.dst)
    elif isinstance(op, Create | Link | Unlink | Rmdir):
        if op.parent in inside and op.name:  # a file without a name is in no folder
            yield op
        else:
            yield from _touched(op.now_ns, is_here, op.ino)
    elif is_here(op.ino):
        yield op


def _seen_rename(
    op: Rename, inside: Collection[InodeId], is_here: Callable[[InodeId], bool]
) -> Iterator[Operation]:
    leaves, arrives = op.parent in inside, op.new_parent in inside
    if leaves and arrives:
        yield op
    elif arrives or (leaves and op.flags):
        raise Resync
    elif leaves:
        yield Unlink(op.parent, op.name, op.ino, False, op.now_ns)
        yield from _touched(op.now_ns, is_here, op.target)
    else:
        yield from _touched(op.now_ns, is_here, op.ino, op.target)


def _touched(now_ns: int, is_here: Callable[[InodeId], bool], *inodes: InodeId) -> Iterator[Setattr]:
    """These have changed, whatever they were."""
    return (Setattr(ino, now_ns) for ino in inodes if is_here(ino))
