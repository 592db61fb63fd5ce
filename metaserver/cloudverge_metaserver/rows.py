"""Rows of the database as the protocol's values: one column list per struct, in the order of its fields.

``Inode(*record)`` is all it takes; a struct that grows a field without its column fails in the first test.
"""

from typing import Final

import asyncpg

from cloudverge_protocol.inodes import Dentry, Inode

Connection = asyncpg.Connection

INODE_FIELDS: Final = (
    "ino", "mode", "uid", "gid", "nlink", "size", "atime_ns", "mtime_ns", "ctime_ns", "btime_ns",
    "rdev", "parent", "entries", "target", "version",
)  # fmt: skip
DENTRY_FIELDS: Final = ("parent", "name", "ino", "kind", "dentry", "version")

INODE: Final = ", ".join(f"i.{field}" for field in INODE_FIELDS)
DENTRY: Final = ", ".join(f"d.{field}" for field in DENTRY_FIELDS)


def inode_of(record: asyncpg.Record) -> Inode:
    """The inode in a record of the columns INODE."""
    return Inode(*record)


def dentry_of(record: asyncpg.Record) -> Dentry:
    """The dentry in a record of the columns DENTRY."""
    return Dentry(*record)
