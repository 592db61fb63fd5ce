"""Requests of the kernel, from the bytes that read(2) gave to values.

This runs once for each request, before anything else does: a table leads from the opcode to the struct that is
unpacked where it lies, and most unpacked structs are the arguments as they are. Nothing of the buffer is referred to
by what is returned, so it can be read into again at once; the data of a WRITE is copied once.

A request that is not what its opcode says raises BadRequest and nothing else, whatever its bytes are. An opcode that
is not known is no fault: its body is None. Bytes behind arguments of a fixed size are ignored, as are the extensions
behind the names of what is made, since newer kernels may have more to say.
"""

from collections.abc import Callable, Iterable
from struct import Struct
from typing import Any, Final, NamedTuple, Protocol, TypeVar, cast

from cloudverge_mount.fuse import bodies, layouts
from cloudverge_mount.fuse.abi import FSYNC_FDATASYNC, GETATTR_FH, Opcode
from cloudverge_mount.fuse.abi import Init as InitFlag
from cloudverge_mount.fuse.bodies import Body
from cloudverge_mount.fuse.layouts import IN_BODY

T = TypeVar("T")

Buffer = bytes | bytearray | memoryview  # a memoryview of single bytes

NAME_MAX: Final = 255  # of names that are unpacked by a struct of their own; longer ones are decoded, too
SECOND_NS: Final = 1_000_000_000


