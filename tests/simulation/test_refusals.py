"""Each kind of operation refused by the metaserver: set aside with what meets it, told, never sent again."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_mount.filesystem import Caller, SetattrRequest
from cloudverge_mount.vfs import OwnerPolicy, open_vfs
from cloudverge_protocol import operations as op
from cloudverge_protocol.errors import CloudVergeError, Code
from tests.fixtures.fakespace import FakeBytes, FakeDisk, FakeMeta, FakeServer, assert_same

pytestmark = pytest.mark.trio

ROOT = Caller(0, 0, 1, 0o22)


class Mount:
    """One mount on a cache folder, without background tasks."""

    def __init__(self, folder: Path, server: FakeServer, disk: FakeDisk) -> None:
        self.folder = folder
        self.server = server
        self.disk = disk

    async def start(self) -> "Mount":
        self.meta = FakeMeta(self.server)
        self.vfs = await open_vfs(
            self.folder,
            self.server.open(),
            self.meta,
            lambda sink: FakeBytes(sink, self.disk),
            OwnerPolicy(True, 0, 0),
        )
        self.vfs.core.writer.in_thread = False
        return self

    async def ship(self) -> None:
        while len(self.vfs.core.ledger.outbox):
            await self.vfs.core.shipper.ship_once()

    async def settle(self) -> None:
        await self.vfs.core.content.flush_all()
        await self.ship()

    def stop(self) -> None:
        self.vfs.core.ledger.journal.close()
        self.vfs.core.rows.replica.close()

    async def ino(self, parent: int, name: bytes) -> int:
        return (await self.vfs.lookup(parent, name)).ino

    async def file(self, parent: int, name: bytes, content: bytes) -> int:
        fh, row = await self.vfs.create(parent, name, 0o644, os.O_RDWR, ROOT)
        await self.vfs.write(fh, 0, content)
        await self.vfs.flush(fh)
        await self.vfs.release(fh)
        return row.ino


async def prepared(folder: Path) -> tuple[Mount, int, int]:
    """Folders p and q, in each a file f that is committed."""
    mount = await Mount(folder, FakeServer(), FakeDisk()).start()
    p = (await mount.vfs.mkdir(1, b"p", 0o755, ROOT)).ino
    q = (await mount.vfs.mkdir(1, b"q", 0o755, ROOT)).ino
    for parent in (p, q):
        await mount.file(parent, b"f", b"old bytes")
        await mount.file(parent, b"g", b"more")
    await mount.vfs.mkdir(p, b"e", 0o755, ROOT)
    await mount.settle()
    return mount, p, q


async def create(mount: Mount, p: int) -> None:
    await mount.file(p, b"new", b"x")


async def make_link(mount: Mount, p: int) -> None:
    await mount.vfs.link(await mount.ino(p, b"f"), p, b"new")


async def unlink(mount: Mount, p: int) -> None:
    await mount.vfs.unlink(p, b"f")


async def rmdir(mount: Mount, p: int) -> None:
    await mount.vfs.rmdir(p, b"e")


async def rename(mount: Mount, p: int) -> None:
    await mount.vfs.rename(p, b"f", p, b"g", 0)


async def set_mode(mount: Mount, p: int) -> None:
    await mount.vfs.setattr(await mount.ino(p, b"f"), SetattrRequest(mode=0o600), ROOT)


async def set_attribute(mount: Mount, p: int) -> None:
    await mount.vfs.setxattr(await mount.ino(p, b"f"), b"user.a", b"1", 0)


async def remove_attribute(mount: Mount, p: int) -> None:
    ino = await mount.ino(p, b"f")
    await mount.vfs.setxattr(ino, b"user.a", b"1", 0)
    await mount.ship()
    await mount.vfs.removexattr(ino, b"user.a")


async def write(mount: Mount, p: int) -> None:
    fh = (await mount.vfs.open(await mount.ino(p, b"f"), os.O_RDWR, ROOT)).fh
    await mount.vfs.write(fh, 2, b"new")
    await mount.vfs.flush(fh)
    await mount.vfs.release(fh)


async def truncate(mount: Mount, p: int) -> None:
    await mount.vfs.setattr(await mount.ino(p, b"f"), SetattrRequest(size=3), ROOT)


async def punch(mount: Mount, p: int) -> None:
    fh = (await mount.vfs.open(await mount.ino(p, b"f"), os.O_RDWR, ROOT)).fh
    await mount.vfs.fallocate(fh, 3, 2, 4)
    await mount.vfs.release(fh)


async def clone(mount: Mount, p: int) -> None:
    source = (await mount.vfs.open(await mount.ino(p, b"f"), os.O_RDWR, ROOT)).fh
    target = (await mount.vfs.open(await mount.ino(p, b"g"), os.O_RDWR, ROOT)).fh
    await mount.vfs.copy_file_range(source, 2, target, 1, 9)
    for fh in (source, target):
        await mount.vfs.release(fh)


async def chunk_done(mount: Mount, p: int) -> None:
    mount.vfs.core.content.new_chunk()


KINDS = {
    op.Create: create,
    op.Link: make_link,
    op.Unlink: unlink,
    op.Rmdir: rmdir,
    op.Rename: rename,
    op.Setattr: set_mode,
    op.Setxattr: set_attribute,
    op.Removexattr: remove_attribute,
    op.Write: write,
    op.Truncate: truncate,
    op.PunchHole: punch,
    op.CloneRange: clone,
    op.ChunkDone: chunk_done,
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_a_refused_operation_is_set_aside_and_the_rest_goes_on(kind, tmp_path: Path) -> None:
    mount, p, q = await prepared(tmp_path)
    vfs, server = mount.vfs, mount.server
    victim = await mount.ino(p, b"f")
    told: list[int] = []
    vfs.invalidate = lambda inodes, names: told.extend(inodes)
    await KINDS[kind](mount, p)
    await mount.file(p, b"later", b"meets the refused one in its folder")
    await mount.file(q, b"other", b"meets nothing of it")
    code = (Code.NO_SPACE, "there is no room") if kind is op.Write else (Code.STALE, "it has changed")
    spared = await mount.ino(q, b"other")
    server.refuse = lambda entry: (
        code if type(entry.op) is kind and getattr(entry.op, "ino", 0) != spared else None
    )
    await mount.settle()
    server.refuse = lambda entry: None
    await mount.settle()

    assert server.refused
    assert server.rows.dentry(q, b"other") is not None
    await assert_same(vfs, server, mount.disk)
    assert any("set aside" in reason for reason in vfs.status()["degraded"])
    told_in = sorted((tmp_path / "recovery").iterdir())
    lines = [json.loads(line) for path in told_in for line in path.read_text().splitlines()]
    assert lines[0]["refused"]["message"] == code[1]
    assert lines[1]["operation"] == kind.__name__
    if kind not in (op.Create, op.ChunkDone, op.Rmdir):
        assert victim in told
        fh = (await vfs.open(victim, os.O_RDWR, ROOT)).fh
        with pytest.raises(CloudVergeError):
            await vfs.fsync(fh, False)
        await vfs.fsync(fh, False)  # told once

    mount.stop()
    again = await Mount(tmp_path, server, mount.disk).start()
    await again.settle()
    await assert_same(again.vfs, server, mount.disk)
    assert any("set aside" in reason for reason in again.vfs.status()["degraded"])
    again.stop()


async def test_a_refused_reap_is_no_loss_and_not_worth_a_word(tmp_path: Path) -> None:
    mount, p, _ = await prepared(tmp_path)
    fh = (await mount.vfs.open(await mount.ino(p, b"f"), os.O_RDWR, ROOT)).fh
    await mount.vfs.unlink(p, b"f")
    await mount.ship()
    await mount.vfs.release(fh)
    mount.server.refuse = lambda entry: (
        (Code.STALE, "no orphan of yours") if type(entry.op) is op.Reap else None
    )
    await mount.file(p, b"later", b"bytes")
    await mount.settle()
    assert len(mount.server.refused) == 1
    assert mount.vfs.status()["degraded"] == []
    await assert_same(mount.vfs, mount.server, mount.disk)
    mount.stop()


async def test_held_operations_that_meet_a_refused_one_are_set_aside_too(tmp_path: Path) -> None:
    mount, p, q = await prepared(tmp_path)
    await mount.vfs.setattr(p, SetattrRequest(mode=0o700), ROOT)
    await mount.file(p, b"new", b"bytes")
    await mount.vfs.rename(p, b"new", p, b"newer", 0)
    assert len(mount.vfs.core.holding)
    await mount.file(q, b"new", b"bytes")
    await mount.vfs.rename(q, b"new", q, b"newer", 0)
    refused = [op.Setattr]
    mount.server.refuse = lambda entry: (Code.STALE, "no") if type(entry.op) in refused else None
    await mount.ship()
    await mount.settle()
    assert mount.server.rows.dentry(q, b"newer") is not None
    assert mount.server.rows.dentry(p, b"newer") is None
    assert not len(mount.vfs.core.holding)
    await assert_same(mount.vfs, mount.server, mount.disk)
    mount.stop()


async def test_an_entry_that_only_hiccups_is_sent_again(tmp_path: Path) -> None:
    mount, p, _ = await prepared(tmp_path)
    await mount.vfs.setattr(p, SetattrRequest(mode=0o700), ROOT)
    hiccups = [(Code.UNAVAILABLE, "the database is away")] * 2
    mount.server.refuse = lambda entry: hiccups.pop() if hiccups else None
    for _ in range(2):
        mount.server.refused.clear()
        with pytest.raises(CloudVergeError):
            await mount.vfs.core.shipper.ship_once()
    await mount.ship()
    assert mount.server.rows.inode(p).mode & 0o7777 == 0o700
    assert mount.vfs.status()["degraded"] == []
    mount.stop()


steps = st.lists(
    st.tuples(st.sampled_from(list(KINDS)), st.booleans(), st.booleans()), min_size=1, max_size=12
)


@given(steps, st.integers(0, 11))
async def test_after_any_refusal_the_view_is_what_is_committed(tmp_path_factory, program, refused) -> None:
    mount, p, q = await prepared(tmp_path_factory.mktemp("cache"))
    count = [0]

    def refuse(entry):
        count[0] += 1
        return (Code.STALE, "no") if count[0] % 12 == refused else None

    mount.server.refuse = refuse
    for kind, in_p, do_ship in program:
        try:
            await KINDS[kind](mount, p if in_p else q)
        except CloudVergeError:
            pass
        if do_ship:
            await mount.ship()
    await mount.settle()
    await mount.settle()
    await assert_same(mount.vfs, mount.server, mount.disk)
    assert not len(mount.vfs.core.holding)
    mount.stop()
