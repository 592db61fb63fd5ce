"""Open files and folders, and which inodes must outlive their names because of them.

An inode is *kept* while it is open, or pinned: pinned are unlinked files whose bytes a held operation waits
for. The last release of an inode that has lost its names is told to the owner, who reaps it.
"""

from math import inf

from cloudverge_mount.replica import Listed
from cloudverge_protocol.errors import Code, Refused


class FileHandle:
    """An open file; ``uid``: who opened it (writes by others than root clear setuid bits)."""

    __slots__ = ("append", "ino", "uid", "writable")

    def __init__(self, ino: int, uid: int, append: bool, writable: bool) -> None:
        self.ino = ino
        self.uid = uid
        self.append = append
        self.writable = writable


class FolderHandle:
    """An open folder and the names after cookie ``start``, as far as they were fetched; valid while ``epoch`` is.

    ``end``: the last cookie there is, if somebody has come to it.
    """

    __slots__ = ("end", "epoch", "ino", "page", "start")

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.page: list[Listed] = []
        self.start = 0
        self.epoch = -1
        self.end: float = inf


class Handles:
    """All of them, by file handle number."""

    def __init__(self) -> None:
        self._files: dict[int, FileHandle] = {}
        self._folders: dict[int, FolderHandle] = {}
        self._opens: dict[int, int] = {}
        self._pinned: set[int] = set()
        self._linkable: set[int] = set()  # open files that never had a name and may be given one
        self._next = 0

    def __len__(self) -> int:
        return len(self._files) + len(self._folders)

    def inodes(self) -> set[int]:
        """All that are open."""
        return set(self._opens)

    def keeps(self, ino: int) -> bool:
        """Whether this inode must outlive its last name."""
        return ino in self._opens

    def open_file(self, ino: int, uid: int, append: bool, writable: bool) -> int:
        """A new handle of a file."""
        self._next += 1
        self._files[self._next] = FileHandle(ino, uid, append, writable)
        self._opens[ino] = self._opens.get(ino, 0) + 1
        return self._next

    def open_folder(self, ino: int) -> int:
        """A new handle of a folder."""
        self._next += 1
        self._folders[self._next] = FolderHandle(ino)
        self._opens[ino] = self._opens.get(ino, 0) + 1
        return self._next

    def file(self, fh: int) -> FileHandle:
        """The open file behind a handle."""
        try:
            return self._files[fh]
        except KeyError:
            raise Refused(Code.BAD_HANDLE, f"there is no open file {fh}") from None

    def folder(self, fh: int) -> FolderHandle:
        """The open folder behind a handle."""
        try:
            return self._folders[fh]
        except KeyError:
            raise Refused(Code.BAD_HANDLE, f"there is no open folder {fh}") from None

    def close_file(self, fh: int) -> int:
        """Give up a handle; the inode if it is not kept any more, else 0."""
        return self._let_go(self._files.pop(fh).ino) if fh in self._files else 0

    def close_folder(self, fh: int) -> int:
        """The same for a folder."""
        return self._let_go(self._folders.pop(fh).ino) if fh in self._folders else 0

    def allow_link(self, ino: int, allowed: bool) -> None:
        """Whether this open file without a name may be given one; until it is closed."""
        if allowed and ino in self._opens:
            self._linkable.add(ino)
        else:
            self._linkable.discard(ino)

    def may_link(self, ino: int) -> bool:
        """Whether linkat(2) may give a name to this file, should it have none."""
        return ino in self._linkable

    def pin(self, ino: int) -> None:
        """Keep an inode until ``unpin``."""
        if ino not in self._pinned:
            self._pinned.add(ino)
            self._opens[ino] = self._opens.get(ino, 0) + 1

    def unpin(self, ino: int) -> int:
        """Give up a pin if there is one; the inode if it is not kept any more, else 0."""
        if ino not in self._pinned:
            return 0
        self._pinned.discard(ino)
        return self._let_go(ino)

    def _let_go(self, ino: int) -> int:
        left = self._opens[ino] - 1
        if left:
            self._opens[ino] = left
            return 0
        del self._opens[ino]
        self._linkable.discard(ino)
        return ino
