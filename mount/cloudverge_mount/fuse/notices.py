"""Notifications: what we tell the kernel that it has not asked for. Each is whole, for one write(2) to the device.

The kernel may have nothing to forget: it says so with ENOENT, which is no fault. It takes the locks of the folder or
file meanwhile, so a notification must never be written by who is to answer a request that holds them. Nothing here
knows when a notification is due.
"""

from typing import Final

from cloudverge_mount.fuse import layouts
from cloudverge_mount.fuse.abi import EXPIRE_ONLY, Notify

# Plain numbers, since these are packed often
_INVAL_INODE: Final = int(Notify.INVAL_INODE)
_INVAL_ENTRY: Final = int(Notify.INVAL_ENTRY)
_STORE: Final = int(Notify.STORE)
_DELETE: Final = int(Notify.DELETE)


def inval_inode(ino: int, offset: int = 0, length: int = 0) -> bytes:
    """Forget attributes of an inode, and of its pages those of ``length`` bytes from ``offset`` on.

    A length of 0 or less: up to the end; a negative offset: no page.
    """
    return layouts.INVAL_INODE.pack(layouts.INVAL_INODE.size, _INVAL_INODE, 0, ino, offset, length)


def inval_entry(parent: int, name: bytes, expire: bool = False) -> bytes:
    """Forget a name in a folder; ``expire``: look it up again at its next use, but let go of nothing under it.

    Kernels without HAS_EXPIRE_ONLY forget in either case.
    """
    size = layouts.INVAL_ENTRY.size + len(name) + 1
    flags = EXPIRE_ONLY if expire else 0
    return layouts.INVAL_ENTRY.pack(size, _INVAL_ENTRY, 0, parent, len(name), flags) + name + b"\0"


def delete(parent: int, child: int, name: bytes) -> bytes:
    """A name in a folder is gone, if it was that of ``child``: those who watch it are told."""
    size = layouts.DELETE.size + len(name) + 1
    return layouts.DELETE.pack(size, _DELETE, 0, parent, child, len(name)) + name + b"\0"


def store(ino: int, offset: int, size: int) -> bytes:
    """The header of ``size`` bytes for the pages of a file from ``offset`` on, to be written with them (writev(2))."""
    return layouts.STORE.pack(layouts.STORE.size + size, _STORE, 0, ino, offset, size)
