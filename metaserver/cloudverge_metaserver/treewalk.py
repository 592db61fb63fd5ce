"""What a TREE listing takes in: which folders next, and how much of a reply they use up. Pure.

The budget counts entries, and a second one bytes, so that a reply always fits a frame, however long its names
and symlinks are. Sub-folders are taken breadth first; one that does not fit is left out whole (the mount asks
for it by itself when it needs it), smaller ones after it may still be taken.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cloudverge_protocol.ids import REGION_BYTES, DentryId, InodeId
from cloudverge_protocol.inodes import Dentry, Extents, Inode
from cloudverge_protocol.messages import Folder

BUDGET_MAX: Final = 10_000
REPLY_BYTES: Final = 5 * 1024 * 1024
EXTENTS_AT_MOST: Final = 16  # of a file whose extents come with the listing
_ENTRY_BYTES: Final = 160  # a dentry and its inode on the wire, but for name and target
_EXTENT_BYTES: Final = 32


@dataclass(slots=True)
class Walk:
    """A listing in the making."""

    entries_left: int
    bytes_left: int = REPLY_BYTES
    folders: list[Folder] = field(default_factory=list)
    inodes: dict[InodeId, Inode] = field(default_factory=dict)

    def take_page(self, ino: InodeId, after: DentryId, rows: list[tuple[Dentry, Inode]], more: bool) -> None:
        """The next page of the folder asked for; ``more``: others follow in the database."""
        taken: list[Dentry] = []
        for dentry, inode in rows:
            size = entry_bytes(dentry, inode)
            if taken and size > self.bytes_left:
                more = True
                break
            self._take(inode, size)
            taken.append(dentry)
        self.folders.append(Folder(ino, after, not more, tuple(taken)))

    def take_whole(self, ino: InodeId, rows: list[tuple[Dentry, Inode]]) -> None:
        """A sub-folder, all of it or nothing."""
        sizes = [entry_bytes(dentry, inode) for dentry, inode in rows]
        if sum(sizes) > self.bytes_left or len(rows) > self.entries_left:
            return
        for (_, inode), size in zip(rows, sizes, strict=True):
            self._take(inode, size)
        self.folders.append(Folder(ino, DentryId(0), True, tuple(dentry for dentry, _ in rows)))

    def _take(self, inode: Inode, size: int) -> None:
        self.inodes[inode.ino] = inode
        self.entries_left -= 1
        self.bytes_left -= size

    def next_level(self, listed: Iterable[InodeId]) -> list[Inode]:
        """The sub-folders of the folders ``listed`` last that fit what is left, in order."""
        known, done = set(listed), {folder.ino for folder in self.folders}
        below = (dentry.ino for folder in self.folders if folder.ino in known for dentry in folder.dentries)
        return self.fitting(self.inodes[ino] for ino in below if ino not in done)

    def fitting(self, inodes: Iterable[Inode]) -> list[Inode]:
        """Those of ``inodes`` that are folders and fit what is left, in order."""
        chosen, left = [], self.entries_left
        for inode in inodes:
            if inode.is_dir and inode.entries <= left:
                left -= inode.entries
                chosen.append(inode)
        return chosen


def entry_bytes(dentry: Dentry, inode: Inode) -> int:
    """About how long an entry is on the wire."""
    extents = 2 * _EXTENT_BYTES if inode.size and inode.is_file else 0
    return _ENTRY_BYTES + len(dentry.name) + len(inode.target) + extents


def split_files(inodes: Iterable[Inode]) -> tuple[list[InodeId], list[InodeId]]:
    """Files whose extents are worth looking for, and those that have too many regions for that."""
    few: list[InodeId] = []
    many: list[InodeId] = []
    for inode in inodes:
        if inode.is_file and inode.size:
            (few if inode.size <= EXTENTS_AT_MOST * REGION_BYTES else many).append(inode.ino)
    return few, many


def gather_extents(
    wanted: Iterable[InodeId], regions: Iterable[tuple[InodeId, int, Extents | None]], bytes_left: int
) -> tuple[list[tuple[InodeId, Extents]], list[InodeId]]:
    """Whole extent lists of small files, and the files whose lists must be loaded apart.

    ``regions`` come in order of inode and region; None stands for one with too many extents. A file without
    any region has an empty list.
    """
    found: dict[InodeId, Extents | None] = {}
    for ino, _, extents in regions:
        before = found.get(ino, ())
        whole = None if before is None or extents is None else before + extents
        found[ino] = whole if whole is None or len(whole) <= EXTENTS_AT_MOST else None
    small: list[tuple[InodeId, Extents]] = []
    many: list[InodeId] = []
    for ino in wanted:
        listed = found.get(ino, ())
        size = _EXTENT_BYTES * (1 + len(listed or ()))
        if listed is None or size > bytes_left + 2 * _EXTENT_BYTES:
            many.append(ino)
        else:
            bytes_left -= size - 2 * _EXTENT_BYTES
            small.append((ino, listed))
    return small, many
