"""What the kernel offers and pyfuse3 does not ask for, asked for all the same.

pyfuse3 hands libfuse a table of functions and libfuse answers the kernel's INIT; neither can be told more from
Python. So the import slot of ``fuse_session_new`` in pyfuse3 is replaced before the session is made, and that of
``writev`` in libfuse for exactly one call, the answer to INIT:

* Listings are kept in the kernel's page cache (FOPEN_CACHE_DIR with FOPEN_KEEP_CACHE): a folder nobody has changed
  is listed again without a request. The kernel drops them when the folder changes through this mount, and
  ``invalidate_inode`` drops them when it changed elsewhere.
* A descriptor that cannot write is closed without a FLUSH (FOPEN_NOFLUSH): nothing can be left to be kept.
* FUSE_HANDLE_KILLPRIV_V2: the kernel leaves the clearing of setuid, setgid and capabilities to us, and therefore
  need not ask for ``security.capability`` before each write, which otherwise doubles the requests of small writes.

Both are only speed. Where this cannot be done ``FuseHook.install`` says so and everything works as pyfuse3 has it.
It rests on the layout of two structs that libfuse 3 may only append to. With KILLPRIV_V2 the file system clears the
bits on write, truncate and chown, and the binding lets the kernel keep no mode that has them.
"""

import ctypes
import os
from ctypes import c_int, c_size_t, c_ssize_t, c_uint32, c_uint64, c_void_p
from typing import Any, Final

import pyfuse3

from cloudverge_mount.importslots import Unsupported, swap

OPEN: Final = 14  # their places in struct fuse_lowlevel_ops
OPENDIR: Final = 20
POINTER_BYTES: Final = 8
FILE_INFO_BITS: Final = 4  # offset of the bit field in struct fuse_file_info
KEEP_CACHE: Final = 1 << 2
CACHE_READDIR: Final = 1 << 6
NOFLUSH: Final = 1 << 7  # since libfuse 3.11; before that nobody looks at the bit
VERSION_MIN: Final = 305  # libfuse 3.5, the first with cache_readdir
BROKEN: Final = ("3.14.1",)  # had another struct fuse_file_info

OUT_HEADER_BYTES: Final = 16
INIT_OUT_FLAGS: Final = 12  # offset of flags in struct fuse_init_out
INIT_OUT_BYTES_MIN: Final = 24
HANDLE_KILLPRIV_V2: Final = 1 << 28

# PYFUNCTYPE keeps the interpreter lock: pyfuse3 holds it in all of its calls
_NEW: Final = ctypes.PYFUNCTYPE(c_void_p, c_void_p, c_void_p, c_size_t, c_void_p)
_OPEN: Final = ctypes.PYFUNCTYPE(None, c_void_p, c_uint64, c_void_p)
_WRITEV: Final = ctypes.PYFUNCTYPE(c_ssize_t, c_int, c_void_p, c_int)


def _check_libfuse() -> None:
    libfuse = ctypes.CDLL("libfuse3.so.3")
    libfuse.fuse_pkgversion.restype = ctypes.c_char_p
    package = libfuse.fuse_pkgversion().decode()
    if libfuse.fuse_version() < VERSION_MIN or package in BROKEN:
        raise Unsupported(f"libfuse {package}")


class FuseHook:
    """Keep it as long as the session lasts: the kernel's answers pass through its functions."""

    def __init__(self) -> None:
        self._new = _NEW(self._session_new)
        self._open = _OPEN(self._open_file)
        self._opendir = _OPEN(self._open_folder)
        self._writev = _WRITEV(self._answer_init)
        self._real_new = _NEW()
        self._real_open = _OPEN()
        self._real_opendir = _OPEN()
        self._real_writev = _WRITEV()
        self._real_writev_pointer = 0
        self.caches_listings = True

    def install(self) -> None:
        """Call before ``pyfuse3.init``; raises Unsupported, having changed nothing."""
        _check_libfuse()
        self._real_writev_pointer = swap("/libfuse3.so", "writev", _pointer(self._writev))
        self._real_writev = _WRITEV(self._real_writev_pointer)
        try:
            real_new = swap(pyfuse3.__file__, "fuse_session_new", _pointer(self._new))
        except Unsupported:
            self._restore_writev()
            raise
        self._real_new = _NEW(real_new)

    def _restore_writev(self) -> None:
        swap("/libfuse3.so", "writev", self._real_writev_pointer)

    def _session_new(self, arguments: int, operations: int, size: int, data: int) -> int | None:
        swap(pyfuse3.__file__, "fuse_session_new", _pointer(self._real_new))
        if size >= (OPENDIR + 1) * POINTER_BYTES:
            self._real_open = _replace(operations + OPEN * POINTER_BYTES, self._open)
            self._real_opendir = _replace(operations + OPENDIR * POINTER_BYTES, self._opendir)
        session: int | None = self._real_new(arguments, operations, size, data)
        return session

    def _open_file(self, request: int, ino: int, file_info: int) -> None:
        if c_int.from_address(file_info).value & os.O_ACCMODE == os.O_RDONLY:
            c_uint32.from_address(file_info + FILE_INFO_BITS).value |= NOFLUSH
        self._real_open(request, ino, file_info)

    def _open_folder(self, request: int, ino: int, file_info: int) -> None:
        if self.caches_listings:
            c_uint32.from_address(file_info + FILE_INFO_BITS).value |= KEEP_CACHE | CACHE_READDIR
        self._real_opendir(request, ino, file_info)

    def _answer_init(self, fd: int, vectors: int, count: int) -> int:
        self._restore_writev()
        if count == 2:  # a header and the answer itself
            _, header_bytes, answer, answer_bytes = (c_uint64 * 4).from_address(vectors)
            if header_bytes == OUT_HEADER_BYTES and answer_bytes >= INIT_OUT_BYTES_MIN:
                c_uint32.from_address(answer + INIT_OUT_FLAGS).value |= HANDLE_KILLPRIV_V2
        written: int = self._real_writev(fd, vectors, count)
        return written


def _replace(address: int, function: Any) -> Any:  # noqa: ANN401  # a type that ctypes makes
    """Put ``function`` into the slot; what was there."""
    slot = c_uint64.from_address(address)
    before = _OPEN(slot.value)
    slot.value = _pointer(function)
    return before


def _pointer(function: object) -> int:
    return ctypes.cast(function, c_void_p).value or 0  # type: ignore[arg-type]
