"""The rows an operation needs, told before it is run: what a metaserver loads for a batch.

Two rounds, each one query per kind of row::

    keys = named_all(ops)              # rows that the operations name themselves
    dentries = load(keys)
    more = then_all(ops, dentries)     # rows that depend on the names found

After both, everything that ``rules.apply`` reads for those operations, in that order, is at hand or does
not exist, whatever the earlier ones of the batch have done to it. This is proved by test against a set that
refuses to read what was not announced.

``chains`` asks for folders with all their ancestors, as the database has them. For a batch the chain of a
folder that the batch itself makes is that of the place it is made in, so ``then_all`` must see the whole
batch at once; ``named`` and ``then`` are for one operation alone.

Operations that ``rules.check`` refuses name nothing (their numbers must not reach a database).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cloudverge_protocol.errors import Refused
from cloudverge_protocol.ids import REGION_MAX, InodeId, region_of
from cloudverge_protocol.inodes import Dentry
from cloudverge_protocol.operations import (
    RENAME_EXCHANGE,
    ChunkDone,
    CloneRange,
    Create,
    Link,
    Operation,
    PunchHole,
    Reap,
    Removexattr,
    Rename,
    Rmdir,
    Setxattr,
    Truncate,
    Unlink,
    Write,
)
from cloudverge_protocol.rules import check
from cloudverge_protocol.rules.checks import FOLDER, KIND

Name = tuple[InodeId, bytes]
Span = tuple[InodeId, int, int]
_FILE: Final = 0o100000


@dataclass(slots=True)
class Keys:
    """Rows by key; an absent row is nothing to worry about.

    ``spans``: (ino, first, last) means every region of that inode numbered first to last, both included.
    ``orphans``: whether these are orphans of the session. ``chains``: these inodes, their parent, its parent
    and so on up to the root.
    """

    inodes: set[InodeId] = field(default_factory=set)
    dentries: set[Name] = field(default_factory=set)
    spans: set[Span] = field(default_factory=set)
    xattrs: set[InodeId] = field(default_factory=set)
    orphans: set[InodeId] = field(default_factory=set)
    chains: set[InodeId] = field(default_factory=set)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.inodes or self.dentries or self.spans or self.xattrs or self.orphans or self.chains)

    def whole(self, ino: InodeId) -> None:
        """All that ends with an inode: its content and attributes."""
        self.spans.add((ino, 0, REGION_MAX))
        self.xattrs.add(ino)

    def update(self, other: "Keys") -> None:
        """Add all of ``other``."""
        self.inodes |= other.inodes
        self.dentries |= other.dentries
        self.spans |= other.spans
        self.xattrs |= other.xattrs
        self.orphans |= other.orphans
        self.chains |= other.chains


def named(op: Operation) -> Keys:
    """The first round for one operation."""
    return named_all((op,))


def then(op: Operation, found: Mapping[Name, Dentry]) -> Keys:
    """The second round for one operation that runs alone."""
    return then_all((op,), found)


def named_all(ops: Iterable[Operation]) -> Keys:
    """The first round: what the operations of a batch name themselves."""
    keys = Keys()
    for op in ops:
        if _is_possible(op):
            _name(op, keys)
    return keys


def then_all(ops: Iterable[Operation], found: Mapping[Name, Dentry]) -> Keys:
    """The second round: what depends on ``found``, those of the first round's dentries that exist.

    A victim of unlink, rmdir or rename is needed whole, as it may end; a rename that may move a folder to
    another one needs the chain above the place it goes to.
    """
    keys = Keys()
    kinds = {dentry.ino: dentry.kind for dentry in found.values()}
    made: dict[InodeId, InodeId] = {}  # folders that this batch makes, and where
    for op in ops:
        if not _is_possible(op):
            continue
        if isinstance(op, Create):
            kinds.setdefault(op.ino, op.mode & KIND)
            made.setdefault(op.ino, op.parent)
        elif isinstance(op, Unlink | Rmdir):
            _victim(op.ino, kinds, keys)
        elif isinstance(op, Rename):
            _follow_rename(op, kinds, keys)
    for place in tuple(keys.chains):
        while (place := made.get(place, InodeId(0))) and place not in keys.chains:
            keys.chains.add(place)
    return keys


def _is_possible(op: Operation) -> bool:
    try:
        check(op)
    except Refused:
        return False
    return True


def _name(op: Operation, keys: Keys) -> None:
    match op:
        case Create() | Link() | Unlink() | Rmdir():
            keys.inodes.update((op.parent, op.ino))
            if op.name:
                keys.dentries.add((op.parent, op.name))
            if isinstance(op, Link):
                keys.orphans.add(op.ino)
        case Rename():
            keys.inodes.update((op.parent, op.new_parent, op.ino))
            if op.target:
                keys.inodes.add(op.target)
            keys.dentries.update(((op.parent, op.name), (op.new_parent, op.new_name)))
        case CloneRange():
            keys.inodes.update((op.src, op.dst))
            keys.spans.add(_span(op.src, op.src_offset, op.src_offset + op.length))
            keys.spans.add(_span(op.dst, op.dst_offset, op.dst_offset + op.length))
        case Write():
            keys.inodes.add(op.ino)
            for extent in op.extents:
                keys.spans.add(_span(op.ino, extent.offset, extent.end))
            keys.spans.add((op.ino, region_of(op.size), REGION_MAX))
        case Truncate():
            keys.inodes.add(op.ino)
            keys.spans.add((op.ino, region_of(op.size), REGION_MAX))
        case PunchHole():
            keys.inodes.add(op.ino)
            keys.spans.add(_span(op.ino, op.offset, op.offset + op.length))
        case Reap():
            keys.inodes.add(op.ino)
            keys.orphans.add(op.ino)
            keys.whole(op.ino)
        case ChunkDone():
            pass
        case _:  # setattr, setxattr, removexattr
            keys.inodes.add(op.ino)
            if isinstance(op, Setxattr | Removexattr):
                keys.xattrs.add(op.ino)


def _span(ino: InodeId, start: int, end: int) -> Span:
    """The regions that the file range [start, end) meets."""
    return ino, region_of(start), region_of(end - 1)


def _victim(ino: InodeId, kinds: Mapping[InodeId, int], keys: Keys) -> None:
    keys.xattrs.add(ino)
    if kinds.get(ino, _FILE) == _FILE:
        keys.whole(ino)


def _follow_rename(op: Rename, kinds: Mapping[InodeId, int], keys: Keys) -> None:
    """An inode whose kind nobody knows could be a folder, and a file too."""
    exchange = bool(op.flags & RENAME_EXCHANGE)
    if op.target and not exchange and op.target != op.ino:
        _victim(op.target, kinds, keys)
    if op.parent == op.new_parent:
        return
    if kinds.get(op.ino, FOLDER) == FOLDER:
        keys.chains.add(op.new_parent)
    if exchange and kinds.get(op.target, FOLDER) == FOLDER:
        keys.chains.add(op.parent)
