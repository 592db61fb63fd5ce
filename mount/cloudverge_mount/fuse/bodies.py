"""The arguments of the kernel's requests, as values: one NamedTuple for each kind.

Names and values are bytes of their own, never views of the buffer they were read into. Offsets, sizes and lengths are
bytes; times are nanoseconds since 1970; flags are the kernel's bits, see ``abi``. Fields stand in the order of the
kernel's structs, since most of these are made from an unpacked struct as it is. Where a flag says whether a field
counts, the field is given as it came, unless it says otherwise.
"""

from typing import NamedTuple


class Lookup(NamedTuple):
    """Find a name in the folder."""

    name: bytes


class Forget(NamedTuple):
    """The kernel drops ``nlookup`` of the lookups it was given of the inode. No reply."""

    nlookup: int


class BatchForget(NamedTuple):
    """Forget of many inodes: (inode, nlookup). No reply."""

    pairs: tuple[tuple[int, int], ...]


class Getattr(NamedTuple):
    """Attributes of the inode; ``fh`` of an open file, None: by inode."""

    fh: int | None


class Setattr(NamedTuple):
    """Change those attributes of the inode that ``valid`` has a bit for (SetattrValid)."""

    valid: int
    fh: int
    size: int
    lock_owner: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    uid: int
    gid: int


class Readlink(NamedTuple):
    """The target of the symlink."""


class Symlink(NamedTuple):
    """Make a symlink in the folder."""

    name: bytes
    target: bytes


class Mknod(NamedTuple):
    """Make a file, device, pipe or socket; ``mode`` holds its type, ``rdev`` is in the kernel's 32 bits."""

    name: bytes
    mode: int
    rdev: int
    umask: int


class Mkdir(NamedTuple):
    """Make a folder."""

    name: bytes
    mode: int
    umask: int


class Unlink(NamedTuple):
    """Take a name that is no folder's out of the folder."""

    name: bytes


class Rmdir(NamedTuple):
    """Take an empty folder out of the folder."""

    name: bytes


class Rename(NamedTuple):
    """RENAME (``flags`` 0) and RENAME2 (RENAME_NOREPLACE, RENAME_EXCHANGE)."""

    name: bytes
    new_parent: int
    new_name: bytes
    flags: int


class Link(NamedTuple):
    """Give inode ``ino`` one more name, in the folder."""

    ino: int
    new_name: bytes


class Open(NamedTuple):
    """Open the file; ``flags`` are open(2)'s, ``open_flags`` OPEN_KILL_SUIDGID."""

    flags: int
    open_flags: int


class Create(NamedTuple):
    """CREATE: make and open a file. TMPFILE: the same without a name, ``name`` means nothing."""

    name: bytes
    flags: int
    mode: int
    umask: int
    open_flags: int


class Read(NamedTuple):
    """Read; ``lock_owner`` counts with READ_LOCKOWNER, ``flags`` are those of the open file."""

    fh: int
    offset: int
    size: int
    read_flags: int
    lock_owner: int
    flags: int


class Write(NamedTuple):
    """Write all of ``data``, which is ``size`` bytes; ``lock_owner`` counts with WRITE_LOCKOWNER."""

    fh: int
    offset: int
    size: int
    write_flags: int
    lock_owner: int
    flags: int
    data: bytes


class Statfs(NamedTuple):
    """Sizes of the filesystem."""


class Release(NamedTuple):
    """RELEASE and RELEASEDIR: the last descriptor of ``fh`` is closed."""

    fh: int
    flags: int
    release_flags: int
    lock_owner: int


class Flush(NamedTuple):
    """A descriptor of ``fh`` is closed."""

    fh: int
    lock_owner: int


class Fsync(NamedTuple):
    """FSYNC and FSYNCDIR; ``datasync``: attributes that reads do not need may wait."""

    fh: int
    datasync: bool


class Setxattr(NamedTuple):
    """Set an extended attribute; ``flags`` are XATTR_CREATE or XATTR_REPLACE."""

    name: bytes
    value: bytes
    flags: int
    setxattr_flags: int


class Getxattr(NamedTuple):
    """The value of an extended attribute, of at most ``size`` bytes; 0: its size only."""

    name: bytes
    size: int


class Listxattr(NamedTuple):
    """Names of extended attributes, of at most ``size`` bytes with their NULs; 0: the size only."""

    size: int


class Removexattr(NamedTuple):
    """Remove an extended attribute."""

    name: bytes


class Init(NamedTuple):
    """The kernel's offer; ``flags`` has ``flags2`` in its upper 32 bits."""

    major: int
    minor: int
    max_readahead: int
    flags: int


class Opendir(NamedTuple):
    """Open the folder."""

    flags: int
    open_flags: int


class Readdir(NamedTuple):
    """READDIR and READDIRPLUS: entries after cookie ``offset``, in at most ``size`` bytes."""

    fh: int
    offset: int
    size: int


class Lock(NamedTuple):
    """GETLK, SETLK and SETLKW: ``start`` and ``end`` are both in the range, ``type`` is F_RDLCK, F_WRLCK or F_UNLCK."""

    fh: int
    owner: int
    start: int
    end: int
    type: int
    pid: int
    lk_flags: int


class Access(NamedTuple):
    """May the caller do what ``mask`` says, as in access(2)?"""

    mask: int


class Interrupt(NamedTuple):
    """The caller of request ``unique`` was interrupted. No reply, but EAGAIN: ask again."""

    unique: int


class Destroy(NamedTuple):
    """The filesystem is unmounted."""


class Ioctl(NamedTuple):
    """ioctl(2) with ``data`` from the caller, and ``out_size`` bytes at most to return."""

    fh: int
    flags: int
    cmd: int
    arg: int
    out_size: int
    data: bytes


class Poll(NamedTuple):
    """poll(2); ``kh`` is the kernel's name of it in notifications."""

    fh: int
    kh: int
    flags: int
    events: int


class Fallocate(NamedTuple):
    """fallocate(2)."""

    fh: int
    offset: int
    length: int
    mode: int


class Lseek(NamedTuple):
    """SEEK_DATA or SEEK_HOLE from ``offset`` on."""

    fh: int
    offset: int
    whence: int


class CopyFileRange(NamedTuple):
    """COPY_FILE_RANGE and COPY_FILE_RANGE_64, from the inode to ``node_out``."""

    fh_in: int
    offset_in: int
    node_out: int
    fh_out: int
    offset_out: int
    length: int
    flags: int


class Syncfs(NamedTuple):
    """syncfs(2)."""


class Statx(NamedTuple):
    """statx(2); ``fh`` of an open file, None: by inode."""

    fh: int | None
    sx_flags: int
    sx_mask: int


Body = (
    Lookup | Forget | BatchForget | Getattr | Setattr | Readlink | Symlink | Mknod | Mkdir | Unlink | Rmdir
    | Rename | Link | Open | Create | Read | Write | Statfs | Release | Flush | Fsync | Setxattr | Getxattr
    | Listxattr | Removexattr | Init | Opendir | Readdir | Lock | Access | Interrupt | Destroy | Ioctl | Poll
    | Fallocate | Lseek | CopyFileRange | Syncfs | Statx
)  # fmt: skip
