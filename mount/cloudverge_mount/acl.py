"""POSIX access control lists (acl(5)) as values: their form in an extended attribute, and what becomes of them. Pure.

An access list says of one file what its owner, named users, its group, named groups and all others may do; a folder
may have a default list as well, from which what is made in it gets its access list. Entries are in the order of
their tags, as the kernel demands; the mask, which bounds all but owner and others, must be there if anybody is named.
The nine permission bits of the mode say the same as the entries of owner, group (the mask instead, if there is one)
and others, always: whoever changes one changes the other (``after_chmod``, ``mode_of``).

The rules are those of Linux (fs/posix_acl.c); nothing here decides whether somebody may do something.
"""

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from cloudverge_protocol.errors import Code, Refused

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"

USER_OBJ: Final = 0x01  # the owner
USER: Final = 0x02
GROUP_OBJ: Final = 0x04  # the group of the file
GROUP: Final = 0x08
MASK: Final = 0x10
OTHER: Final = 0x20
NAMED: Final = (USER, GROUP)
NOBODY: Final = 0xFFFFFFFF  # the id of entries that name nobody

VERSION: Final = 2
PERMISSIONS: Final = 0o777
_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_ORDER: Final = (USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER)


class Entry(NamedTuple):
    """What one of them may do: ``permissions`` is rwx as in an octal digit."""

    tag: int
    permissions: int
    id: int = NOBODY


Acl = tuple[Entry, ...]


# --- in an attribute -----------------------------------------------------------------------------------------


def parse_acl(value: bytes) -> Acl:
    """The list in an attribute's value. Raises Refused(INVALID) for what is none."""
    size = len(value) - _HEADER.size
    if size < 0 or size % _ENTRY.size or _HEADER.unpack_from(value) != (VERSION,):
        raise Refused(Code.INVALID, "this is no access control list of version 2")
    acl = tuple(
        Entry(tag, permissions, id_ if tag in NAMED else NOBODY)
        for tag, permissions, id_ in _ENTRY.iter_unpack(value[_HEADER.size :])
    )
    _check(acl)
    return acl


def _check(acl: Acl) -> None:
    tags = [entry.tag for entry in acl]
    wrong = (
        any(tag not in _ORDER for tag in tags)
        or any(tags.count(tag) != 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER))
        or tags.count(MASK) not in ((1,) if USER in tags or GROUP in tags else (0, 1))
        or tags != sorted(tags, key=_ORDER.index)
    )
    if wrong:
        raise Refused(Code.INVALID, f"an access control list cannot have the entries {tags}")
    for entry in acl:
        if entry.permissions > 7 or (entry.tag in NAMED and entry.id == NOBODY):
            raise Refused(Code.INVALID, f"{tuple(entry)} cannot be an entry of an access control list")


def format_acl(acl: Iterable[Entry]) -> bytes:
    """A list as an attribute's value."""
    return _HEADER.pack(VERSION) + b"".join(_ENTRY.pack(*entry) for entry in acl)


# --- and the mode --------------------------------------------------------------------------------------------


def is_extended(acl: Acl) -> bool:
    """Whether a list says more than a mode can."""
    return len(acl) > 3


def mode_of(acl: Acl) -> int:
    """The permission bits that go with an access list."""
    by_tag = {entry.tag: entry.permissions for entry in acl}
    return by_tag[USER_OBJ] << 6 | by_tag.get(MASK, by_tag[GROUP_OBJ]) << 3 | by_tag[OTHER]


def _bounding_group(acl: Acl) -> int:
    """The tag of the entry that the mode's group bits stand for."""
    return MASK if any(entry.tag == MASK for entry in acl) else GROUP_OBJ


def after_chmod(acl: Acl, mode: int) -> Acl:
    """The access list of a file whose mode has been set."""
    bits = {USER_OBJ: mode >> 6 & 7, _bounding_group(acl): mode >> 3 & 7, OTHER: mode & 7}
    return tuple(entry._replace(permissions=bits.get(entry.tag, entry.permissions)) for entry in acl)


def at_birth(default: Acl, mode: int) -> Acl:
    """The access list of what is made with ``mode`` in a folder with this default list; its mode is ``mode_of``.

    Nobody gets what neither the list nor whoever makes it gives; a umask has no part in it.
    """
    bits = {USER_OBJ: mode >> 6 & 7, _bounding_group(default): mode >> 3 & 7, OTHER: mode & 7}
    return tuple(entry._replace(permissions=entry.permissions & bits.get(entry.tag, 7)) for entry in default)