class BadRequest(Exception):
    """A request is malformed. ``unique`` and ``opcode`` are known (not None) if it had a whole header."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unique: int | None = None
        self.opcode: int | None = None


class Request(NamedTuple):
    """One request: who asks (``uid``, ``gid``, ``pid``) for what (``opcode``) of which inode (``node``).

    ``unique`` goes into the reply. ``body`` are the opcode's arguments, None if the opcode is not known here.
    """

    opcode: int
    unique: int
    node: int
    uid: int
    gid: int
    pid: int
    body: Body | None


class _New(Protocol):
    def __call__(self, kind: type[T], fields: Iterable[Any], /) -> T: ...


_new: Final = cast("_New", tuple.__new__)  # half the time of a NamedTuple's own constructor
_header: Final = layouts.IN_HEADER.unpack_from
_getattr_in: Final = layouts.GETATTR_IN.unpack_from
_write_in: Final = layouts.WRITE_IN.unpack_from
_names: Final = [layouts.text(size).unpack_from for size in range(NAME_MAX + 1)]

# Where the arguments end at least; a struct and its NamedTuple, or None and a function of the buffer and its length
_Entry = tuple[int, Callable[[Buffer, int], tuple[Any, ...]] | None, Any]


class Decoder:
    """Decodes the requests of one mount; ``setxattr_ext`` is whether SETXATTR_EXT was agreed on."""

    __slots__ = ("_table",)

    def __init__(self, *, setxattr_ext: bool = False) -> None:
        kind = layouts.SETXATTR_EXT_IN if setxattr_ext else layouts.SETXATTR_IN
        form = _setxattr_ext if setxattr_ext else _setxattr
        self._table: dict[int, _Entry] = {**_TABLE, int(Opcode.SETXATTR): (IN_BODY + kind.size, None, form)}

    def decode(self, buffer: Buffer, length: int) -> Request:
        """The request in the first ``length`` bytes of ``buffer``; raises BadRequest."""
        if not IN_BODY <= length <= len(buffer):
            raise BadRequest(f"{length} bytes in a buffer of {len(buffer)}")
        size, opcode, unique, node, uid, gid, pid, _ = _header(buffer)
        try:
            if size != length:
                raise BadRequest(f"{length} bytes, of which the header says {size}")
            entry = self._table.get(opcode)
            if entry is None:
                body = None
            else:
                end, unpack, make = entry
                if length < end:
                    raise BadRequest(f"{length} bytes instead of {end}")
                body = make(buffer, length) if unpack is None else _new(make, unpack(buffer, IN_BODY))
        except BadRequest as error:
            error.unique, error.opcode = unique, opcode
            raise
        return _new(Request, (opcode, unique, node, uid, gid, pid, body))


def _copy(buffer: Buffer, start: int, end: int) -> bytes:
    return bytes(memoryview(buffer)[start:end])


def _name(buffer: Buffer, start: int, length: int) -> bytes:
    """The name that is all there is from ``start`` on."""
    name: bytes
    size = length - start - 1
    if 0 < size <= NAME_MAX:
        name, end = _names[size](buffer, start)
    elif size > NAME_MAX:
        name, end = _copy(buffer, start, length - 1), buffer[length - 1]
    else:
        raise BadRequest("no name")
    if end or b"\0" in name:
        raise BadRequest("a name does not end where its request ends")
    return name


def _texts(buffer: Buffer, start: int, length: int, count: int) -> list[bytes]:
    """The first ``count`` strings from ``start`` on, and what is behind them."""
    parts = _copy(buffer, start, length).split(b"\0", count)
    if len(parts) <= count or not all(parts[:count]):
        raise BadRequest("a string is empty or does not end")
    return parts


def _only_texts(buffer: Buffer, start: int, length: int, count: int) -> list[bytes]:
    parts = _texts(buffer, start, length, count)
    if parts.pop():
        raise BadRequest("bytes behind the last string")
    return parts


def _lookup(buffer: Buffer, length: int) -> bodies.Lookup:
    return _new(bodies.Lookup, (_name(buffer, IN_BODY, length),))


def _getattr(buffer: Buffer, length: int) -> bodies.Getattr:
    flags, fh = _getattr_in(buffer, IN_BODY)
    return _new(bodies.Getattr, (fh if flags & GETATTR_FH else None,))


def _write(buffer: Buffer, length: int) -> bodies.Write:
    fields = _write_in(buffer, IN_BODY)
    start = IN_BODY + layouts.WRITE_IN.size
    if start + fields[2] != length:
        raise BadRequest(f"{length - start} bytes to write instead of {fields[2]}")
    return _new(bodies.Write, (*fields, _copy(buffer, start, length)))


def _batch_forget(buffer: Buffer, length: int) -> bodies.BatchForget:
    (count,) = layouts.BATCH_FORGET_IN.unpack_from(buffer, IN_BODY)
    start = IN_BODY + layouts.BATCH_FORGET_IN.size
    end = start + count * layouts.FORGET_ONE.size
    if end > length:
        raise BadRequest(f"{count} inodes to forget in {length} bytes")
    return bodies.BatchForget(tuple(layouts.FORGET_ONE.iter_unpack(memoryview(buffer)[start:end])))


def _setattr(buffer: Buffer, length: int) -> bodies.Setattr:
    fields = layouts.SETATTR_IN.unpack_from(buffer, IN_BODY)
    valid, fh, size, owner, atime, mtime, ctime, atime_part, mtime_part, ctime_part, mode, uid, gid = fields
    return bodies.Setattr(
        valid,
        fh,
        size,
        owner,
        atime * SECOND_NS + atime_part,
        mtime * SECOND_NS + mtime_part,
        ctime * SECOND_NS + ctime_part,
        mode,
        uid,
        gid,
    )


def _symlink(buffer: Buffer, length: int) -> bodies.Symlink:
    name, target, _ = _texts(buffer, IN_BODY, length, 2)
    return bodies.Symlink(name, target)


def _mknod(buffer: Buffer, length: int) -> bodies.Mknod:
    fields = layouts.MKNOD_IN.unpack_from(buffer, IN_BODY)
    return bodies.Mknod(_texts(buffer, IN_BODY + layouts.MKNOD_IN.size, length, 1)[0], *fields)


def _mkdir(buffer: Buffer, length: int) -> bodies.Mkdir:
    fields = layouts.MKDIR_IN.unpack_from(buffer, IN_BODY)
    return bodies.Mkdir(_texts(buffer, IN_BODY + layouts.MKDIR_IN.size, length, 1)[0], *fields)


def _create(buffer: Buffer, length: int) -> bodies.Create:
    fields = layouts.CREATE_IN.unpack_from(buffer, IN_BODY)
    return bodies.Create(_texts(buffer, IN_BODY + layouts.CREATE_IN.size, length, 1)[0], *fields)


def _unlink(buffer: Buffer, length: int) -> bodies.Unlink:
    return bodies.Unlink(_name(buffer, IN_BODY, length))


def _rmdir(buffer: Buffer, length: int) -> bodies.Rmdir:
    return bodies.Rmdir(_name(buffer, IN_BODY, length))


def _rename(buffer: Buffer, length: int) -> bodies.Rename:
    (new_parent,) = layouts.RENAME_IN.unpack_from(buffer, IN_BODY)
    name, new_name = _only_texts(buffer, IN_BODY + layouts.RENAME_IN.size, length, 2)
    return bodies.Rename(name, new_parent, new_name, 0)


def _rename2(buffer: Buffer, length: int) -> bodies.Rename:
    new_parent, flags = layouts.RENAME2_IN.unpack_from(buffer, IN_BODY)
    name, new_name = _only_texts(buffer, IN_BODY + layouts.RENAME2_IN.size, length, 2)
    return bodies.Rename(name, new_parent, new_name, flags)


def _link(buffer: Buffer, length: int) -> bodies.Link:
    (ino,) = layouts.LINK_IN.unpack_from(buffer, IN_BODY)
    return bodies.Link(ino, _name(buffer, IN_BODY + layouts.LINK_IN.size, length))


def _fsync(buffer: Buffer, length: int) -> bodies.Fsync:
    fh, flags = layouts.FSYNC_IN.unpack_from(buffer, IN_BODY)
    return bodies.Fsync(fh, bool(flags & FSYNC_FDATASYNC))


def _valued(buffer: Buffer, start: int, length: int, size: int) -> tuple[bytes, bytes]:
    """The name of an extended attribute and its value of ``size`` bytes."""
    name, value = _texts(buffer, start, length, 1)
    if len(value) != size:
        raise BadRequest(f"{len(value)} bytes of value instead of {size}")
    return name, value


def _setxattr(buffer: Buffer, length: int) -> bodies.Setxattr:
    size, flags = layouts.SETXATTR_IN.unpack_from(buffer, IN_BODY)
    name, value = _valued(buffer, IN_BODY + layouts.SETXATTR_IN.size, length, size)
    return bodies.Setxattr(name, value, flags, 0)


def _setxattr_ext(buffer: Buffer, length: int) -> bodies.Setxattr:
    size, flags, setxattr_flags = layouts.SETXATTR_EXT_IN.unpack_from(buffer, IN_BODY)
    name, value = _valued(buffer, IN_BODY + layouts.SETXATTR_EXT_IN.size, length, size)
    return bodies.Setxattr(name, value, flags, setxattr_flags)


def _getxattr(buffer: Buffer, length: int) -> bodies.Getxattr:
    (size,) = layouts.GETXATTR_IN.unpack_from(buffer, IN_BODY)
    return bodies.Getxattr(_name(buffer, IN_BODY + layouts.GETXATTR_IN.size, length), size)


def _removexattr(buffer: Buffer, length: int) -> bodies.Removexattr:
    return bodies.Removexattr(_name(buffer, IN_BODY, length))


def _init(buffer: Buffer, length: int) -> bodies.Init:
    major, minor, readahead, flags = layouts.INIT_IN.unpack_from(buffer, IN_BODY)
    if flags & InitFlag.INIT_EXT.value:
        if length < IN_BODY + layouts.INIT_EXT_IN.size:
            raise BadRequest("INIT is shorter than it says")
        flags |= layouts.INIT_EXT_IN.unpack_from(buffer, IN_BODY)[4] << 32
    return bodies.Init(major, minor, readahead, flags)


def _ioctl(buffer: Buffer, length: int) -> bodies.Ioctl:
    fh, flags, cmd, arg, in_size, out_size = layouts.IOCTL_IN.unpack_from(buffer, IN_BODY)
    start = IN_BODY + layouts.IOCTL_IN.size
    if start + in_size > length:
        raise BadRequest(f"{in_size} bytes for an ioctl in {length} bytes")
    return bodies.Ioctl(fh, flags, cmd, arg, out_size, _copy(buffer, start, start + in_size))


def _statx(buffer: Buffer, length: int) -> bodies.Statx:
    getattr_flags, fh, flags, mask = layouts.STATX_IN.unpack_from(buffer, IN_BODY)
    return bodies.Statx(fh if getattr_flags & GETATTR_FH else None, flags, mask)


def _always(body: Body) -> Callable[[Buffer, int], Body]:
    return lambda buffer, length: body


_PLAIN: Final[dict[Opcode, tuple[Struct, type[Any]]]] = {
    Opcode.FORGET: (layouts.FORGET_IN, bodies.Forget),
    Opcode.OPEN: (layouts.OPEN_IN, bodies.Open),
    Opcode.READ: (layouts.READ_IN, bodies.Read),
    Opcode.RELEASE: (layouts.RELEASE_IN, bodies.Release),
    Opcode.LISTXATTR: (layouts.GETXATTR_IN, bodies.Listxattr),
    Opcode.FLUSH: (layouts.FLUSH_IN, bodies.Flush),
    Opcode.OPENDIR: (layouts.OPEN_IN, bodies.Opendir),
    Opcode.READDIR: (layouts.READDIR_IN, bodies.Readdir),
    Opcode.RELEASEDIR: (layouts.RELEASE_IN, bodies.Release),
    Opcode.GETLK: (layouts.LK_IN, bodies.Lock),
    Opcode.SETLK: (layouts.LK_IN, bodies.Lock),
    Opcode.SETLKW: (layouts.LK_IN, bodies.Lock),
    Opcode.ACCESS: (layouts.ACCESS_IN, bodies.Access),
    Opcode.INTERRUPT: (layouts.INTERRUPT_IN, bodies.Interrupt),
    Opcode.POLL: (layouts.POLL_IN, bodies.Poll),
    Opcode.FALLOCATE: (layouts.FALLOCATE_IN, bodies.Fallocate),
    Opcode.READDIRPLUS: (layouts.READDIR_IN, bodies.Readdir),
    Opcode.LSEEK: (layouts.LSEEK_IN, bodies.Lseek),
    Opcode.COPY_FILE_RANGE: (layouts.COPY_FILE_RANGE_IN, bodies.CopyFileRange),
    Opcode.COPY_FILE_RANGE_64: (layouts.COPY_FILE_RANGE_IN, bodies.CopyFileRange),
}
_MADE: Final[dict[Opcode, tuple[int, Callable[[Buffer, int], Any]]]] = {  # by a function, from so many bytes
    Opcode.LOOKUP: (0, _lookup),
    Opcode.GETATTR: (layouts.GETATTR_IN.size, _getattr),
    Opcode.SETATTR: (layouts.SETATTR_IN.size, _setattr),
    Opcode.READLINK: (0, _always(bodies.Readlink())),
    Opcode.SYMLINK: (0, _symlink),
    Opcode.MKNOD: (layouts.MKNOD_IN.size, _mknod),
    Opcode.MKDIR: (layouts.MKDIR_IN.size, _mkdir),
    Opcode.UNLINK: (0, _unlink),
    Opcode.RMDIR: (0, _rmdir),
    Opcode.RENAME: (layouts.RENAME_IN.size, _rename),
    Opcode.LINK: (layouts.LINK_IN.size, _link),
    Opcode.WRITE: (layouts.WRITE_IN.size, _write),
    Opcode.STATFS: (0, _always(bodies.Statfs())),
    Opcode.FSYNC: (layouts.FSYNC_IN.size, _fsync),
    Opcode.GETXATTR: (layouts.GETXATTR_IN.size, _getxattr),
    Opcode.REMOVEXATTR: (0, _removexattr),
    Opcode.INIT: (layouts.INIT_IN.size, _init),
    Opcode.FSYNCDIR: (layouts.FSYNC_IN.size, _fsync),
    Opcode.CREATE: (layouts.CREATE_IN.size, _create),
    Opcode.DESTROY: (0, _always(bodies.Destroy())),
    Opcode.IOCTL: (layouts.IOCTL_IN.size, _ioctl),
    Opcode.BATCH_FORGET: (layouts.BATCH_FORGET_IN.size, _batch_forget),
    Opcode.RENAME2: (layouts.RENAME2_IN.size, _rename2),
    Opcode.SYNCFS: (0, _always(bodies.Syncfs())),
    Opcode.TMPFILE: (layouts.CREATE_IN.size, _create),
    Opcode.STATX: (layouts.STATX_IN.size, _statx),
}
_TABLE: Final[dict[int, _Entry]] = {
    **{int(op): (IN_BODY + form.size, form.unpack_from, kind) for op, (form, kind) in _PLAIN.items()},
    **{int(op): (IN_BODY + size, None, make) for op, (size, make) in _MADE.items()},
}
