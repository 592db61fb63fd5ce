"""A mount's names side over a metaserver and bytes in memory."""

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from cloudverge_mount.filesystem import Caller
from cloudverge_mount.vfs import OwnerPolicy, open_vfs
from cloudverge_protocol.inodes import Inode
from tests.fixtures.fakespace import FakeBytes, FakeDisk, FakeMeta, FakeServer

ROOT = Caller(0, 0, 1, 0o22)


class Mounts:
    """Starts mounts of one space, one after the other, on one cache folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = FakeServer()
        self.disk = FakeDisk()
        self.vfs = None

    async def start(self, owners: OwnerPolicy | None = None, folder: Path | None = None):
        self.rights = self.server.open()
        self.meta = FakeMeta(self.server)
        self.vfs = await open_vfs(
            folder or self.folder,
            self.rights,
            self.meta,
            lambda sink: FakeBytes(sink, self.disk),
            owners or OwnerPolicy(True, 0, 0),
        )
        self.vfs.core.writer.in_thread = False
        return self.vfs

    def kill(self) -> None:
        """As kill -9 would."""
        if self.vfs is not None:
            self.vfs.core.ledger.journal.close()
            self.vfs.core.rows.replica.close()
            self.vfs = None

    async def again(self, owners: OwnerPolicy | None = None):
        self.kill()
        return await self.start(owners)

    async def ship(self) -> None:
        while len(self.vfs.core.ledger.outbox):
            await self.vfs.core.shipper.ship_once()

    async def settle(self) -> None:
        await self.vfs.core.content.flush_all()
        await self.ship()

    async def file(self, parent: int, name: bytes, content: bytes = b"", caller: Caller = ROOT) -> Inode:
        fh, row = await self.vfs.create(parent, name, 0o644, os.O_RDWR, caller)
        if content:
            await self.vfs.write(fh, 0, content)
        await self.vfs.flush(fh)
        await self.vfs.release(fh)
        return row

    async def names(self, ino: int, budget: int = 7) -> list[bytes]:
        fh = await self.vfs.opendir(ino)
        listed, after = [], 0
        while part := await self.vfs.readdir(fh, after, budget):
            listed += part
            after = part[-1][2]
        await self.vfs.releasedir(fh)
        return [name for name, _, _ in listed]


@pytest.fixture
def mounts(tmp_path):
    held = Mounts(tmp_path / "cache")
    held.folder.mkdir()
    yield held
    held.kill()


@pytest.fixture
def root() -> Caller:
    return ROOT


@pytest.fixture
def user() -> Caller:
    return Caller(1000, 1000, 1, 0o22)


@pytest.fixture
def clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    return autojump_clock
