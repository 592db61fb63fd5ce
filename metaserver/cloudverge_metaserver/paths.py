"""Paths as people name them, in the committed namespace, from the root of what the caller may see.

Who is confined to a sub-tree sees its folder as inode 1 and its path as empty, as its mount does; what is outside
does not exist, in the same words as what exists nowhere. Names are bytes; what is no UTF-8 in them is shown escaped.
"""

import os
import stat
from typing import Final

from cloudverge_auth.tokens import INVALID_MESSAGE, Identity
from cloudverge_metaserver.bodies import PathOut, Step
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.rows import Connection
from cloudverge_protocol.errors import Code, Denied, ProtocolFault, Refused
from cloudverge_protocol.ids import NAME_MAX, ROOT_INODE, InodeId

PATH_MAX: Final = 4096
_KINDS: Final = {
    stat.S_IFDIR: "folder",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
_WALK: Final = """
    with recursive walk(depth, ino) as (
        select 0, $2::bigint
        union all
        select w.depth + 1, d.ino from walk w cross join lateral (
            select ino from meta.dentries
            where space = $1 and parent = w.ino and name = ($3::bytea[])[w.depth + 1] offset 0
        ) d where w.depth < cardinality($3::bytea[])
    )
    select w.ino, i.mode, i.size from walk w
    cross join lateral (select mode, size from meta.inodes where space = $1 and ino = w.ino offset 0) i
    order by w.depth
"""
_EPOCH: Final = "select membership_epoch from meta.spaces where space = $1"


class Paths:
    """Looks them up."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, identity: Identity, path: str) -> PathOut:
        """What ``path`` names; raises Refused(NOT_FOUND)."""
        names = names_in(path)
        async with self._database.snapshot() as connection:
            await check_epoch(connection, identity)
            rows = await connection.fetch(_WALK, identity.space, identity.root, names)
        if len(rows) <= len(names):
            raise Refused(Code.NOT_FOUND, "there is nothing at this path")
        last = rows[-1]
        return PathOut(
            ino=shown_ino(identity, last["ino"]),
            kind=kind_of(last["mode"]),
            size=last["size"],
            chain=[
                Step(ino=shown_ino(identity, row["ino"]), name=name_text(name))
                for row, name in zip(rows, (b"", *names), strict=True)
            ],
        )


async def check_epoch(connection: Connection, identity: Identity) -> None:
    """Raise Denied(UNAUTHORIZED) for a ticket from before a right to its space was taken away."""
    known = await connection.fetchval(_EPOCH, identity.space)
    if known is not None and identity.membership_epoch < known:
        raise Denied(Code.UNAUTHORIZED, INVALID_MESSAGE)


def names_in(path: str) -> list[bytes]:
    """The names of a path; empty ones and "." mean nothing. Raises Refused or ProtocolFault for what is none."""
    whole = os.fsencode(path)
    if len(whole) > PATH_MAX or b"\0" in whole:
        raise ProtocolFault(Code.BAD_REQUEST, f"a path has at most {PATH_MAX} bytes, and no NUL")
    names = [name for name in whole.split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise ProtocolFault(Code.BAD_REQUEST, 'a path may not have ".." in it')
    if any(len(name) > NAME_MAX for name in names):
        raise Refused(Code.NOT_FOUND, "there is nothing at this path")
    return names


def name_text(name: bytes) -> str:
    """A name for people, and for JSON."""
    return name.decode(errors="backslashreplace")


def kind_of(mode: int) -> str:
    """What an inode is, in a word."""
    return _KINDS.get(stat.S_IFMT(mode), "other")


def shown_ino(identity: Identity, ino: int) -> int:
    """An inode's number as the caller knows it."""
    return ROOT_INODE if ino == identity.root else ino


def real_ino(identity: Identity, ino: int) -> InodeId:
    """The inode that the caller means by a number; 0 for one that he cannot name."""
    if identity.root == ROOT_INODE:
        return InodeId(ino)
    return InodeId(0) if ino == identity.root else identity.root if ino == ROOT_INODE else InodeId(ino)
