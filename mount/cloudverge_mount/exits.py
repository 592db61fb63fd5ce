"""Errors to exit codes and one line on stderr, for the commands of this room; the same numbers as those of ``cv``."""

import sys
from typing import Final

from cloudverge_mount.tlsfaults import Untrusted
from cloudverge_protocol.errors import (
    ChunkFault,
    CloudVergeError,
    Denied,
    NoRoom,
    ProtocolFault,
    Refused,
    Unavailable,
)

_EXITS: Final[tuple[tuple[type[CloudVergeError], int], ...]] = (
    (Untrusted, 6),
    (Refused, 1),
    (Denied, 1),
    (NoRoom, 4),
    (ChunkFault, 5),
    (ProtocolFault, 6),
    (Unavailable, 7),
)


def exit_code(error: CloudVergeError) -> int:
    """The exit code for an error."""
    return next((code for kind, code in _EXITS if isinstance(error, kind)), 1)


def complain(program: str, error: CloudVergeError) -> int:
    """Say what went wrong; returns the exit code."""
    print(f"{program}: {error.message}", file=sys.stderr)
    return exit_code(error)
