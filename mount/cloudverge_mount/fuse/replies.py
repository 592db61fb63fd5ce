"""Replies to the kernel's requests, from values to bytes: each is whole, for one write(2) to the device.

``data`` copies its payload; for what is large there is ``header``, to be written together with the payload by
writev(2). A reply is packed by one struct, header and all. Spans of time are seconds, times nanoseconds since 1970,
and sizes bytes. Values that the kernel's fields cannot hold (a size of 2**64, an owner of 2**32) raise struct.error:
a reply is never sent with other values than were given.
"""

from functools import lru_cache
from typing import Final, Protocol

from cloudverge_mount.fuse import layouts
from cloudverge_mount.fuse.abi import MAJOR, STATX_BASIC_STATS, STATX_BTIME

BLOCK_BYTES: Final = 65536  # what programs are told to read and write at once
SECTOR_BYTES: Final = 512  # the unit of st_blocks
SECOND_NS: Final = 1_000_000_000
VALID_MAX_S: Final = float(1 << 31)
GRANULARITY_NS: Final = 1  # of our times

_HEADER: Final = layouts.OUT_HEADER.size
_ENTRY: Final = layouts.ENTRY_REPLY.size
_ATTR: Final = layouts.ATTR_REPLY.size
_entry: Final = layouts.ENTRY_REPLY.pack
_attr: Final = layouts.ATTR_REPLY.pack


