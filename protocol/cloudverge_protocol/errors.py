"""The error tree: one code for each way a request can end badly, the same on every wire.

A code is stable for ever; its class says who can do something about it. Rooms raise these and nothing else
across a seam. Each edge translates once: the mount to errno, HTTP to a status, the command line to an exit
code. Messages are for people: what happened, to which path or server, what to do.
"""

import enum


class Code(enum.IntEnum):
    """Stable numbers of errors; never renumber, only append."""

    # namespace rules (the mount's errno of the same meaning)
    NOT_FOUND = 1
    EXISTS = 2
    NOT_DIR = 3
    IS_DIR = 4
    NOT_EMPTY = 5
    INVALID = 6
    NAME_TOO_LONG = 7
    TOO_MANY_LINKS = 8
    CROSS_SPACE = 9
    LOOP = 10
    NO_ATTR = 11
    TOO_BIG = 12  # an xattr value or list (E2BIG, ERANGE)
    FILE_TOO_BIG = 13
    NOT_PERMITTED = 14
    NOT_SUPPORTED = 15
    BUSY = 16
    STALE = 17  # the row changed under the operation
    BAD_HANDLE = 18
    BEYOND_END = 19  # there is no such place in a file
    LOCKED = 20  # somebody else's lock is in the way
    DEADLOCK = 21  # waiting for this lock would never end
    NO_LOCKS = 22  # too many locks, or too many wait for some
    # rights
    UNAUTHORIZED = 30  # no valid token: the fixed 401
    FORBIDDEN = 31
    READ_ONLY = 32
    FENCED = 33  # an old epoch or incarnation: this holder has been replaced
    SPACE_IN_USE = 34
    # room
    QUOTA = 40
    NO_SPACE = 41
    # chunks
    NO_CHUNK = 50  # not here, or not yours: the same answer
    MOVED = 51  # catch up with the oplog and retry
    GAP = 52  # an append beyond the chunk's length
    CONFLICT = 53  # an append over different bytes
    SEALED = 54
    DAMAGED = 55  # no good copy of these bytes on this server
    BAD_CHECKSUM = 56  # the bytes received do not match their checksums
    NOT_DURABLE = 57  # a write names bytes without R receipts
    NOT_YOURS = 58  # a write names a chunk of another session
    CHUNK_FULL = 59
    # protocol
    BAD_REQUEST = 70
    BAD_FRAME = 71
    VERSION = 72
    WRONG_CLUSTER = 73
    WRONG_HISTORY = 74
    RESYNC = 75  # the oplog no longer reaches back that far
    # availability
    TIMEOUT = 80
    UNREACHABLE = 81
    UNAVAILABLE = 82  # the server is there, what it needs is not: try again
    INTERNAL = 83


class CloudVergeError(Exception):
    """Base of all errors that cross a seam; ``code`` says which, the text is for people."""

    def __init__(self, code: Code, message: str = "") -> None:
        super().__init__(message or code.name)
        self.code = code
        self.retry_after_s = 0.0  # a hint for the caller; 0: none
        self.message = message or code.name.lower().replace("_", " ")
        self.suspicious: bool | None = None  # whether only a lying client can meet it; None: as its code says

    @property
    def is_suspicious(self) -> bool:
        """Whether no client of ours, in whatever state, could have caused this."""
        return self.code in _SUSPICIOUS if self.suspicious is None else self.suspicious


class Refused(CloudVergeError):
    """A rule of the namespace said no: the caller asked for something that cannot be."""


class Denied(CloudVergeError):
    """The caller lacks the right, or has lost it (fenced)."""


class NoRoom(CloudVergeError):
    """Quota or disks are full."""


class ChunkFault(CloudVergeError):
    """Something about one chunk on one server."""


class ProtocolFault(CloudVergeError):
    """The peer speaks wrongly: a bad frame, a bad field, another version or cluster."""


class Unavailable(CloudVergeError):
    """Nobody is wrong, but the answer could not be had now; trying again may help."""


_SUSPICIOUS = frozenset((Code.BAD_REQUEST, Code.FORBIDDEN, Code.NOT_YOURS))


def class_of(code: Code) -> type[CloudVergeError]:
    """The error class whose range ``code`` falls in."""
    for limit, kind in ((30, Refused), (40, Denied), (50, NoRoom), (70, ChunkFault), (80, ProtocolFault)):
        if code < limit:
            return kind
    return Unavailable


def make_error(code: int, message: str = "") -> CloudVergeError:
    """The error for a code read from a wire; an unknown one (a newer peer) becomes INTERNAL."""
    try:
        known = Code(code)
    except ValueError:
        return Unavailable(Code.INTERNAL, f"unknown error code {code}: {message}")
    return class_of(known)(known, message)
