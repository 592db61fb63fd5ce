"""The data folder's own files: who this server is, and which cluster it belongs to.

``lock`` is flocked while the server runs, so two processes never share a folder. ``receipt.key`` is secret
(0600). ``membership.json`` is what the metaserver last said: with it a server starts and serves while the
metaserver is away. A folder of one cluster is never used for another: its chunk ids mean something else there.
"""

import fcntl
import os
import secrets
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec

from cloudverge_protocol.errors import Code, ProtocolFault, Unavailable
from cloudverge_protocol.ids import ServerId
from cloudverge_protocol.receipts import KEY_BYTES


class Membership(msgspec.Struct, frozen=True):
    """This server's place in its cluster, and the published keys it trusts."""

    server: ServerId
    cluster: str
    history: str
    auth_keys: dict[str, str]
    meta_keys: dict[str, str]


class Home:
    """An opened (and locked) data folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._lock = _locked(folder / "lock")
        self.uuid = _kept(folder / "uuid", lambda: str(uuid.uuid4()).encode()).decode().strip()
        self.receipt_key = _kept(folder / "receipt.key", lambda: secrets.token_bytes(KEY_BYTES))
        if len(self.receipt_key) != KEY_BYTES:
            raise ProtocolFault(
                Code.INVALID, f"{folder}/receipt.key is damaged: restore it, or empty the folder"
            )
        self.membership = self._read_membership()

    def _read_membership(self) -> Membership | None:
        path = self.folder / "membership.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Membership)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            raise ProtocolFault(
                Code.INVALID, f"{path} is damaged: remove it, and the server registers again"
            ) from None

    def join(self, membership: Membership) -> None:
        """Remember what the metaserver said; raises ProtocolFault(WRONG_CLUSTER) for another cluster's."""
        known = self.membership
        if known is not None and known.cluster != membership.cluster:
            raise ProtocolFault(
                Code.WRONG_CLUSTER,
                f"{self.folder} belongs to cluster {known.cluster}, the metaserver to {membership.cluster}: "
                "give this server an empty data folder or the right metaserver",
            )
        if known != membership:
            write_private(self.folder / "membership.json", msgspec.json.encode(membership))
            self.membership = membership

    def close(self) -> None:
        """Unlock the folder."""
        os.close(self._lock)


def _locked(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Unavailable(Code.BUSY, f"{path.parent} is in use by another chunkserver") from None
    return fd


def _kept(path: Path, make: Callable[[], bytes]) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        write_private(path, make())
        return path.read_bytes()


def write_private(path: Path, data: bytes) -> None:
    """Replace a file of ours, durably, readable by us alone."""
    aside = path.with_name(path.name + ".tmp")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(aside, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
