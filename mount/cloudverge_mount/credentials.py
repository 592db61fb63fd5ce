"""Credentials on disk: who this user is in a cluster, and the secret that proves it. Files of mode 0600.

Keyed by cluster id, never by URL: a URL can come to mean another cluster, which must not see the password.
An embedded cluster's credentials lie in its own folder and hold a password made at random. Those of people who signed
in lie in their configuration folder (``account.profiles``) and hold a refresh token, but never a password.

Refresh tokens rotate and using one twice ends them all, so whoever refreshes holds the lock while it reads,
asks and writes: two mounts of one user share a file. What the token is to be traded for is written before it is asked
for: an answer that is lost on the way can be had again.
"""

import fcntl
import os
import re
from pathlib import Path
from typing import BinaryIO

import msgspec

from cloudverge_protocol.errors import Code, Denied, ProtocolFault, Refused

USER_NAME = re.compile(r"[a-z0-9._-]{1,64}")
CLUSTER_ID = re.compile(r"[0-9a-f]{8,64}")


class Credentials(msgspec.Struct, frozen=True):
    """What is kept of one user in one cluster; empty: not known. Printed, it shows no secret."""

    cluster: str
    user: str
    password: str = ""
    refresh_token: str = ""
    next_token: str = ""  # what it is being traded for: asked for, and not answered yet
    server: str = ""  # the auth server's URL, of a cluster elsewhere
    folder: str = ""  # of a cluster of this machine, whose addresses change
    ca: str = ""  # the certificate authority that was pinned, as PEM
    in_keyring: bool = False  # the refresh token is there, not here

    def __repr__(self) -> str:
        return f"<credentials of {self.user} in cluster {self.cluster}>"


class CredentialFile:
    """The file of one cluster."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Credentials | None:
        """What is kept, or None if there is nothing yet."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Credentials)
        except FileNotFoundError:
            return None
        except PermissionError:
            raise Denied(Code.FORBIDDEN, f"{self.path} is not yours to read") from None
        except msgspec.DecodeError:
            raise ProtocolFault(
                Code.BAD_REQUEST, f"{self.path} is damaged: remove it and sign in again"
            ) from None

    def save(self, credentials: Credentials) -> None:
        """Replace the file, whole or not at all, and durably."""
        self._make_folder()
        scratch = self.path.with_suffix(f".{os.getpid()}.new")
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(msgspec.json.encode(credentials))
            file.flush()
            os.fsync(fd)
        scratch.replace(self.path)

    def try_lock(self) -> BinaryIO | None:
        """Keep other processes of this user from refreshing until the result is closed; None: another does."""
        self._make_folder()
        fd = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        file = open(fd, "r+b")  # noqa: SIM115  closing it is what unlocks
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def remove(self) -> None:
        """Keep nothing any more."""
        self.path.unlink(missing_ok=True)  # but not the lock: somebody may be waiting for it

    def _make_folder(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def file_in_cluster_folder(folder: Path, cluster: str, user: str = "") -> CredentialFile:
    """The credentials of an embedded cluster: of whoever it belongs to, or of a further user."""
    further = f"-{user}" if USER_NAME.fullmatch(user) else ""
    return CredentialFile(folder / "secrets" / f"user-{_safe(cluster)}{further}.json")


def file_name(cluster: str, user: str) -> str:
    """What the file of a user in a cluster is called, without its folder. Raises ProtocolFault, Refused."""
    if not USER_NAME.fullmatch(user):
        raise Refused(Code.INVALID, f"{user!r} cannot be a user's name: a-z, 0-9 and ._- are allowed")
    return f"{_safe(cluster)}-{user}.json"


def _safe(cluster: str) -> str:
    """A cluster id comes from a server: it must not choose the file."""
    if not CLUSTER_ID.fullmatch(cluster):
        raise ProtocolFault(Code.BAD_REQUEST, f"{cluster[:80]!r} cannot be the id of a cluster")
    return cluster
