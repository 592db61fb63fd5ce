"""The numbers of inodes as a session confined to a sub-tree sees them. Pure.

Its root is inode 1 to it, in everything it is told and everything it says, so a mount needs no notion of a root
elsewhere. The other way round there is no number by which it could name what is above: 1 means its own root, and
the real number of its root means nothing (``NOTHING``, an id that no inode ever has).

This hides, it does not protect: whether an inode lies below the root is asked of the database (``subtree``).
"""

import re
from collections.abc import Iterable
from typing import Final, TypeVar

from msgspec.structs import replace

from cloudverge_protocol.ids import ID_MAX, ROOT_INODE, InodeId
from cloudverge_protocol.inodes import Dentry, Inode
from cloudverge_protocol.messages import Folder
from cloudverge_protocol.operations import Operation, Rename

NOTHING: Final = InodeId(ID_MAX)
_NUMBERS: Final = re.compile(
    r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|\d+"""
)  # but not in quoted names
_FIELDS: Final = ("parent", "ino", "new_parent", "src", "dst")

Op = TypeVar("Op", bound=Operation)


def inodes_named(op: Operation) -> list[InodeId]:
    """The inodes an operation names, those it makes included; a rename's absent target is none."""
    found = [getattr(op, field) for field in _FIELDS if hasattr(op, field)]
    if isinstance(op, Rename) and op.target:
        found.append(op.target)
    return found


class Scope:
    """Translation for the sub-tree below ``root``; for a whole space it changes nothing."""

    def __init__(self, root: InodeId) -> None:
        self.root = root
        self._is_whole = root == ROOT_INODE

    def inward(self, ino: InodeId) -> InodeId:
        """What the session means by this number."""
        if self._is_whole:
            return ino
        if ino == ROOT_INODE:
            return self.root
        return NOTHING if ino == self.root else ino

    def outward(self, ino: InodeId) -> InodeId:
        """The number by which the session knows this inode."""
        return ROOT_INODE if ino == self.root else ino

    def words(self, text: str) -> str:
        """A message to be shown: where it names the root, or what means nothing, the number that the session said."""
        if self._is_whole:
            return text
        said = {str(self.root): str(ROOT_INODE), str(NOTHING): str(self.root)}
        return _NUMBERS.sub(lambda found: said.get(found[0], found[0]), text)

    def inward_op(self, op: Op) -> Op:
        """An operation as it is meant."""
        if self._is_whole:
            return op
        changes = {field: self.inward(getattr(op, field)) for field in _FIELDS if hasattr(op, field)}
        if isinstance(op, Rename) and op.target:
            changes["target"] = self.inward(op.target)
        return replace(op, **changes)

    def outward_op(self, op: Op) -> Op:
        """An operation to be shown."""
        if self._is_whole:
            return op
        changes = {field: self.outward(getattr(op, field)) for field in _FIELDS if hasattr(op, field)}
        if isinstance(op, Rename) and op.target:
            changes["target"] = self.outward(op.target)
        return replace(op, **changes)

    def inode(self, inode: Inode) -> Inode:
        """A row to be shown; what the root lies in is not."""
        if self._is_whole:
            return inode
        if inode.ino == self.root:
            return replace(inode, ino=ROOT_INODE, parent=ROOT_INODE)
        return replace(inode, parent=ROOT_INODE) if inode.parent == self.root else inode

    def dentry(self, dentry: Dentry) -> Dentry:
        """A row to be shown."""
        if self._is_whole or dentry.parent != self.root:
            return dentry
        return replace(dentry, parent=ROOT_INODE)

    def folder(self, folder: Folder) -> Folder:
        """A listing to be shown."""
        if self._is_whole or folder.ino != self.root:
            return folder
        return Folder(ROOT_INODE, folder.after, folder.complete, self.dentries(folder.dentries))

    def inodes(self, inodes: Iterable[Inode]) -> tuple[Inode, ...]:
        """Rows to be shown."""
        return tuple(self.inode(inode) for inode in inodes)

    def dentries(self, dentries: Iterable[Dentry]) -> tuple[Dentry, ...]:
        """Rows to be shown."""
        return tuple(self.dentry(dentry) for dentry in dentries)
