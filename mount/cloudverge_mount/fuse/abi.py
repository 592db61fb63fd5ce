"""The numbers of the FUSE protocol: versions, opcodes, flags and limits, as Linux has them.

They are facts of the kernel's interface: a number here never changes, new kernels only add some. What a flag obliges
us to is decided by who uses it. ``layouts`` has the structs.
"""

from enum import IntEnum, IntFlag
from typing import Final

MAJOR: Final = 7
MINOR: Final = 45  # the newest minor version whose layouts are known here
MINOR_MIN: Final = 31  # the oldest kernel that is accepted
ROOT_NODE: Final = 1

READ_BUFFER_MIN: Final = 8192  # the kernel refuses to read(2) into less
HEADER_ROOM: Final = 4096  # of a read buffer, beside the data of the largest WRITE
DEFAULT_PAGES_MAX: Final = 32  # of one request, where MAX_PAGES is not agreed on
ERRNO_MAX: Final = 511  # the kernel refuses replies with a larger one


class Opcode(IntEnum):
    """What a request asks for."""

    LOOKUP = 1
    FORGET = 2  # no reply
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36  # no reply, but for EAGAIN
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42  # no reply
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class Init(IntFlag):
    """Features agreed on in INIT: ``flags`` and, from bit 32 on, ``flags2``."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    FILE_OPS = 1 << 2
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    SPLICE_WRITE = 1 << 7
    SPLICE_MOVE = 1 << 8
    SPLICE_READ = 1 << 9
    FLOCK_LOCKS = 1 << 10
    HAS_IOCTL_DIR = 1 << 11
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20  # brings the kernel's own checks of permissions with it
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    MAP_ALIGNMENT = 1 << 26
    SUBMOUNTS = 1 << 27
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30  # without it no bit from 32 on counts
    SECURITY_CTX = 1 << 32
    HAS_INODE_DAX = 1 << 33
    CREATE_SUPP_GROUP = 1 << 34
    HAS_EXPIRE_ONLY = 1 << 35
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    NO_EXPORT_SUPPORT = 1 << 38
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40
    OVER_IO_URING = 1 << 41
    REQUEST_TIMEOUT = 1 << 42


class SetattrValid(IntFlag):
    """Which fields of a SETATTR count."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    LOCKOWNER = 1 << 9
    CTIME = 1 << 10
    KILL_SUIDGID = 1 << 11


class Notify(IntEnum):
    """What a notification tells the kernel."""

    POLL = 1
    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4
    RETRIEVE = 5
    DELETE = 6
    RESEND = 7
    INC_EPOCH = 8
    PRUNE = 9


# Flags of a reply to OPEN, OPENDIR and CREATE
FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_NONSEEKABLE: Final = 1 << 2
FOPEN_CACHE_DIR: Final = 1 << 3
FOPEN_STREAM: Final = 1 << 4
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PARALLEL_DIRECT_WRITES: Final = 1 << 6
FOPEN_PASSTHROUGH: Final = 1 << 7

# Flags of single requests, by the field they come in
GETATTR_FH: Final = 1 << 0  # getattr_flags of GETATTR and STATX
OPEN_KILL_SUIDGID: Final = 1 << 0  # open_flags
READ_LOCKOWNER: Final = 1 << 1  # read_flags
WRITE_CACHE: Final = 1 << 0  # write_flags: from the page cache, the handle is a guess
WRITE_LOCKOWNER: Final = 1 << 1
WRITE_KILL_SUIDGID: Final = 1 << 2
RELEASE_FLUSH: Final = 1 << 0  # release_flags
RELEASE_FLOCK_UNLOCK: Final = 1 << 1
FSYNC_FDATASYNC: Final = 1 << 0  # fsync_flags
LK_FLOCK: Final = 1 << 0  # lk_flags
SETXATTR_ACL_KILL_SGID: Final = 1 << 0  # setxattr_flags
IOCTL_COMPAT: Final = 1 << 0  # flags of IOCTL
IOCTL_UNRESTRICTED: Final = 1 << 1
IOCTL_RETRY: Final = 1 << 2
IOCTL_32BIT: Final = 1 << 3
IOCTL_DIR: Final = 1 << 4
IOCTL_COMPAT_X32: Final = 1 << 5
POLL_SCHEDULE_NOTIFY: Final = 1 << 0  # flags of POLL

# Flags of what we send
ATTR_SUBMOUNT: Final = 1 << 0  # flags of an inode's attributes
ATTR_DAX: Final = 1 << 1
EXPIRE_ONLY: Final = 1 << 0  # flags of INVAL_ENTRY
UNIQUE_RESEND: Final = 1 << 63  # of a request's number: it was sent before; HAS_RESEND only
STATX_BASIC_STATS: Final = 0x7FF  # mask of a reply to STATX
STATX_BTIME: Final = 0x800
