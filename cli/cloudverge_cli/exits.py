"""Errors become an exit code and one line on stderr here, and nowhere else on the command line.

| exit | meaning |
|---|---|
| 0 | done |
| 1 | refused: it cannot be, or you may not; or an extra is not installed |
| 2 | wrong usage (typer's own) |
| 4 | no room: quota or disks are full |
| 5 | stored data is damaged or missing |
| 6 | the other side speaks wrongly: another version or another cluster |
| 7 | not to be had now: trying again may help |
| 130 | interrupted |

Lacking a right is a refusal like any other: which of the two it was is often not told, so that nobody learns what
exists, and a script must not depend on it. (3 was used for it once and means nothing now.)
"""

from cloudverge_protocol.errors import (
    ChunkFault,
    CloudVergeError,
    Denied,
    NoRoom,
    ProtocolFault,
    Refused,
    Unavailable,
)

_EXITS: tuple[tuple[type[CloudVergeError], int], ...] = (
    (Refused, 1),
    (Denied, 1),
    (NoRoom, 4),
    (ChunkFault, 5),
    (ProtocolFault, 6),
    (Unavailable, 7),
)
_EXTRA_OF_ROOM = {"cloudverge_mount": "mount", "cloudverge_embedded": "embedded"}


def exit_code(error: CloudVergeError) -> int:
    """The exit code of the table above."""
    return next((code for kind, code in _EXITS if isinstance(error, kind)), 1)


def is_foreign(error: ModuleNotFoundError) -> bool:
    """True if a library is missing; false if a module of our own is, which is a bug."""
    return not (error.name or "cloudverge").startswith("cloudverge")


def missing_extra(command: str, module: str, missing: str | None) -> str:
    """What to tell somebody whose command lacks a library."""
    extra = _EXTRA_OF_ROOM.get(module.partition(".")[0], "server")
    return f'{command} needs {missing}, which is not installed: pip install "cloudverge[{extra}]"'
