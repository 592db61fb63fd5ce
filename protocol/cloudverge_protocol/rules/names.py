"""Rules of single names: create, link, unlink, rmdir.

``entries`` of a folder counts its names, its nlink is 2 plus its sub-folders; both are kept here and in
``renames``, nowhere else. ``mtime`` and ``ctime`` of a folder change with each name in it.
"""

import stat
from typing import Final

from msgspec.structs import replace

from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import LINK_MAX, SYMLINK_MAX, InodeId
from cloudverge_protocol.inodes import Dentry, Inode
from cloudverge_protocol.operations import Create, Link, Rmdir, Unlink
from cloudverge_protocol.rules.checks import (
    FOLDER,
    KIND,
    OWNER_MAX,
    PERMISSIONS,
    RDEV_MAX,
    absent,
    check_id,
    check_mode,
    check_name,
    check_new_id,
    check_owner,
    check_time,
    existing,
    folder,
    named,
    shown,
)
from cloudverge_protocol.workset import WorkingSet

_KINDS: Final = frozenset(
    (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
)
_DEVICES: Final = frozenset((stat.S_IFCHR, stat.S_IFBLK))


def changed_folder(inode: Inode, entries: int, folders: int, now_ns: int) -> Inode:
    """``inode`` with so many more (or fewer) names in it, ``folders`` of them folders."""
    return replace(
        inode,
        entries=inode.entries + entries,
        nlink=inode.nlink + folders,
        mtime_ns=now_ns,
        ctime_ns=now_ns,
    )


def lose_name(ws: WorkingSet, inode: Inode, keep: bool, now_ns: int) -> None:
    """Take one name from ``inode`` (a folder has only one); with the last one it is an orphan or ends."""
    nlink = 0 if inode.mode & KIND == FOLDER else max(0, inode.nlink - 1)
    if nlink == 0 and not keep:
        ws.drop_inode(inode.ino)
        return
    ws.put_inode(replace(inode, nlink=nlink, ctime_ns=now_ns))
    if nlink == 0:
        ws.add_orphan(inode.ino)


def check_create(op: Create) -> None:
    """Also: a known kind, a target exactly for symlinks, and a name for all but regular files."""
    check_id(op.parent)
    if op.name or op.dentry or op.mode & KIND != stat.S_IFREG:
        check_name(op.name)
        check_new_id(op.dentry)
    check_new_id(op.ino)
    check_mode(op.mode)
    if not (0 <= op.uid <= OWNER_MAX and 0 <= op.gid <= OWNER_MAX):
        check_owner(op.uid)
        check_owner(op.gid)
    check_time(op.now_ns)
    kind = op.mode & KIND
    if kind not in _KINDS:
        raise Refused(
            Code.INVALID, f"{shown(op.name)} cannot have the mode {op.mode:o}: no such kind of file"
        )
    if not 0 <= op.rdev <= RDEV_MAX:
        raise Refused(Code.INVALID, f"{op.rdev} cannot be a device number")
    if kind == stat.S_IFLNK:
        _check_target(op)
    elif op.target:
        raise Refused(Code.INVALID, f"{shown(op.name)} has a target but is no symlink")


def _check_target(op: Create) -> None:
    if not op.target or b"\0" in op.target:
        raise Refused(Code.INVALID, f"the symlink {shown(op.name)} needs a target")
    if len(op.target) > SYMLINK_MAX:
        raise Refused(
            Code.NAME_TOO_LONG, f"the target of {shown(op.name)} is longer than {SYMLINK_MAX} bytes"
        )


def create(op: Create, ws: WorkingSet) -> None:
    """A new inode and its name, if it has one; group and setgid bit are inherited in a setgid folder."""
    parent = folder(ws, op.parent)
    if op.name:
        absent(ws, op.parent, op.name)
    if ws.inode(op.ino) is not None:
        raise Refused(Code.INVALID, f"inode {op.ino} exists, {shown(op.name)} cannot be made with its number")
    kind, now_ns = op.mode & KIND, op.now_ns
    ws.put_inode(_newborn(op, parent))
    if op.name:
        ws.put_dentry(Dentry(op.parent, op.name, op.ino, kind, op.dentry))
        ws.put_inode(changed_folder(parent, 1, 1 if kind == FOLDER else 0, now_ns))
    else:
        ws.add_orphan(op.ino)


def _newborn(op: Create, parent: Inode) -> Inode:
    kind, mode, gid, now_ns = op.mode & KIND, op.mode, op.gid, op.now_ns
    is_folder = kind == FOLDER
    if parent.mode & stat.S_ISGID:
        gid = parent.gid
        if is_folder:
            mode |= stat.S_ISGID
    return Inode(
        op.ino,
        kind | (mode & PERMISSIONS),
        op.uid,
        gid,
        2 if is_folder else 1 if op.name else 0,
        len(op.target),
        now_ns,
        now_ns,
        now_ns,
        now_ns,
        op.rdev if kind in _DEVICES else 0,
        op.parent if is_folder else InodeId(0),
        0,
        op.target,
    )


def check_link(op: Link) -> None:
    check_id(op.ino)
    check_id(op.parent)
    check_name(op.name)
    check_new_id(op.dentry)
    check_time(op.now_ns)


def link(op: Link, ws: WorkingSet) -> None:
    """One more name for a file that still has one, or a first one for an orphan of the session that runs this."""
    parent = folder(ws, op.parent)
    absent(ws, op.parent, op.name)
    inode = existing(ws, op.ino)
    if inode.is_dir:
        raise Refused(Code.NOT_PERMITTED, f"{shown(op.name)}: a folder cannot have a second name")
    if inode.nlink == 0 and not ws.is_orphan(op.ino):
        raise Refused(Code.NOT_FOUND, f"{shown(op.name)}: inode {op.ino} has been removed")
    if inode.nlink >= LINK_MAX:
        raise Refused(
            Code.TOO_MANY_LINKS, f"{shown(op.name)}: inode {op.ino} has {inode.nlink} names already"
        )
    ws.put_inode(replace(inode, nlink=inode.nlink + 1, ctime_ns=op.now_ns))
    if inode.nlink == 0:
        ws.drop_orphan(op.ino)
    ws.put_dentry(Dentry(op.parent, op.name, op.ino, inode.mode & KIND, op.dentry))
    ws.put_inode(changed_folder(parent, 1, 0, op.now_ns))


def check_removal(op: Unlink | Rmdir) -> None:
    check_id(op.parent)
    check_name(op.name)
    check_id(op.ino)
    check_time(op.now_ns)


def unlink(op: Unlink, ws: WorkingSet) -> None:
    """One name less for anything but a folder."""
    parent = folder(ws, op.parent)
    named(ws, op.parent, op.name, op.ino)
    inode = existing(ws, op.ino)
    if inode.is_dir:
        raise Refused(Code.IS_DIR, f"{shown(op.name)} is a folder")
    ws.drop_dentry(op.parent, op.name)
    lose_name(ws, inode, op.keep, op.now_ns)
    ws.put_inode(changed_folder(parent, -1, 0, op.now_ns))


def rmdir(op: Rmdir, ws: WorkingSet) -> None:
    """The end of an empty folder."""
    parent = folder(ws, op.parent)
    named(ws, op.parent, op.name, op.ino)
    inode = existing(ws, op.ino)
    if not inode.is_dir:
        raise Refused(Code.NOT_DIR, f"{shown(op.name)} is not a folder")
    if inode.entries:
        raise Refused(Code.NOT_EMPTY, f"the folder {shown(op.name)} has {inode.entries} entries")
    ws.drop_dentry(op.parent, op.name)
    lose_name(ws, inode, op.keep, op.now_ns)
    ws.put_inode(changed_folder(parent, -1, -1, op.now_ns))
