"""Chunks as files: ``chunks/XX/HEX.part``, spread over 256 folders by the chunk id's low byte.

A file is created by its first write; ``publish`` goes through a ``.tmp`` file, fsync, rename, fsync of the
folder. Files that nothing accounts for go to ``lost/`` with the time in their name, never to nowhere.
"""

import errno
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cloudverge_chunkserver.descriptors import Descriptor, Descriptors
from cloudverge_chunkserver.disk import Part, Room, Stored
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.ids import ChunkId

FOLDERS: Final = 256
_TEMPORARY: Final = ".tmp"
_MEMORY_FILESYSTEMS: Final = frozenset({"tmpfs", "ramfs"})
_NAME: Final = re.compile(rf"([0-9a-f]{{16}})\.({'|'.join(Part)})")
_NOT_AT_ONCE: Final = (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL)


class PosixDisk:
    """A data folder; see ``disk.Disk`` for what each call promises."""

    def __init__(self, folder: Path, descriptors: int = 1024) -> None:
        self._chunks = folder / "chunks"
        self._lost = folder / "lost"
        self._files: Descriptors[tuple[int, Part]] = Descriptors(descriptors)
        self._make_folders()
        self.in_memory = _filesystem_of(self._chunks) in _MEMORY_FILESYSTEMS

    def _make_folders(self) -> None:
        self._lost.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._chunks.mkdir(mode=0o700, exist_ok=True)
        for number in range(FOLDERS):
            (self._chunks / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
        _sync_folder(self._chunks)
        _sync_folder(self._chunks.parent)

    def _folder(self, chunk: ChunkId) -> str:
        return f"{self._chunks}/{chunk % FOLDERS:02x}"

    def _path(self, chunk: ChunkId, part: Part) -> str:
        return f"{self._chunks}/{chunk % FOLDERS:02x}/{chunk:016x}.{part}"

    def _acquire(self, chunk: ChunkId, part: Part, flags: int = 0) -> Descriptor:
        return self._files.acquire(
            (chunk, part), lambda: os.open(self._path(chunk, part), os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        )

    def stored(self) -> Iterator[Stored]:
        for number in range(FOLDERS):
            with os.scandir(self._chunks / f"{number:02x}") as entries:
                named = [(name, entry) for entry in entries if (name := _NAME.fullmatch(entry.name))]
            for name, entry in sorted(named, key=lambda pair: pair[1].name):
                try:
                    yield Stored(ChunkId(int(name[1], 16)), Part(name[2]), entry.stat().st_size)
                except FileNotFoundError:  # deleted meanwhile
                    continue

    def remove_leftovers(self) -> None:
        for path in self._chunks.glob(f"*/*{_TEMPORARY}"):
            path.unlink()

    def write(self, chunk: ChunkId, part: Part, offset: int, data: Buffer) -> None:
        file = self._acquire(chunk, part, os.O_CREAT)
        try:
            written = os.pwrite(file.fd, data, offset)
            while written < len(data):  # a nearly full disk takes a part, then says why
                written += os.pwrite(file.fd, memoryview(data)[written:], offset + written)
        finally:
            self._files.release(file)

    def read(self, chunk: ChunkId, part: Part, offset: int, size: int) -> memoryview:
        file = self._acquire(chunk, part)
        try:
            return memoryview(os.pread(file.fd, size, offset))
        finally:
            self._files.release(file)

    def read_at_once(self, chunk: ChunkId, part: Part, offset: int, size: int) -> memoryview | None:
        if self.in_memory:
            return self.read(chunk, part, offset, size)
        file = self._acquire(chunk, part)
        try:
            buffer = bytearray(size)
            got = os.preadv(file.fd, [buffer], offset, os.RWF_NOWAIT)
            return memoryview(buffer) if got == size else None
        except OSError as error:
            if error.errno in _NOT_AT_ONCE:
                return None
            raise
        finally:
            self._files.release(file)

    def size(self, chunk: ChunkId, part: Part) -> int:
        return os.stat(self._path(chunk, part)).st_size

    def truncate(self, chunk: ChunkId, part: Part, size: int) -> None:
        os.truncate(self._path(chunk, part), size)

    def sync(self, chunk: ChunkId, *parts: Part) -> None:
        for part in parts:
            try:
                file = self._acquire(chunk, part)
            except FileNotFoundError:
                continue
            try:
                os.fdatasync(file.fd)
            finally:
                self._files.release(file)

    def sync_names(self, chunk: ChunkId) -> None:
        _sync_folder(self._folder(chunk))

    def publish(self, chunk: ChunkId, part: Part, data: Buffer) -> None:
        path = self._path(chunk, part)
        temporary = path + _TEMPORARY
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            written = 0
            while written < len(data):
                written += os.write(fd, memoryview(data)[written:])
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
        self._files.drop((chunk, part))
        self.sync_names(chunk)

    def rename(self, chunk: ChunkId, part: Part, to: Part) -> None:
        os.rename(self._path(chunk, part), self._path(chunk, to))
        self._files.drop((chunk, part))
        self._files.drop((chunk, to))
        self.sync_names(chunk)

    def remove(self, chunk: ChunkId, part: Part) -> None:
        self._files.drop((chunk, part))
        try:
            os.unlink(self._path(chunk, part))
        except FileNotFoundError:
            pass

    def set_aside(self, chunk: ChunkId, part: Part) -> None:
        self._files.drop((chunk, part))
        os.rename(self._path(chunk, part), self._lost / f"{chunk:016x}.{part}.{time.time_ns()}")

    def forget_aside(self, older_than_s: float) -> int:
        removed = 0
        for path in self._lost.iterdir():
            moved_ns = path.name.rpartition(".")[2]
            if moved_ns.isdigit() and time.time_ns() - int(moved_ns) > older_than_s * 1e9:
                path.unlink()
                removed += 1
        return removed

    def room(self) -> Room:
        status = os.statvfs(self._chunks)
        return Room(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)

    def close(self) -> None:
        self._files.close()


def _sync_folder(folder: str | Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _filesystem_of(folder: Path) -> str:
    """The type of the file system ``folder`` lies on; empty if it cannot be told."""
    number = os.stat(folder).st_dev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == wanted:
            return rest.split()[0]
    return ""
