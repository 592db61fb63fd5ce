"""What can be wrong with an operation by itself, and the readings that every rule begins with.

Operations come from untrusted peers: msgspec has made sure of the types of their fields, nothing more. The
checks here bound every number (so that no row, index or database column ever overflows) and every name.
"""

import stat
from typing import Final

from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import FILE_BYTES_MAX, FIRST_FREE_ID, ID_MAX, NAME_MAX, InodeId
from cloudverge_protocol.inodes import Dentry, Inode
from cloudverge_protocol.workset import WorkingSet

MODE_MAX: Final = 0o177777
PERMISSIONS: Final = 0o7777
OWNER_MAX: Final = (1 << 32) - 2  # 2^32 - 1 means "leave as it is" to chown(2)
RDEV_MAX: Final = (1 << 32) - 1
TIME_MIN_NS: Final = -(1 << 63)
TIME_MAX_NS: Final = (1 << 63) - 1
KIND: Final = stat.S_IFMT(MODE_MAX)
FOLDER: Final = stat.S_IFDIR


def shown(name: bytes) -> str:
    """A name as it may stand in a message: always printable, never long."""
    return ascii(name[:NAME_MAX].decode("utf-8", "backslashreplace"))


def check_name(name: bytes) -> None:
    """Refuse what cannot be a name in a folder."""
    if not name or name == b"." or name == b".." or b"/" in name or b"\0" in name:
        raise Refused(Code.INVALID, f"{shown(name)} cannot be a name")
    if len(name) > NAME_MAX:
        raise Refused(Code.NAME_TOO_LONG, f"a name of {len(name)} bytes, at most {NAME_MAX} are possible")


def check_id(value: int) -> None:
    """Refuse what cannot be the id of anything."""
    if not 0 < value <= ID_MAX:
        raise Refused(Code.INVALID, f"{value} cannot be an id")


def check_new_id(value: int) -> None:
    """Refuse what cannot be the id of something new."""
    if not FIRST_FREE_ID <= value <= ID_MAX:
        raise Refused(Code.INVALID, f"{value} cannot be the id of anything new")


def check_time(value_ns: int) -> None:
    """Refuse times that do not fit 64 bits; before 1970 is fine."""
    if not TIME_MIN_NS <= value_ns <= TIME_MAX_NS:
        raise Refused(Code.INVALID, f"a time of {value_ns} ns is out of range")


def check_mode(mode: int) -> None:
    """Refuse numbers that are no st_mode."""
    if not 0 <= mode <= MODE_MAX:
        raise Refused(Code.INVALID, f"{mode} cannot be a mode")


def check_owner(owner: int) -> None:
    """Refuse numbers that are no uid or gid."""
    if not 0 <= owner <= OWNER_MAX:
        raise Refused(Code.INVALID, f"{owner} cannot own a file")


def check_size(size: int) -> None:
    """Refuse sizes and offsets that no file can have."""
    if size < 0:
        raise Refused(Code.INVALID, f"{size} bytes cannot be")
    if size > FILE_BYTES_MAX:
        raise Refused(Code.FILE_TOO_BIG, f"{size} bytes, a file can have {FILE_BYTES_MAX}")


def with_permissions(inode: Inode, mode: int | None) -> int:
    """The inode's mode with its permission bits from ``mode``, or as it is for None."""
    return inode.mode if mode is None else (inode.mode & KIND) | (mode & PERMISSIONS)


def folder(ws: WorkingSet, ino: InodeId) -> Inode:
    """The folder ``ino``, which must not have been removed."""
    inode = ws.inode(ino)
    if inode is None or inode.nlink == 0:
        raise Refused(Code.NOT_FOUND, f"folder {ino} does not exist any more")
    if inode.mode & KIND != FOLDER:
        raise Refused(Code.NOT_DIR, f"inode {ino} is not a folder")
    return inode


def existing(ws: WorkingSet, ino: InodeId) -> Inode:
    """The inode ``ino``, with or without a name."""
    inode = ws.inode(ino)
    if inode is None:
        raise Refused(Code.STALE, f"inode {ino} does not exist any more")
    return inode


def regular(ws: WorkingSet, ino: InodeId) -> Inode:
    """The regular file ``ino``, with or without a name."""
    inode = existing(ws, ino)
    if not stat.S_ISREG(inode.mode):
        code = Code.IS_DIR if inode.is_dir else Code.INVALID
        raise Refused(code, f"inode {ino} is not a regular file")
    return inode


def named(ws: WorkingSet, parent: InodeId, name: bytes, ino: InodeId) -> Dentry:
    """The dentry ``name`` in ``parent``, which must lead to ``ino``."""
    dentry = ws.dentry(parent, name)
    if dentry is None:
        raise Refused(Code.NOT_FOUND, f"there is no {shown(name)} in folder {parent}")
    if dentry.ino != ino:
        raise Refused(Code.STALE, f"{shown(name)} in folder {parent} is inode {dentry.ino} now, not {ino}")
    return dentry


def absent(ws: WorkingSet, parent: InodeId, name: bytes) -> None:
    """Refuse if ``parent`` has a ``name`` already."""
    if ws.dentry(parent, name) is not None:
        raise Refused(Code.EXISTS, f"{shown(name)} exists in folder {parent}")
