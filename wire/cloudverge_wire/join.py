"""The join token: the secret by which chunkservers enter a cluster and their operators read its metrics.

It lies in the cluster folder, readable by its owner alone, and is sent as a bearer token. It is compared in
constant time and never logged. It gives no right to any byte of a user.
"""

import hmac
import os
import secrets
from pathlib import Path

from cloudverge_protocol.errors import Code, Denied, ProtocolFault

MIN_CHARS = 32
INVALID_MESSAGE = "a valid token is required"


def new_join_token() -> str:
    """A fresh random token."""
    return secrets.token_urlsafe(32)


def read_join_token(path: Path, what: str = "join token") -> str:
    """The token in a file; raises ProtocolFault(INVALID) if it is missing, too short, or open to others.

    ``what`` names other secrets of the same kind in errors.
    """
    try:
        with open(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ProtocolFault(Code.INVALID, f"cannot read the {what} {path}: {error}") from None
    if mode & 0o077:
        raise ProtocolFault(Code.INVALID, f"the {what} {path} is open to others: chmod 600 it")
    if len(token) < MIN_CHARS or not token.isascii():
        raise ProtocolFault(Code.INVALID, f"the {what} {path} is shorter than {MIN_CHARS} characters")
    return token


def check_join_token(presented: str, expected: str) -> None:
    """Raise Denied(UNAUTHORIZED) unless the two are the same."""
    if not expected or not hmac.compare_digest(presented.encode(), expected.encode()):
        raise Denied(Code.UNAUTHORIZED, INVALID_MESSAGE)
