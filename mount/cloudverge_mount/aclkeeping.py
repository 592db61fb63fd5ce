"""Keeping access control lists (acl(5)): as extended attributes, in step with modes, and handed on to what is made.

The kernel checks permissions by them where it has agreed to (FUSE_POSIX_ACL); then ``acl`` is set, and umasks are
left to us (FUSE_DONT_MASK). Without, they are attributes like any other, which nobody checks. A chmod keeps them in
step in either case, or it would take nothing away on mounts that heed them.

No operation sets attribute and mode at once, so a crash, or somebody who looks in between, may find one without the
other. The order is such that nobody, but the owner, has what he would have neither before nor after. The kernel
asks the mode about the owner, and about all others the list, but only if the mode's group bits are not 0; without
a list, or with these 0, it asks the mode. Therefore:

- A list that stays or comes is set before its mode: with group bits, others have what the new list says already,
  without, what the old mode says still.
- A list that the mode can replace goes after its mode is set: others have what the old list says still, or, without
  group bits, what the new mode says already. (The other way round the group had what the mask allowed.)
- What is made with a list has no bits for others than its owner until the list is there: three operations instead
  of one, where a folder's default list names somebody.

A folder without a default list must cost what is made in it nothing: its attributes are looked at only if its row says
that it may have some, which is known without asking the server of all that is listed.
"""

import stat
from typing import Final, NamedTuple

from cloudverge_mount.acl import (
    ACCESS,
    DEFAULT,
    PERMISSIONS,
    Acl,
    after_chmod,
    at_birth,
    format_acl,
    is_extended,
    mode_of,
    parse_acl,
)
from cloudverge_mount.core import Core
from cloudverge_mount.replica import HAS_XATTRS, XATTRS
from cloudverge_protocol.errors import Code, Denied, Refused
from cloudverge_protocol.ids import InodeId
from cloudverge_protocol.operations import Removexattr, Setattr, Setxattr

OWNER_ONLY: Final = ~0o077
SPECIAL: Final = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


class Inherited(NamedTuple):
    """What something new is given: attributes, then permission bits (None: it has them)."""

    attributes: tuple[tuple[bytes, bytes], ...]
    permissions: int | None


class AclKeeping:
    """What the parts of ``Vfs`` that make inodes, set modes and set attributes share."""

    core: Core
    acl = False  # whether the kernel heeds the lists and leaves umasks to us; set before the first request

    def _list(self, ino: int, name: bytes) -> Acl | None:
        """A list of an inode; one that cannot be read is none."""
        core = self.core
        node = core.rows.node(ino)
        if node is not None and node.known & (XATTRS | HAS_XATTRS) == XATTRS:
            return None
        value = core.ledger.local.xattrs(InodeId(ino)).get(name)
        try:
            return None if value is None else parse_acl(value)
        except Refused:
            return None

    # --- making ------------------------------------------------------------------------------------------

    def inherit(self, parent: int, mode: int, umask: int) -> tuple[int, Inherited | None]:
        """The mode to make something with, and what to ``bequeath`` to it then."""
        if stat.S_ISLNK(mode):
            return mode, None
        default = self._list(parent, DEFAULT)
        if default is None:
            return mode & ~umask, None
        access = at_birth(default, mode)
        full = (mode & ~PERMISSIONS) | mode_of(access)
        attributes = ((DEFAULT, format_acl(default)),) if stat.S_ISDIR(mode) else ()
        if not is_extended(access):
            return full, Inherited(attributes, None)
        attributes = (*attributes, (ACCESS, format_acl(access)))
        return full & OWNER_ONLY, Inherited(attributes, full & PERMISSIONS)

    def bequeath(self, ino: int, inherited: Inherited, now_ns: int) -> None:
        """Give something new what its folder says."""
        core = self.core
        for name, value in inherited.attributes:
            core.ledger.accept(Setxattr(InodeId(ino), name, value, 0, now_ns))
        if inherited.permissions is not None:
            mode = (core.row(ino).mode & SPECIAL) | inherited.permissions
            core.ledger.accept(Setattr(InodeId(ino), now_ns, mode))

    # --- changing ----------------------------------------------------------------------------------------

    def before_chmod(self, ino: int, mode: int, now_ns: int) -> None:
        """The mode is about to be set: the access list comes first."""
        acl = self._list(ino, ACCESS)
        if acl is not None and (changed := after_chmod(acl, mode)) != acl:
            self.core.ledger.accept(Setxattr(InodeId(ino), ACCESS, format_acl(changed), 0, now_ns))

    def set_list(self, ino: int, name: bytes, value: bytes, flags: int, kill_sgid: bool) -> None:
        """Set a list; an access list sets the mode too, and is not kept if that says all of it.

        Raises Refused(INVALID) for a value that is none, Refused(NOT_SUPPORTED) for a symlink, Denied(FORBIDDEN) for
        a default list of anything but a folder.
        """
        core = self.core
        row = core.shown(core.row(ino))
        if stat.S_ISLNK(row.mode):
            raise Refused(Code.NOT_SUPPORTED, f"inode {ino} is a symlink, which has no access control list")
        if name == DEFAULT and not row.is_dir:
            raise Denied(Code.FORBIDDEN, f"inode {ino} is no folder, and has no default list")
        acl = parse_acl(value)
        if name == DEFAULT:
            core.ledger.accept(Setxattr(InodeId(ino), name, format_acl(acl), flags, core.clock_ns()))
        else:
            mode = (row.mode & SPECIAL) | mode_of(acl)
            self._set_access(ino, acl, flags, mode & ~stat.S_ISGID if kill_sgid else mode)

    def _set_access(self, ino: int, acl: Acl, flags: int, mode: int) -> None:
        accept, now_ns = self.core.ledger.accept, self.core.clock_ns()
        has_one = ACCESS in self.core.ledger.local.xattrs(InodeId(ino))
        if is_extended(acl):
            accept(Setxattr(InodeId(ino), ACCESS, format_acl(acl), flags, now_ns))
        accept(Setattr(InodeId(ino), now_ns, mode))
        if has_one and not is_extended(acl):
            accept(Removexattr(InodeId(ino), ACCESS, now_ns))

    def remove_list(self, ino: int, name: bytes) -> None:
        """Remove a list, if there is one. The mode stays, so that the group gets what the mask was: setfacl(1) -b asks
        for a list without names instead."""
        core = self.core
        if name in core.ledger.local.xattrs(InodeId(ino)):
            core.ledger.accept(Removexattr(InodeId(ino), name, core.clock_ns()))
