"""Rules of attributes: setattr, setxattr, removexattr.

They hold for inodes without a name too, for as long as those exist (fchmod of an unlinked file).
"""

import stat

from msgspec.structs import replace

from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import XATTR_NAME_MAX, XATTR_TOTAL_MAX, XATTR_VALUE_MAX
from cloudverge_protocol.operations import XATTR_CREATE, XATTR_REPLACE, Removexattr, Setattr, Setxattr
from cloudverge_protocol.rules.checks import (
    check_id,
    check_mode,
    check_owner,
    check_time,
    existing,
    shown,
    with_permissions,
)
from cloudverge_protocol.workset import WorkingSet


def check_setattr(op: Setattr) -> None:
    check_id(op.ino)
    check_time(op.now_ns)
    if op.mode is not None:
        check_mode(op.mode)
    for owner in (op.uid, op.gid):
        if owner is not None:
            check_owner(owner)
    for time_ns in (op.atime_ns, op.mtime_ns):
        if time_ns is not None:
            check_time(time_ns)


def setattr(op: Setattr, ws: WorkingSet) -> None:
    """Mode, owner and times; a symlink has no mode of its own to change."""
    inode = existing(ws, op.ino)
    if op.mode is not None and stat.S_ISLNK(inode.mode):
        raise Refused(Code.NOT_SUPPORTED, f"the mode of a symlink (inode {op.ino}) cannot be changed")
    ws.put_inode(
        replace(
            inode,
            mode=with_permissions(inode, op.mode),
            uid=inode.uid if op.uid is None else op.uid,
            gid=inode.gid if op.gid is None else op.gid,
            atime_ns=inode.atime_ns if op.atime_ns is None else op.atime_ns,
            mtime_ns=inode.mtime_ns if op.mtime_ns is None else op.mtime_ns,
            ctime_ns=op.now_ns,
        )
    )


def _check_attribute(op: Setxattr | Removexattr) -> None:
    check_id(op.ino)
    check_time(op.now_ns)
    if not op.name or b"\0" in op.name:
        raise Refused(Code.INVALID, f"{shown(op.name)} cannot be the name of an attribute")
    if len(op.name) > XATTR_NAME_MAX:
        raise Refused(Code.NAME_TOO_LONG, f"an attribute's name of {len(op.name)} bytes")


def check_setxattr(op: Setxattr) -> None:
    _check_attribute(op)
    if not 0 <= op.flags <= XATTR_CREATE | XATTR_REPLACE:
        raise Refused(Code.INVALID, f"{op.flags} are no flags of setxattr")
    if len(op.value) > XATTR_VALUE_MAX:
        raise Refused(
            Code.TOO_BIG,
            f"attribute {shown(op.name)}: {len(op.value)} bytes, at most {XATTR_VALUE_MAX} are possible",
        )


def setxattr(op: Setxattr, ws: WorkingSet) -> None:
    """Set a value; all names and values of an inode together are bounded."""
    inode = existing(ws, op.ino)
    values = ws.xattrs(op.ino)
    old = values.get(op.name)
    if old is not None and op.flags & XATTR_CREATE:
        raise Refused(Code.EXISTS, f"inode {op.ino} has an attribute {shown(op.name)} already")
    if old is None and op.flags & XATTR_REPLACE:
        raise Refused(Code.NO_ATTR, f"inode {op.ino} has no attribute {shown(op.name)}")
    others = sum(len(name) + len(value) for name, value in values.items() if name != op.name)
    if others + len(op.name) + len(op.value) > XATTR_TOTAL_MAX:
        raise Refused(
            Code.TOO_BIG,
            f"the attributes of inode {op.ino} would be more than {XATTR_TOTAL_MAX} bytes together",
        )
    ws.put_xattr(op.ino, op.name, op.value)
    ws.put_inode(replace(inode, ctime_ns=op.now_ns))


def check_removexattr(op: Removexattr) -> None:
    _check_attribute(op)


def removexattr(op: Removexattr, ws: WorkingSet) -> None:
    """Remove an attribute that is there."""
    inode = existing(ws, op.ino)
    if op.name not in ws.xattrs(op.ino):
        raise Refused(Code.NO_ATTR, f"inode {op.ino} has no attribute {shown(op.name)}")
    ws.drop_xattr(op.ino, op.name)
    ws.put_inode(replace(inode, ctime_ns=op.now_ns))
