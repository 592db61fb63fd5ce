"""A disk in memory that can lose power: what was not synced comes back as the test wants it, or not at all.

Keeps ``disk.Disk`` honest (the contract suite runs on it too) and lets crash tests run in microseconds.
"""

import errno
import threading
from collections.abc import Callable, Iterator

from cloudverge_chunkserver.disk import Part, Room, Stored
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.ids import ChunkId

Name = tuple[ChunkId, Part]
Torn = Callable[[Name, bytes, bytes], bytes]  # (name, durable bytes, current bytes) -> what the crash leaves


def nothing_unsynced(_name: Name, durable: bytes, _current: bytes) -> bytes:
    """The harshest crash: exactly what was synced."""
    return durable


class MemDisk:
    """See ``disk.Disk``; ``files`` holds the current bytes and may be damaged by tests."""

    in_memory = True

    def __init__(self, total_bytes: int = 1 << 40) -> None:
        self.files: dict[Name, bytearray] = {}
        self.lost: dict[Name, bytes] = {}
        self.total_bytes = total_bytes
        self.syncs = 0
        self.fail: Callable[[str, ChunkId, Part], None] = lambda _call, _chunk, _part: None
        self._durable: dict[Name, bytes] = {}
        self._unnamed: dict[Name, bytes] = {}  # synced, but no folder names them yet
        self._lock = threading.RLock()

    def crash(self, torn: Torn = nothing_unsynced) -> None:
        """Lose power. A file whose name was never synced is gone; others are left as ``torn`` says."""
        with self._lock:
            self.files = {
                name: bytearray(torn(name, durable, bytes(self.files.get(name, durable))))
                for name, durable in self._durable.items()
            }
            self._durable = {name: bytes(data) for name, data in self.files.items()}

    def _file(self, chunk: ChunkId, part: Part) -> bytearray:
        try:
            return self.files[chunk, part]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, f"{chunk}.{part}") from None

    def stored(self) -> Iterator[Stored]:
        for (chunk, part), data in sorted(self.files.items()):
            yield Stored(chunk, part, len(data))

    def remove_leftovers(self) -> None:
        """There are none: ``publish`` is one step here."""

    def write(self, chunk: ChunkId, part: Part, offset: int, data: Buffer) -> None:
        with self._lock:
            self.fail("write", chunk, part)
            file = self.files.setdefault((chunk, part), bytearray())
            growth = max(0, offset + len(data) - len(file))
            if growth > self.room().free_bytes:
                raise OSError(errno.ENOSPC, "no room")
            file.extend(bytes(growth))
            file[offset : offset + len(data)] = data

    def read(self, chunk: ChunkId, part: Part, offset: int, size: int) -> memoryview:
        with self._lock:
            self.fail("read", chunk, part)
            return memoryview(bytes(self._file(chunk, part)[offset : offset + size]))

    def read_at_once(self, chunk: ChunkId, part: Part, offset: int, size: int) -> memoryview | None:
        return self.read(chunk, part, offset, size)

    def size(self, chunk: ChunkId, part: Part) -> int:
        return len(self._file(chunk, part))

    def truncate(self, chunk: ChunkId, part: Part, size: int) -> None:
        with self._lock:
            file = self._file(chunk, part)
            del file[size:]
            file.extend(bytes(size - len(file)))

    def sync(self, chunk: ChunkId, *parts: Part) -> None:
        with self._lock:
            self.syncs += 1
            for part in parts:
                self.fail("sync", chunk, part)
                if (chunk, part) in self.files and (chunk, part) in self._durable:
                    self._durable[chunk, part] = bytes(self.files[chunk, part])
                elif (chunk, part) in self.files:
                    self._unnamed[chunk, part] = bytes(self.files[chunk, part])

    def sync_names(self, chunk: ChunkId) -> None:
        with self._lock:
            self.fail("sync_names", chunk, Part.DATA)
            for name in [name for name in self._durable if name[0] == chunk and name not in self.files]:
                del self._durable[name]
            for name in [name for name in self.files if name[0] == chunk]:
                self._durable.setdefault(name, self._unnamed.pop(name, b""))

    def publish(self, chunk: ChunkId, part: Part, data: Buffer) -> None:
        with self._lock:
            self.fail("publish", chunk, part)
            self.files[chunk, part] = bytearray(data)
            self._durable[chunk, part] = bytes(data)
            self.sync_names(chunk)

    def rename(self, chunk: ChunkId, part: Part, to: Part) -> None:
        with self._lock:
            self.fail("rename", chunk, part)
            durable = self._durable.pop((chunk, part), self._unnamed.pop((chunk, part), b""))
            self.files[chunk, to] = self.files.pop((chunk, part))
            self._durable[chunk, to] = durable
            self.sync_names(chunk)

    def remove(self, chunk: ChunkId, part: Part) -> None:
        with self._lock:
            self.files.pop((chunk, part), None)
            self._unnamed.pop((chunk, part), None)

    def set_aside(self, chunk: ChunkId, part: Part) -> None:
        with self._lock:
            self.lost[chunk, part] = bytes(self.files.pop((chunk, part)))

    def forget_aside(self, older_than_s: float) -> int:
        count = len(self.lost) if older_than_s <= 0 else 0
        if count:
            self.lost.clear()
        return count

    def room(self) -> Room:
        used = sum(len(file) for file in self.files.values())
        return Room(self.total_bytes, max(0, self.total_bytes - used))

    def close(self) -> None:
        """Nothing is held."""
