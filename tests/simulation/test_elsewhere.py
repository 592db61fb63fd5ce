"""Another device changes the space while ours is away with changes that are not shipped: what fits goes through,
what does not is set aside, and the view is what is committed.
"""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudverge_mount.filesystem import Caller, SetattrRequest
from cloudverge_mount.vfs import OwnerPolicy, open_vfs
from cloudverge_protocol import operations as op
from cloudverge_protocol.errors import CloudVergeError
from tests.fixtures.fakespace import FakeBytes, FakeDisk, FakeMeta, FakeServer, assert_same

pytestmark = pytest.mark.trio

ROOT = Caller(0, 0, 1, 0o22)
NAMES = (b"a", b"b", b"c")
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Device:
    """Our mount; without background tasks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = FakeServer()
        self.disk = FakeDisk()

    async def start(self) -> None:
        self.meta = FakeMeta(self.server)
        self.vfs = await open_vfs(
            self.folder,
            self.server.open(),
            self.meta,
            lambda sink: FakeBytes(sink, self.disk),
            OwnerPolicy(True, 0, 0),
        )
        self.vfs.core.writer.in_thread = False

    def kill(self) -> None:
        self.vfs.core.ledger.journal.close()
        self.vfs.core.rows.replica.close()

    async def settle(self) -> None:
        await self.vfs.core.content.flush_all()
        while len(self.vfs.core.ledger.outbox):
            await self.vfs.core.shipper.ship_once()

    async def step(self, kind: str, a: int, b: int) -> None:
        vfs, name, other = self.vfs, NAMES[a % 3], NAMES[b % 3]
        parents = [1, *[row.ino for row in self.folders()]]
        parent, place = parents[a % len(parents)], parents[b % len(parents)]
        if kind == "file":
            fh, _ = await vfs.create(parent, name, 0o644, os.O_RDWR, ROOT)
            await vfs.write(fh, b % 4, b"bytes")
            await vfs.flush(fh)
            await vfs.release(fh)
        elif kind == "folder":
            await vfs.mkdir(parent, name, 0o755, ROOT)
        elif kind == "unlink":
            await vfs.unlink(parent, name)
        elif kind == "rmdir":
            await vfs.rmdir(parent, name)
        elif kind == "rename":
            await vfs.rename(parent, name, place, other, b % 2 * 2)
        elif kind == "link":
            await vfs.link((await vfs.lookup(parent, name)).ino, place, other)
        elif kind == "mode":
            await vfs.setattr((await vfs.lookup(parent, name)).ino, SetattrRequest(mode=0o600 + b), ROOT)
        elif kind == "size":
            await vfs.setattr((await vfs.lookup(parent, name)).ino, SetattrRequest(size=b), ROOT)
        elif kind == "ship":
            await vfs.core.shipper.ship_once()
        else:
            await vfs.core.writer.write()

    def folders(self):
        return [row for row in self.server.rows.inodes.values() if row.is_dir and row.ino != 1]

    def elsewhere(self, kind: str, a: int, b: int) -> None:
        """What another device commits."""
        rows = self.server.rows
        parents = [1, *[row.ino for row in self.folders()]]
        parent, place = parents[a % len(parents)], parents[b % len(parents)]
        name, other = NAMES[a % 3], NAMES[b % 3]
        entry, there = rows.dentry(parent, name), rows.dentry(place, other)
        ino = entry.ino if entry else 0
        new = self.server.take_ids(2)
        now = 10**18 + new
        what = {
            "file": op.Create(parent, name, new, new + 1, 0o100644, 5, 5, now),
            "folder": op.Create(parent, name, new, new + 1, 0o40755, 5, 5, now),
            "unlink": op.Unlink(parent, name, ino, False, now),
            "rmdir": op.Rmdir(parent, name, ino, False, now),
            "rename": op.Rename(
                parent, name, place, other, ino, there.ino if there else 0, 0, False, new, 0, now
            ),
            "link": op.Link(ino, place, other, new, now),
            "mode": op.Setattr(ino, now, mode=0o700),
            "size": op.Truncate(ino, b, now),
        }.get(kind)
        if what is not None:
            try:
                self.server.commit(op.Entry(99, 1, what), session=99)
            except CloudVergeError:
                pass


KINDS = ("file", "file", "folder", "unlink", "rmdir", "rename", "rename", "link", "mode", "size")
small = st.integers(0, 8)
ours = st.lists(st.tuples(st.sampled_from((*KINDS, "ship", "replica")), small, small), max_size=25)
theirs = st.lists(st.tuples(st.sampled_from(KINDS), small, small), max_size=6)


@given(ours, theirs, ours, theirs, st.booleans())
async def test_what_fits_goes_through_and_the_rest_is_set_aside(first, there, second, later, wipe) -> None:
    await away_and_back(first, there, second, later, wipe)


@pytest.mark.soak
@pytest.mark.timeout(3000)
@given(ours, theirs, ours, theirs, st.booleans())
@settings(max_examples=3000)
async def test_the_same_holds_for_long(first, there, second, later, wipe) -> None:
    await away_and_back(first, there, second, later, wipe)


async def away_and_back(first, there, second, later, wipe) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        device = Device(Path(folder))
        await device.start()
        for program, elsewhere in ((first, there), (second, later)):
            for kind, a, b in program:
                try:
                    await device.step(kind, a, b)
                except CloudVergeError:
                    pass
            device.kill()
            for kind, a, b in elsewhere:
                device.elsewhere(kind, a, b)
            if wipe:
                for path in device.folder.glob("replica*"):
                    path.unlink()
            await device.start()
        await device.settle()
        await device.settle()
        await assert_same(device.vfs, device.server, device.disk)
        assert not len(device.vfs.core.holding)
        assert len(device.server.applied) == len(set(device.server.applied))
        device.kill()
