"""The rule of rename, with all that renameat2(2) can do.

The order of the checks is that of Linux: flags, names, existence, then ancestry, then kinds, then emptiness.
A folder never becomes its own ancestor: the chain of parents above the place it goes to is walked and must
not meet it. Two names of one inode: nothing happens at all, which is what POSIX wants.
"""

from typing import Final

from msgspec.structs import replace

from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import ROOT_INODE, DentryId, InodeId
from cloudverge_protocol.inodes import Dentry, Inode
from cloudverge_protocol.operations import RENAME_EXCHANGE, RENAME_NOREPLACE, Rename
from cloudverge_protocol.rules.checks import (
    FOLDER,
    KIND,
    check_id,
    check_name,
    check_new_id,
    check_time,
    existing,
    folder,
    named,
    shown,
)
from cloudverge_protocol.rules.names import changed_folder, lose_name
from cloudverge_protocol.workset import WorkingSet

_FLAGS: Final = (0, RENAME_NOREPLACE, RENAME_EXCHANGE)
DEPTH_MAX: Final = 1 << 16  # of a chain of parents; a longer one can only be a damaged namespace


def check_rename(op: Rename) -> None:
    """Also: one flag at most."""
    if op.flags not in _FLAGS:
        raise Refused(Code.INVALID, f"{op.flags} are no flags of a rename")
    check_id(op.parent)
    check_name(op.name)
    check_id(op.new_parent)
    check_name(op.new_name)
    check_id(op.ino)
    if op.target:
        check_id(op.target)
    check_new_id(op.dentry)
    if op.flags & RENAME_EXCHANGE:
        check_new_id(op.other)
    check_time(op.now_ns)


def rename(op: Rename, ws: WorkingSet) -> None:
    """Move a name, over another one or in exchange with it."""
    parent = folder(ws, op.parent)
    new_parent = parent if op.new_parent == op.parent else folder(ws, op.new_parent)
    named(ws, op.parent, op.name, op.ino)
    there = _target(op, ws)
    if there is not None and there.ino == op.ino:
        return
    source = existing(ws, op.ino)
    target = None if there is None else existing(ws, there.ino)
    if target is not None and op.flags & RENAME_EXCHANGE:
        _exchange(op, ws, parent, new_parent, source, target)
    else:
        _replace(op, ws, parent, new_parent, source, target)


def _target(op: Rename, ws: WorkingSet) -> Dentry | None:
    """What is at the new name now, which must be what the operation says is there."""
    there = ws.dentry(op.new_parent, op.new_name)
    if there is None:
        if op.flags & RENAME_EXCHANGE:
            raise Refused(Code.NOT_FOUND, f"there is no {shown(op.new_name)} to exchange with")
        if op.target:
            raise Refused(Code.STALE, f"there is no {shown(op.new_name)} in folder {op.new_parent} any more")
    elif op.flags & RENAME_NOREPLACE:
        raise Refused(Code.EXISTS, f"{shown(op.new_name)} exists in folder {op.new_parent}")
    elif there.ino != op.target:
        raise Refused(Code.STALE, f"{shown(op.new_name)} is inode {there.ino} now, not {op.target}")
    return there


def _refuse_descent(ws: WorkingSet, inode: Inode, place: Inode, name: bytes) -> None:
    """Refuse to put the folder ``inode`` into ``place`` if that lies in it."""
    above, steps = place, 0
    while above.ino != inode.ino:
        if above.ino == ROOT_INODE:
            return
        steps += 1
        if steps > DEPTH_MAX:
            raise Refused(Code.LOOP, f"folder {place.ino} is nested more than {DEPTH_MAX} deep")
        above = existing(ws, above.parent)
    raise Refused(Code.INVALID, f"the folder {shown(name)} cannot be moved into itself")


def _exchange(
    op: Rename, ws: WorkingSet, parent: Inode, new_parent: Inode, source: Inode, target: Inode
) -> None:
    source_is_folder, target_is_folder = source.mode & KIND == FOLDER, target.mode & KIND == FOLDER
    if op.parent != op.new_parent:
        if source_is_folder:
            _refuse_descent(ws, source, new_parent, op.name)
        if target_is_folder:
            _refuse_descent(ws, target, parent, op.new_name)
    _put_at(ws, source, op.new_parent, op.new_name, op.dentry, op.now_ns)
    _put_at(ws, target, op.parent, op.name, op.other, op.now_ns)
    _put_folders(ws, parent, new_parent, 0, source_is_folder - target_is_folder, op.now_ns)


def _replace(
    op: Rename, ws: WorkingSet, parent: Inode, new_parent: Inode, source: Inode, target: Inode | None
) -> None:
    is_folder = source.mode & KIND == FOLDER
    if is_folder and op.parent != op.new_parent:
        _refuse_descent(ws, source, new_parent, op.name)
    if target is not None:
        _refuse_replacement(op, is_folder, target)
    ws.drop_dentry(op.parent, op.name)
    if target is not None:
        lose_name(ws, target, op.keep, op.now_ns)
        new_parent = changed_folder(new_parent, -1, -is_folder, op.now_ns)
        if op.parent == op.new_parent:
            parent = new_parent
    _put_at(ws, source, op.new_parent, op.new_name, op.dentry, op.now_ns)
    _put_folders(ws, parent, new_parent, 1, int(is_folder), op.now_ns)


def _refuse_replacement(op: Rename, is_folder: bool, target: Inode) -> None:
    """A folder replaces an empty folder only, anything else anything but a folder."""
    if is_folder and not target.is_dir:
        raise Refused(Code.NOT_DIR, f"{shown(op.new_name)} is not a folder, but {shown(op.name)} is")
    if target.is_dir and not is_folder:
        raise Refused(Code.IS_DIR, f"{shown(op.new_name)} is a folder, but {shown(op.name)} is not")
    if target.entries:
        raise Refused(Code.NOT_EMPTY, f"the folder {shown(op.new_name)} has {target.entries} entries")


def _put_at(
    ws: WorkingSet, inode: Inode, parent: InodeId, name: bytes, dentry: DentryId, now_ns: int
) -> None:
    """``inode`` is now ``name`` in ``parent``."""
    kind = inode.mode & KIND
    ws.put_dentry(Dentry(parent, name, inode.ino, kind, dentry))
    ws.put_inode(replace(inode, parent=parent if kind == FOLDER else inode.parent, ctime_ns=now_ns))


def _put_folders(
    ws: WorkingSet, parent: Inode, new_parent: Inode, entries: int, folders: int, now_ns: int
) -> None:
    """So many entries, and folders among them, have gone from ``parent`` to ``new_parent``."""
    if parent.ino == new_parent.ino:
        ws.put_inode(changed_folder(parent, 0, 0, now_ns))
        return
    ws.put_inode(changed_folder(parent, -entries, -folders, now_ns))
    ws.put_inode(changed_folder(new_parent, entries, folders, now_ns))
