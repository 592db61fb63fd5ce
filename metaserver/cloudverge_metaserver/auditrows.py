"""Operations of the oplog told for people, and the chain of hashes through what was told. Pure.

What one session does to the content and attributes of one inode within a minute is one line, however many operations
it took: a new file that is written and given its mode was "created". What touches names is never put together, so
that each name a file ever had can be found. Machinery is left out: reads (an access time alone), the end of chunks,
the reaping of files that had no name any more.
"""

import hashlib
import stat
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from cloudverge_protocol.ids import InodeId, SessionId, SpaceId
from cloudverge_protocol.operations import (
    RENAME_EXCHANGE,
    CloneRange,
    Create,
    Link,
    Operation,
    PunchHole,
    Removexattr,
    Rename,
    Rmdir,
    Setattr,
    Setxattr,
    Truncate,
    Unlink,
    Write,
)

TOGETHER_S: Final = 60.0
HASH_BYTES: Final = 32
XATTRS_SHOWN: Final = 8
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_KINDS: Final = {
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
_encode: Final = msgspec.msgpack.Encoder().encode


class Line(msgspec.Struct):
    """Something that was done, before it is known who did it."""

    seq_first: int
    seq_last: int
    at: datetime
    session: SessionId
    action: str
    ino: InodeId
    parent: InodeId | None = None
    name: bytes | None = None
    new_parent: InodeId | None = None
    new_name: bytes | None = None
    details: dict[str, str] = {}

    @property
    def detail(self) -> str:
        """All details in one text."""
        return ", ".join(self.details.values())


class Who(msgspec.Struct, frozen=True):
    """Whose session it was."""

    user: int = 0
    user_name: str = ""
    device: int = 0
    device_name: str = ""


class Gathering:
    """Takes operations in the order of the oplog; ``lines`` is what they come to."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._open: dict[tuple[SessionId, InodeId], Line] = {}  # what may still be put together

    def add(self, seq: int, session: SessionId, at: datetime, op: Operation) -> None:
        """One more operation."""
        tell = _TELLERS.get(type(op))
        if tell is not None:
            tell(self, Line(seq, seq, at, session, "", InodeId(0)), op)

    def _create(self, line: Line, op: Create) -> None:
        line.action, line.ino = "created", op.ino
        if op.name:
            line.parent, line.name = op.parent, op.name
        kind = _KINDS.get(stat.S_IFMT(op.mode)) if op.name else "without a name"
        line.details = {"kind": kind} if kind else {}
        self.lines.append(line)
        self._open[line.session, op.ino] = line

    def _link(self, line: Line, op: Link) -> None:
        line.action, line.ino, line.parent, line.name = "linked", op.ino, op.parent, op.name
        self.lines.append(line)

    def _remove(self, line: Line, op: Unlink | Rmdir) -> None:
        line.action, line.ino, line.parent, line.name = "removed", op.ino, op.parent, op.name
        line.details = {"kind": "folder"} if isinstance(op, Rmdir) else {}
        self.lines.append(line)
        self._open.pop((line.session, op.ino), None)

    def _rename(self, line: Line, op: Rename) -> None:
        other = msgspec.structs.replace(line)
        line.action, line.ino = "renamed", op.ino
        line.parent, line.name, line.new_parent, line.new_name = (
            op.parent,
            op.name,
            op.new_parent,
            op.new_name,
        )
        self.lines.append(line)
        if not op.target or op.target == op.ino:
            return
        other.ino, other.parent, other.name = op.target, op.new_parent, op.new_name
        if op.flags & RENAME_EXCHANGE:
            other.action, other.new_parent, other.new_name = "renamed", op.parent, op.name
        else:
            other.action = "replaced"
            self._open.pop((line.session, op.target), None)
        self.lines.append(other)

    def _write(self, line: Line, op: Write | Truncate) -> None:
        self._together(line, "wrote", op.ino)["size"] = f"size {op.size}"

    def _punch(self, line: Line, op: PunchHole) -> None:
        self._together(line, "wrote", op.ino)["hole"] = "emptied a range"

    def _clone(self, line: Line, op: CloneRange) -> None:
        self._together(line, "wrote", op.dst)["clone"] = f"cloned from inode {op.src}"

    def _setattr(self, line: Line, op: Setattr) -> None:
        if op.mode is None and op.uid is None and op.gid is None and op.mtime_ns is None:
            return
        details = self._together(line, "changed", op.ino)
        if op.mode is not None:
            details["mode"] = f"mode {op.mode:04o}"
        if op.uid is not None or op.gid is not None:
            uid, gid = ("-" if each is None else each for each in (op.uid, op.gid))
            details["owner"] = f"owner {uid}:{gid}"
        if op.mtime_ns is not None:
            details["times"] = "times"

    def _xattr(self, line: Line, op: Setxattr | Removexattr) -> None:
        details = self._together(line, "changed", op.ino)
        name = op.name.decode(errors="backslashreplace").replace("\0", "\\0")
        if f"@{name}" in details or len(details) < XATTRS_SHOWN:
            verb = "attribute" if isinstance(op, Setxattr) else "removed attribute"
            details[f"@{name}"] = f"{verb} {name}"
        else:
            details["@"] = "more attributes"

    def _together(self, line: Line, action: str, ino: InodeId) -> dict[str, str]:
        """The details of the line that this belongs to: of the same session and inode, not long ago."""
        known = self._open.get((line.session, ino))
        if known is not None and (line.at - known.at).total_seconds() <= TOGETHER_S:
            known.seq_last = line.seq_last
            if known.action == "changed":
                known.action = action
            return known.details
        line.action, line.ino, line.details = action, ino, {}
        self.lines.append(line)
        self._open[line.session, ino] = line
        return line.details


_TELLERS: Final[dict[type, Callable[[Gathering, Line, Any], None]]] = {
    Create: Gathering._create,
    Link: Gathering._link,
    Unlink: Gathering._remove,
    Rmdir: Gathering._remove,
    Rename: Gathering._rename,
    Write: Gathering._write,
    Truncate: Gathering._write,
    PunchHole: Gathering._punch,
    CloneRange: Gathering._clone,
    Setattr: Gathering._setattr,
    Setxattr: Gathering._xattr,
    Removexattr: Gathering._xattr,
}

COLUMNS: Final = (
    "space", "n", "seq_first", "seq_last", "at", "user_id", "user_name", "device", "device_name", "session",
    "action", "ino", "parent", "name", "new_parent", "new_name", "detail", "prev", "hash",
)  # fmt: skip
AT: Final = COLUMNS.index("at")


def row_of(space: SpaceId, n: int, line: Line, who: Who, prev: bytes) -> tuple[Any, ...]:
    """A row of meta.audit, in the order of COLUMNS."""
    row = (
        space, n, line.seq_first, line.seq_last, line.at, who.user, who.user_name, who.device, who.device_name,
        line.session, line.action, line.ino, line.parent, line.name, line.new_parent, line.new_name, line.detail,
        prev,
    )  # fmt: skip
    return (*row, hash_of(row))


def hash_of(row: Iterable[Any]) -> bytes:
    """The hash of a row without its last column: BLAKE2b-256 of its msgpack, times in microseconds since 1970."""
    values = list(row)
    values[AT] = (values[AT] - _EPOCH) // _MICROSECOND
    return hashlib.blake2b(_encode(values), digest_size=HASH_BYTES).digest()


def is_true(row: Iterable[Any]) -> bool:
    """Whether a row of COLUMNS has the hash that it should have."""
    *values, said = row
    return hash_of(values) == bytes(said)
