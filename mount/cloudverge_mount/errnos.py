"""Errors to errno: the one place where a code of the protocol becomes what a system call returns."""

import errno
from typing import Final

from cloudverge_protocol.errors import CloudVergeError, Code

_ERRNOS: Final = {
    Code.NOT_FOUND: errno.ENOENT,
    Code.EXISTS: errno.EEXIST,
    Code.NOT_DIR: errno.ENOTDIR,
    Code.IS_DIR: errno.EISDIR,
    Code.NOT_EMPTY: errno.ENOTEMPTY,
    Code.INVALID: errno.EINVAL,
    Code.NAME_TOO_LONG: errno.ENAMETOOLONG,
    Code.TOO_MANY_LINKS: errno.EMLINK,
    Code.CROSS_SPACE: errno.EXDEV,
    Code.LOOP: errno.ELOOP,
    Code.NO_ATTR: errno.ENODATA,
    Code.TOO_BIG: errno.E2BIG,
    Code.FILE_TOO_BIG: errno.EFBIG,
    Code.NOT_PERMITTED: errno.EPERM,
    Code.NOT_SUPPORTED: errno.EOPNOTSUPP,
    Code.BUSY: errno.EBUSY,
    Code.STALE: errno.ESTALE,
    Code.BAD_HANDLE: errno.EBADF,
    Code.LOCKED: errno.EAGAIN,
    Code.DEADLOCK: errno.EDEADLK,
    Code.NO_LOCKS: errno.ENOLCK,
    Code.BEYOND_END: errno.ENXIO,
    Code.UNAUTHORIZED: errno.EACCES,
    Code.FORBIDDEN: errno.EACCES,
    Code.READ_ONLY: errno.EROFS,
    Code.FENCED: errno.EIO,
    Code.SPACE_IN_USE: errno.EIO,
    Code.QUOTA: errno.EDQUOT,
    Code.NO_SPACE: errno.ENOSPC,
    Code.TIMEOUT: errno.ETIMEDOUT,
}


def errno_of(error: CloudVergeError) -> int:
    """What the system call that met ``error`` returns; whatever has no errno of its own is EIO."""
    return _ERRNOS.get(error.code, errno.EIO)
