"""Rows of the database as the protocol's values: one column list per struct, in the order of its fields.

``Inode(*record)`` is all it takes; a struct that grows a field without its column fails in the first test.
"""

from typing import Final

import asyncpg

from cloudverge_protocol.ids import ChunkId, InodeId, ServerId
from cloudverge_protocol.inodes import Dentry, Inode
from cloudverge_protocol.messages import Place

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


def place_of(record: asyncpg.Record) -> Place:
    """The address in a record with server, host and frame_port."""
    return Place(ServerId(record["server"]), record["host"], record["frame_port"])


def chunk_ids(values: list[int]) -> tuple[ChunkId, ...]:
    """Numbers of the database as ids of chunks."""
    return tuple(ChunkId(value) for value in values)


def inode_ids(values: list[int]) -> tuple[InodeId, ...]:
    """Numbers of the database as ids of inodes."""
    return tuple(InodeId(value) for value in values)
