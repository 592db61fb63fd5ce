"""What the FUSE binding asks of the file system behind it: one protocol and its small structs.

Nothing here knows FUSE. All methods raise ``CloudVergeError`` only, and answer without suspending whenever
they can. Inodes are returned as they are to be shown (owners already mapped by the owner policy).
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.inodes import Inode


class Caller(NamedTuple):
    """Who made the system call."""

    uid: int
    gid: int
    pid: int
    umask: int


class SetattrRequest(NamedTuple):
    """What chmod, chown, truncate and utimensat ask for; None is left as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


class Opened(NamedTuple):
    """An open file. ``keep_cache``: what the kernel has cached of it is still right."""

    fh: int
    keep_cache: bool = True
    direct_io: bool = False


class Statfs(NamedTuple):
    """Room, in units of ``block_bytes`` and in inodes."""

    block_bytes: int
    blocks: int
    blocks_free: int
    inodes: int
    inodes_free: int


class Listed(NamedTuple):
    """One name of a listing; ``cookie`` continues the listing after it."""

    name: bytes
    inode: Inode
    cookie: int


class Lock(NamedTuple):
    """A lock of fcntl(2) or, ``is_flock``, of flock(2), which is one of the whole file. ``end`` is in the range.

    ``owner`` is the kernel's number of whoever has it (for open file descriptions: of that); ``type`` is F_RDLCK,
    F_WRLCK or F_UNLCK.
    """

    owner: int
    start: int
    end: int
    type: int
    pid: int
    is_flock: bool = False


class FileSystem(Protocol):
    """The operations behind the binding. ``parent`` and ``ino`` are inode numbers, names raw bytes."""

    async def lookup(self, parent: int, name: bytes) -> Inode: ...
    async def forget(self, pairs: Sequence[tuple[int, int]]) -> None: ...
    async def getattr(self, ino: int) -> Inode: ...
    async def setattr(self, ino: int, changes: SetattrRequest, ctx: Caller) -> Inode: ...
    async def readlink(self, ino: int) -> bytes: ...
    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Caller) -> Inode: ...
    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Caller) -> Inode: ...
    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: Caller) -> Inode: ...
    async def link(self, ino: int, new_parent: int, new_name: bytes) -> Inode: ...
    async def unlink(self, parent: int, name: bytes) -> None: ...
    async def rmdir(self, parent: int, name: bytes) -> None: ...
    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None: ...
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: Caller
    ) -> tuple[int, Inode]: ...
    async def open(self, ino: int, flags: int, ctx: Caller) -> Opened: ...
    async def read(self, fh: int, offset: int, size: int) -> bytes: ...
    async def views(self, fh: int, offset: int, size: int) -> Sequence[Buffer]:
        """As ``read``, in pieces: parts of caches perhaps, to be used before anything else happens, and not changed."""

    async def write(self, fh: int, offset: int, data: bytes) -> int: ...
    async def flush(self, fh: int, lock_owner: int = 0) -> None:
        """``lock_owner`` (0: nobody) has closed a descriptor, and so loses all his POSIX locks of the file."""

    async def release(self, fh: int, flock_owner: int = 0) -> None:
        """``flock_owner``, if not 0, has ended, and with it its flock(2)."""

    async def fsync(self, fh: int, datasync: bool) -> None: ...
    async def tmpfile(self, parent: int, mode: int, flags: int, ctx: Caller) -> tuple[int, Inode]:
        """As ``create``, without a name: O_TMPFILE. ``link`` may give it one, unless ``flags`` has O_EXCL."""

    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        """fallocate(2); ``mode`` is its flags."""

    async def lseek(self, fh: int, offset: int, whence: int) -> int:
        """lseek(2) for SEEK_DATA and SEEK_HOLE."""

    async def copy_file_range(
        self, fh_in: int, offset_in: int, fh_out: int, offset_out: int, length: int
    ) -> int:
        """copy_file_range(2): how many bytes were copied, which may be fewer than were asked for."""

    async def opendir(self, ino: int) -> int: ...
    async def readdir(self, fh: int, after: int, budget: int) -> Sequence[tuple[bytes, Inode, int]]:
        """``budget`` names after cookie ``after`` (0: from the start), or all there are; '.' and '..' among them."""

    async def listdir(self, ino: int, after: int, budget: int) -> Sequence[tuple[bytes, Inode, int]]:
        """As ``readdir``, of a folder that was not opened here."""

    async def releasedir(self, fh: int) -> None: ...
    async def fsyncdir(self, fh: int) -> None:
        """``fh`` 0: a folder that was not opened here."""

    async def statfs(self) -> Statfs: ...
    async def getxattr(self, ino: int, name: bytes) -> bytes: ...
    async def setxattr(
        self, ino: int, name: bytes, value: bytes, flags: int, kill_sgid: bool = False
    ) -> None:
        """``kill_sgid``: if this is an access control list, setgid goes (FUSE_SETXATTR_ACL_KILL_SGID)."""

    async def listxattr(self, ino: int) -> Sequence[bytes]: ...
    async def removexattr(self, ino: int, name: bytes) -> None: ...
    async def access(self, ino: int, mode: int, ctx: Caller) -> bool: ...
    async def getlk(self, ino: int, fh: int, lock: Lock) -> Lock | None:
        """What is in the way of ``lock``, None if nothing is."""

    async def setlk(self, ino: int, fh: int, lock: Lock, wait: bool) -> None:
        """Take, convert or give up a lock; one that is not free is waited for, for any time, or refused (LOCKED).

        Whoever does not want to wait any more cancels the call: the lock has not been taken then.
        """