class Attributes(Protocol):
    """What replies show of an inode; ``mode`` holds its type, too, and ``rdev`` is in the kernel's 32 bits."""

    @property
    def ino(self) -> int: ...
    @property
    def mode(self) -> int: ...
    @property
    def nlink(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def rdev(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def atime_ns(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def ctime_ns(self) -> int: ...
    @property
    def btime_ns(self) -> int: ...


def header(unique: int, size: int) -> bytes:
    """What comes before a payload of ``size`` bytes."""
    return layouts.OUT_HEADER.pack(_HEADER + size, 0, unique)


def error(unique: int, errno: int) -> bytes:
    """The request failed with ``errno``, a positive number."""
    return layouts.OUT_HEADER.pack(_HEADER, -errno, unique)


def ok(unique: int) -> bytes:
    """It is done, and there is nothing more to say."""
    return layouts.OUT_HEADER.pack(_HEADER, 0, unique)


def data(unique: int, payload: bytes | bytearray | memoryview) -> bytes:
    """Bytes that were read: of a file, a symlink or an extended attribute."""
    return layouts.OUT_HEADER.pack(_HEADER + len(payload), 0, unique) + payload


@lru_cache(maxsize=256)  # the same few spans are given over and over
def span(seconds: float) -> tuple[int, int]:
    """A span of time in whole seconds and nanoseconds; a negative one is none, and infinity is many years."""
    seconds = min(max(seconds, 0), VALID_MAX_S)
    whole = int(seconds)
    return whole, int((seconds - whole) * SECOND_NS)


def attributes(inode: Attributes) -> tuple[int, ...]:
    """The fields of the kernel's struct fuse_attr."""
    atime, atime_part = divmod(inode.atime_ns, SECOND_NS)
    mtime, mtime_part = divmod(inode.mtime_ns, SECOND_NS)
    ctime, ctime_part = divmod(inode.ctime_ns, SECOND_NS)
    size = inode.size
    return (
        inode.ino,
        size,
        -(-size // SECTOR_BYTES),
        atime,
        mtime,
        ctime,
        atime_part,
        mtime_part,
        ctime_part,
        inode.mode,
        inode.nlink,
        inode.uid,
        inode.gid,
        inode.rdev,
        BLOCK_BYTES,
        0,
    )


def entry(unique: int, inode: Attributes, entry_valid_s: float, attr_valid_s: float) -> bytes:
    """A name leads to this inode: LOOKUP, MKNOD, MKDIR, SYMLINK, LINK. The kernel counts one lookup of it."""
    valid, valid_part = span(entry_valid_s)
    attr_valid, attr_part = span(attr_valid_s)
    shown = attributes(inode)
    return _entry(_ENTRY, 0, unique, shown[0], 0, valid, attr_valid, valid_part, attr_part, *shown)


def absent(unique: int, valid_s: float) -> bytes:
    """There is no such name, and the kernel may take that for granted for a time."""
    valid, valid_part = span(valid_s)
    return layouts.ABSENT_REPLY.pack(layouts.ABSENT_REPLY.size, 0, unique, valid, valid_part)


def attr(unique: int, inode: Attributes, valid_s: float) -> bytes:
    """Attributes: GETATTR, SETATTR."""
    valid, valid_part = span(valid_s)
    return _attr(_ATTR, 0, unique, valid, valid_part, *attributes(inode))


def opened(unique: int, fh: int, flags: int, backing_id: int = 0) -> bytes:
    """A file or folder is open; ``flags`` are FOPEN_*, ``backing_id`` counts with FOPEN_PASSTHROUGH."""
    return layouts.OPEN_REPLY.pack(layouts.OPEN_REPLY.size, 0, unique, fh, flags, backing_id)


def created(
    unique: int,
    inode: Attributes,
    entry_valid_s: float,
    attr_valid_s: float,
    fh: int,
    flags: int,
    backing_id: int = 0,
) -> bytes:
    """A file is made and open: CREATE, TMPFILE. The kernel counts one lookup of it."""
    valid, valid_part = span(entry_valid_s)
    attr_valid, attr_part = span(attr_valid_s)
    made = (inode.ino, 0, valid, attr_valid, valid_part, attr_part)
    size = layouts.CREATE_REPLY.size
    return layouts.CREATE_REPLY.pack(size, 0, unique, *made, *attributes(inode), fh, flags, backing_id)


def written(unique: int, size: int) -> bytes:
    """So many bytes are written, or copied by COPY_FILE_RANGE."""
    return layouts.WRITE_REPLY.pack(layouts.WRITE_REPLY.size, 0, unique, size)


def copied(unique: int, size: int) -> bytes:
    """So many bytes are copied by COPY_FILE_RANGE_64."""
    return layouts.COPY_REPLY.pack(layouts.COPY_REPLY.size, 0, unique, size)


def statfs(
    unique: int,
    *,
    blocks: int,
    free: int,
    available: int,
    files: int,
    files_free: int,
    block_bytes: int,
    name_max: int,
) -> bytes:
    """Sizes of the filesystem, in blocks of ``block_bytes``; ``available`` is what is free for everyone."""
    counts = (blocks, free, available, files, files_free)
    size = layouts.STATFS_REPLY.size
    return layouts.STATFS_REPLY.pack(size, 0, unique, *counts, block_bytes, name_max, block_bytes)


def xattr_size(unique: int, size: int) -> bytes:
    """The size of a value or of the list of names, to a GETXATTR or LISTXATTR whose size is 0."""
    return layouts.GETXATTR_REPLY.pack(layouts.GETXATTR_REPLY.size, 0, unique, size)


def lock(unique: int, start: int, end: int, kind: int, pid: int) -> bytes:
    """The lock that stands in the way of a GETLK, or F_UNLCK: none; ``start`` and ``end`` are both in it."""
    return layouts.LK_REPLY.pack(layouts.LK_REPLY.size, 0, unique, start, end, kind, pid)


def seeked(unique: int, offset: int) -> bytes:
    """Where the data or hole is."""
    return layouts.LSEEK_REPLY.pack(layouts.LSEEK_REPLY.size, 0, unique, offset)


def statx(unique: int, inode: Attributes, valid_s: float) -> bytes:
    """Attributes, with the time of birth."""
    valid, valid_part = span(valid_s)
    size, rdev = inode.size, inode.rdev
    return layouts.STATX_REPLY.pack(
        layouts.STATX_REPLY.size,
        0,
        unique,
        valid,
        valid_part,
        0,
        STATX_BASIC_STATS | STATX_BTIME,
        BLOCK_BYTES,
        0,
        inode.nlink,
        inode.uid,
        inode.gid,
        inode.mode,
        inode.ino,
        size,
        -(-size // SECTOR_BYTES),
        0,
        *divmod(inode.atime_ns, SECOND_NS),
        *divmod(inode.btime_ns, SECOND_NS),
        *divmod(inode.ctime_ns, SECOND_NS),
        *divmod(inode.mtime_ns, SECOND_NS),
        rdev >> 8 & 0xFFF,
        rdev & 0xFF | rdev >> 12 & 0xFFF00,
        0,
        0,
    )


def init(
    unique: int,
    *,
    minor: int,
    flags: int,
    max_readahead: int,
    max_write: int,
    max_pages: int,
    max_background: int,
    congestion_threshold: int,
    max_stack_depth: int,
) -> bytes:
    """What we agree to; see ``handshake``."""
    low, high = flags & 0xFFFF_FFFF, flags >> 32
    version = (MAJOR, minor, max_readahead, low)
    limits = (max_background, congestion_threshold, max_write, GRANULARITY_NS, max_pages, 0)
    size = layouts.INIT_REPLY.size
    return layouts.INIT_REPLY.pack(size, 0, unique, *version, *limits, high, max_stack_depth, 0)
