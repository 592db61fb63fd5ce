"""The layouts of the FUSE protocol's structs, as struct.Struct, each named after the kernel's.

Byte order is the machine's and sizes are the standard ones: "=" everywhere. Padding of requests is skipped, so that
what is unpacked are a request's arguments, in order; padding of replies is zero. ``IN_BODY`` is where the arguments of
a request begin. A layout never changes: where the kernel has extended a struct, both forms have a name.
"""

from struct import Struct
from typing import Final

IN_HEADER: Final = Struct("=IIQQIIIH2x")  # len, opcode, unique, nodeid, uid, gid, pid, total_extlen
OUT_HEADER: Final = Struct("=IiQ")  # len, error, unique
IN_BODY: Final = IN_HEADER.size

# Arguments of requests
FORGET_IN: Final = Struct("=Q")  # nlookup
FORGET_ONE: Final = Struct("=QQ")  # nodeid, nlookup
BATCH_FORGET_IN: Final = Struct("=I4x")  # count
GETATTR_IN: Final = Struct("=I4xQ")  # getattr_flags, fh
SETATTR_IN: Final = Struct("=I4xQQQqqqIIII4xII4x")
# valid, fh, size, lock_owner, atime, mtime, ctime, their nanoseconds, mode, uid, gid
MKNOD_IN: Final = Struct("=III4x")  # mode, rdev, umask
MKDIR_IN: Final = Struct("=II")  # mode, umask
RENAME_IN: Final = Struct("=Q")  # newdir
RENAME2_IN: Final = Struct("=QI4x")  # newdir, flags
LINK_IN: Final = Struct("=Q")  # oldnodeid
OPEN_IN: Final = Struct("=II")  # flags, open_flags
CREATE_IN: Final = Struct("=IIII")  # flags, mode, umask, open_flags
RELEASE_IN: Final = Struct("=QIIQ")  # fh, flags, release_flags, lock_owner
FLUSH_IN: Final = Struct("=Q8xQ")  # fh, lock_owner
READ_IN: Final = Struct("=QQIIQI4x")  # fh, offset, size, read_flags, lock_owner, flags
READDIR_IN: Final = Struct("=QQI20x")  # READ_IN, of which no more counts
WRITE_IN: Final = Struct("=QQIIQI4x")  # fh, offset, size, write_flags, lock_owner, flags
FSYNC_IN: Final = Struct("=QI4x")  # fh, fsync_flags
SETXATTR_IN: Final = Struct("=II")  # size, flags
SETXATTR_EXT_IN: Final = Struct("=III4x")  # size, flags, setxattr_flags
GETXATTR_IN: Final = Struct("=I4x")  # size
LK_IN: Final = Struct("=QQQQIII4x")  # fh, owner, start, end, type, pid, lk_flags
ACCESS_IN: Final = Struct("=I4x")  # mask
INIT_IN: Final = Struct("=IIII")  # major, minor, max_readahead, flags
INIT_EXT_IN: Final = Struct("=IIIII44x")  # with flags2
INTERRUPT_IN: Final = Struct("=Q")  # unique
IOCTL_IN: Final = Struct("=QIIQII")  # fh, flags, cmd, arg, in_size, out_size
POLL_IN: Final = Struct("=QQII")  # fh, kh, flags, events
FALLOCATE_IN: Final = Struct("=QQQI4x")  # fh, offset, length, mode
LSEEK_IN: Final = Struct("=QqI4x")  # fh, offset, whence
COPY_FILE_RANGE_IN: Final = Struct("=QQQQQQQ")  # fh_in, off_in, nodeid_out, fh_out, off_out, len, flags
STATX_IN: Final = Struct("=I4xQII")  # getattr_flags, fh, sx_flags, sx_mask

# Parts of replies, to be joined below
_ATTR: Final = "QQQqqqIIIIIIIIII"
# ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags
_ENTRY: Final = "QQQQII" + _ATTR  # nodeid, generation, entry_valid, attr_valid, their nanoseconds, attributes
_OPEN: Final = "QIi"  # fh, open_flags, backing_id
_DIRENT: Final = "QQII"  # ino, off, namelen, type
_STATX: Final = "IIQIIIH2xQQQQ" + 4 * "qI4x" + "IIII112x"
# mask, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks, attributes_mask,
# atime, btime, ctime, mtime with their nanoseconds, rdev's and dev's major and minor number
_REPLY: Final = "=IiQ"

ATTR: Final = Struct("=" + _ATTR)
ENTRY_OUT: Final = Struct("=" + _ENTRY)
DIRENT: Final = Struct("=" + _DIRENT)  # without its name
DIRENTPLUS: Final = Struct("=" + _ENTRY + _DIRENT)  # without its name
KSTATFS: Final = Struct("=QQQQQIII28x")  # blocks, bfree, bavail, files, ffree, bsize, namelen, frsize
STATX: Final = Struct("=" + _STATX)

# Whole replies, header and all
ENTRY_REPLY: Final = Struct(_REPLY + _ENTRY)
ABSENT_REPLY: Final = Struct(_REPLY + "16xQ8xI92x")  # an entry of no inode: entry_valid, its nanoseconds
ATTR_REPLY: Final = Struct(_REPLY + "QI4x" + _ATTR)  # attr_valid, its nanoseconds, attributes
OPEN_REPLY: Final = Struct(_REPLY + _OPEN)
CREATE_REPLY: Final = Struct(_REPLY + _ENTRY + _OPEN)
WRITE_REPLY: Final = Struct(_REPLY + "I4x")  # size
COPY_REPLY: Final = Struct(_REPLY + "Q")  # bytes_copied, of COPY_FILE_RANGE_64
STATFS_REPLY: Final = Struct(_REPLY + "QQQQQIII28x")
GETXATTR_REPLY: Final = Struct(_REPLY + "I4x")  # size
LK_REPLY: Final = Struct(_REPLY + "QQII")  # start, end, type, pid
LSEEK_REPLY: Final = Struct(_REPLY + "Q")  # offset
STATX_REPLY: Final = Struct(_REPLY + "QII16x" + _STATX)  # attr_valid, its nanoseconds, flags
INIT_REPLY: Final = Struct(_REPLY + "IIIIHHIIHHIIH22x")
# major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages,
# map_alignment, flags2, max_stack_depth, request_timeout

# Whole notifications, up to a name
INVAL_INODE: Final = Struct(_REPLY + "Qqq")  # ino, off, len
INVAL_ENTRY: Final = Struct(_REPLY + "QII")  # parent, namelen, flags
DELETE: Final = Struct(_REPLY + "QQI4x")  # parent, child, namelen
STORE: Final = Struct(_REPLY + "QQI4x")  # nodeid, offset, size


def dirent(padded: int) -> Struct:
    """An entry of READDIR with a name of up to ``padded`` bytes, a multiple of 8."""
    return Struct(f"={_DIRENT}{padded}s")


def direntplus(padded: int) -> Struct:
    """An entry of READDIRPLUS with a name of up to ``padded`` bytes, a multiple of 8."""
    return Struct(f"={_ENTRY}{_DIRENT}{padded}s")


def text(size: int) -> Struct:
    """A string of ``size`` bytes and the byte behind it."""
    return Struct(f"={size}sB")
