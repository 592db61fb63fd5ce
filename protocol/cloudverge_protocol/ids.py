"""Ids, limits and chunk arithmetic: the numbers every room must read in the same way.

Ids are 64-bit positive integers, never reused. Inode numbers and dentry ids are drawn from one counter per
space and are handed to session incarnations in ranges, so a mount can create files without asking.
"""

from typing import Final, NewType

UserId = NewType("UserId", int)
DeviceId = NewType("DeviceId", int)
GrantId = NewType("GrantId", int)  # a right given on top of membership: to a user, a machine or by link
SpaceId = NewType("SpaceId", int)
InodeId = NewType("InodeId", int)  # unique within its space; the FUSE node id
DentryId = NewType("DentryId", int)  # unique within its space; the readdir cookie
ChunkId = NewType("ChunkId", int)  # unique within the cluster
ServerId = NewType("ServerId", int)  # a chunkserver
SessionId = NewType("SessionId", int)  # one mount of one space by one device (one cache folder)
Incarnation = NewType("Incarnation", int)  # one start of a session's mount; grows within the cluster
EntryNumber = NewType("EntryNumber", int)  # of a journal entry; 1, 2, ... within one incarnation
Seq = NewType("Seq", int)  # position in a space's oplog; 1, 2, ...
Epoch = NewType("Epoch", int)

PROTOCOL_VERSION: Final = 2

ID_MAX: Final = (1 << 63) - 1  # of every id
ROOT_INODE: Final = InodeId(1)
FIRST_FREE_ID: Final = 1024  # ids below are kept for the root and for what is yet to come

BLOCK_BYTES: Final = 64 * 1024  # the unit of checksum
CHUNK_BYTES: Final = 64 * 1024 * 1024  # a chunk never grows past this
REGION_BYTES: Final = 64 * 1024 * 1024  # extents are stored packed per inode and region of its file

NAME_MAX: Final = 255
SYMLINK_MAX: Final = 4095
XATTR_NAME_MAX: Final = 255
XATTR_VALUE_MAX: Final = 65536
XATTR_TOTAL_MAX: Final = 256 * 1024  # names and values of one inode together
LINK_MAX: Final = 65000  # of a file; a folder's nlink (2 + sub-folders) is not limited
FILE_BYTES_MAX: Final = 1 << 60
REGION_MAX: Final = (FILE_BYTES_MAX - 1) // REGION_BYTES  # the last region a file can have

MAX_FRAME_HEADER_BYTES: Final = 8 * 1024 * 1024
MAX_FRAME_BODY_BYTES: Final = 8 * 1024 * 1024
MAX_APPEND_BYTES: Final = 4 * 1024 * 1024  # of one APPEND frame's body
BATCH_ENTRIES_MAX: Final = 5_000  # a mount sends less than half of it
BATCH_EXTENTS_MAX: Final = 100_000  # in all writes of a batch
BATCH_RECEIPTS_MAX: Final = 10_000
AVOIDED_MAX: Final = 1_000  # servers that a mount may wish to avoid
MAX_READ_BYTES: Final = 4 * 1024 * 1024  # of one READ frame's body


def region_of(offset: int) -> int:
    """The region number that a file offset lies in."""
    return offset // REGION_BYTES


def block_of(offset: int) -> int:
    """The block number that a chunk offset lies in."""
    return offset // BLOCK_BYTES
