"""The file system of somebody who has lost his right to it: everything fails, nothing is remembered.

It stands behind the binding from the moment the loss is known, so that no request of the kernel reaches rows or
bytes any more; what is closed and forgotten is closed and forgotten.
"""

from collections.abc import Sequence
from typing import NoReturn

from cloudverge_mount.filesystem import Caller, Opened, SetattrRequest, Statfs
from cloudverge_protocol.errors import Code, Denied
from cloudverge_protocol.inodes import Inode


class Barred:
    """Satisfies ``filesystem.FileSystem``; ``reason`` is for people."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def _refuse(self) -> NoReturn:
        raise Denied(Code.FORBIDDEN, self._reason)

    async def lookup(self, parent: int, name: bytes) -> Inode:
        self._refuse()

    async def forget(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Nothing is remembered."""

    async def getattr(self, ino: int) -> Inode:
        self._refuse()

    async def setattr(self, ino: int, changes: SetattrRequest, ctx: Caller) -> Inode:
        self._refuse()

    async def readlink(self, ino: int) -> bytes:
        self._refuse()

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Caller) -> Inode:
        self._refuse()

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Caller) -> Inode:
        self._refuse()

    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: Caller) -> Inode:
        self._refuse()

    async def link(self, ino: int, new_parent: int, new_name: bytes) -> Inode:
        self._refuse()

    async def unlink(self, parent: int, name: bytes) -> None:
        self._refuse()

    async def rmdir(self, parent: int, name: bytes) -> None:
        self._refuse()

    async def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        self._refuse()

    async def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Caller) -> tuple[int, Inode]:
        self._refuse()

    async def open(self, ino: int, flags: int, ctx: Caller) -> Opened:
        self._refuse()

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        self._refuse()

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        self._refuse()

    async def flush(self, fh: int) -> None:
        """Nothing of it is kept."""

    async def release(self, fh: int) -> None:
        """Nothing of it is kept."""

    async def fsync(self, fh: int, datasync: bool) -> None:
        self._refuse()

    async def opendir(self, ino: int) -> int:
        self._refuse()

    async def readdir(self, fh: int, after: int, budget: int) -> Sequence[tuple[bytes, Inode, int]]:
        self._refuse()

    async def releasedir(self, fh: int) -> None:
        """Nothing of it is kept."""

    async def fsyncdir(self, fh: int) -> None:
        self._refuse()

    async def statfs(self) -> Statfs:
        self._refuse()

    async def getxattr(self, ino: int, name: bytes) -> bytes:
        self._refuse()

    async def setxattr(self, ino: int, name: bytes, value: bytes, flags: int) -> None:
        self._refuse()

    async def listxattr(self, ino: int) -> Sequence[bytes]:
        self._refuse()

    async def removexattr(self, ino: int, name: bytes) -> None:
        self._refuse()

    async def access(self, ino: int, mode: int, ctx: Caller) -> bool:
        self._refuse()
