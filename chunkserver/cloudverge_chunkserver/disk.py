"""What the store asks of a disk: a few named files per chunk, and when their bytes are durable.

Two make it: ``posixdisk`` (folders of files) and ``memdisk`` (a dictionary that can lose power). One contract
suite runs on both, so neither may promise more than this page says:

* ``write`` and ``read`` see each other at once; only ``sync`` and ``publish`` make bytes survive a power loss.
* ``publish`` replaces a whole file at once: afterwards, and after a crash at any instant, it has either its
  old bytes or all of its new ones; when it returns, the new ones are durable. ``rename`` is the same for names.
* Everything may be called from any thread. Nothing here knows what the bytes mean.

Faults come out as OSError (FileNotFoundError for an absent file); ``fault_of`` is where they become errors of
the protocol.
"""

import enum
import errno
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import ChunkFault, CloudVergeError, Code, NoRoom, Unavailable
from cloudverge_protocol.ids import ChunkId


class Part(enum.StrEnum):
    """The files of a chunk; the value is the file name's ending."""

    DATA = "data"
    LOG = "log"  # sidecar of an OPEN chunk
    TABLE = "crc"  # sidecar of a SEALED chunk; if both are there, this one holds
    FETCHED = "part"  # data of a copy that is being made


class Stored(NamedTuple):
    """One file found at start."""

    chunk: ChunkId
    part: Part
    size_bytes: int


class Room(NamedTuple):
    """Bytes of the file system under the disk."""

    total_bytes: int
    free_bytes: int


class Disk(Protocol):
    """See the module's text."""

    in_memory: bool  # syncing and reading never wait for a device

    def stored(self) -> Iterator[Stored]:
        """Every file, those of one chunk one after another."""

    def remove_leftovers(self) -> None:
        """Remove what interrupted ``publish`` calls left; at start only."""

    def write(self, chunk: ChunkId, part: Part, offset: int, data: Buffer) -> None:
        """Write all of ``data`` at ``offset``, creating the file if it is absent."""

    def read(self, chunk: ChunkId, part: Part, offset: int, size: int) -> memoryview:
        """The bytes at [offset, offset + size), fewer where the file ends."""

    def read_at_once(self, chunk: ChunkId, part: Part, offset: int, size: int) -> memoryview | None:
        """As ``read``, but None if that would wait for the device."""

    def size(self, chunk: ChunkId, part: Part) -> int:
        """The file's length in bytes."""

    def truncate(self, chunk: ChunkId, part: Part, size: int) -> None:
        """Cut the file to ``size`` bytes."""

    def sync(self, chunk: ChunkId, *parts: Part) -> None:
        """Make the bytes of these files durable; absent ones are passed over."""

    def sync_names(self, chunk: ChunkId) -> None:
        """Make the names of this chunk's files durable."""

    def publish(self, chunk: ChunkId, part: Part, data: Buffer) -> None:
        """Replace the whole file by ``data``, durably and at once."""

    def rename(self, chunk: ChunkId, part: Part, to: Part) -> None:
        """Give a file another ending, replacing what has it, durably and at once."""

    def remove(self, chunk: ChunkId, part: Part) -> None:
        """Remove the file; an absent one is no error."""

    def set_aside(self, chunk: ChunkId, part: Part) -> None:
        """Move a file that nothing accounts for where ``forget_aside`` finds it."""

    def forget_aside(self, older_than_s: float) -> int:
        """Remove files set aside longer ago than this; returns how many."""

    def room(self) -> Room:
        """Size and free bytes of the file system."""

    def close(self) -> None:
        """Let go of all descriptors."""


def fault_of(error: OSError, chunk: ChunkId) -> CloudVergeError:
    """The protocol's error for a failed disk call about ``chunk``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoRoom(Code.NO_SPACE, "this chunkserver's disk is full; use another server")
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return Unavailable(Code.UNAVAILABLE, "this chunkserver is out of descriptors or memory; try again")
    reason = errno.errorcode.get(error.errno or 0, "error")
    return ChunkFault(Code.DAMAGED, f"chunk {chunk}: the disk of this chunkserver failed ({reason})")
