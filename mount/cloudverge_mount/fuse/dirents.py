"""The reply to READDIR and READDIRPLUS: entries of a folder, until what the kernel has asked for is full.

Entries are padded to 8 bytes, as the kernel steps from one to the next. Every entry has its cookie, from which the
kernel goes on. An entry that does not fit is refused and nothing of it is kept; an empty reply is the folder's end.
Of an entry that was added with ``add_plus`` the kernel counts one lookup, unless its name is '.' or '..'.
"""

from typing import Final

from cloudverge_mount.fuse import layouts
from cloudverge_mount.fuse.replies import Attributes, attributes, span

NAME_MAX: Final = 255
ALIGNMENT: Final = 8
TYPE_SHIFT: Final = 12  # from a mode to a type of d_type

_ENTRIES: Final = [layouts.dirent(padded) for padded in range(0, NAME_MAX + ALIGNMENT, ALIGNMENT)]
_PLUS: Final = [layouts.direntplus(padded) for padded in range(0, NAME_MAX + ALIGNMENT, ALIGNMENT)]
_NOTHING: Final = (0,) * 22  # of an entry_out


class Dirents:
    """Entries in at most ``size`` bytes; names must be of 1 to NAME_MAX bytes."""

    __slots__ = ("_parts", "_room", "_size")

    def __init__(self, size: int) -> None:
        self._size = self._room = size
        self._parts: list[bytes] = []

    def add(self, name: bytes, inode: Attributes, cookie: int) -> bool:
        """Add an entry to a reply to READDIR; False: there is no room for it."""
        form = _ENTRIES[(len(name) + ALIGNMENT - 1) // ALIGNMENT]
        if form.size > self._room:
            return False
        self._room -= form.size
        self._parts.append(form.pack(inode.ino, cookie, len(name), inode.mode >> TYPE_SHIFT, name))
        return True

    def add_plus(
        self, name: bytes, inode: Attributes, cookie: int, entry_valid_s: float, attr_valid_s: float
    ) -> bool:
        """Add an entry with attributes to a reply to READDIRPLUS; False: there is no room for it."""
        form = _PLUS[(len(name) + ALIGNMENT - 1) // ALIGNMENT]
        if form.size > self._room:
            return False
        valid, valid_part = span(entry_valid_s)
        attr_valid, attr_part = span(attr_valid_s)
        shown, length = attributes(inode), len(name)
        ino, kind = shown[0], inode.mode >> TYPE_SHIFT
        times = (valid, attr_valid, valid_part, attr_part)
        self._parts.append(form.pack(ino, 0, *times, *shown, ino, cookie, length, kind, name))
        self._room -= form.size
        return True

    def add_bare(self, name: bytes, inode: Attributes, cookie: int) -> bool:
        """Add an entry without attributes to a reply to READDIRPLUS: no lookup is counted; False: no room."""
        form = _PLUS[(len(name) + ALIGNMENT - 1) // ALIGNMENT]
        if form.size > self._room:
            return False
        shown = (*_NOTHING, inode.ino, cookie, len(name), inode.mode >> TYPE_SHIFT, name)
        self._parts.append(form.pack(*shown))
        self._room -= form.size
        return True

    def reply(self, unique: int) -> bytes:
        """The whole reply."""
        size = layouts.OUT_HEADER.size + self._size - self._room
        return b"".join((layouts.OUT_HEADER.pack(size, 0, unique), *self._parts))
