"""Holes, room ahead and copies: the same calls on a file of a mount and on one of this machine."""

import ctypes
import errno
import os
import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudverge_mount.errnos import errno_of
from cloudverge_mount.filesystem import SetattrRequest
from cloudverge_protocol.errors import CloudVergeError
from tests.fixtures.fakespace import assert_same
from tests.fixtures.openfiles import ROOT, content_of
from tests.mount.names.conftest import Mounts

KEEP, PUNCH, ZERO = 1, 2, 16


# --- against Linux ----------------------------------------------------------------------------------------

BLOCK = 4096
libc = ctypes.CDLL(None, use_errno=True)
places = st.integers(0, 5)
steps = st.one_of(
    st.tuples(st.just("write"), st.booleans(), places, st.integers(1, 2)),
    st.tuples(st.just("truncate"), st.booleans(), places, st.just(0)),
    st.tuples(st.just("settle"), st.booleans(), places, st.just(0)),
    st.tuples(st.just("again"), st.booleans(), places, st.just(0)),
    st.tuples(st.sampled_from([PUNCH | KEEP, PUNCH]), st.booleans(), places, st.integers(1, 3)),
)
# what is allocated and read once is data to ext4
others = st.tuples(
    st.sampled_from(["copy", 0, KEEP, ZERO, ZERO | KEEP]), st.booleans(), places, st.integers(1, 3)
)


class Pair:
    """Two files of a mount, and two of this machine."""

    def __init__(self, folder: Path) -> None:
        (folder / "cache").mkdir()
        self.mounts, self.paths = Mounts(folder / "cache"), [folder / "f", folder / "g"]
        self.stamp = 0

    async def start(self) -> None:
        await self.mounts.start()
        self.inos = [(await self.mounts.file(1, name)).ino for name in (b"f", b"g")]
        await self.open()
        self.real = [os.open(path, os.O_RDWR | os.O_CREAT) for path in self.paths]

    async def open(self) -> None:
        self.fhs = [(await self.mounts.vfs.open(ino, os.O_RDWR, ROOT)).fh for ino in self.inos]

    async def step(self, kind, which, place, count) -> None:
        if kind == "settle":
            return await self.mounts.settle()
        if kind == "again":
            for fh in self.fhs:
                await self.mounts.vfs.flush(fh)
            await self.mounts.again()
            return await self.open()
        self.stamp = self.stamp % 250 + 1
        ours = await told(self.ours(kind, which, place * BLOCK, count * BLOCK))
        real = await told(self.theirs(kind, which, place * BLOCK, count * BLOCK))
        assert ours == real, (kind, which, place, count)

    async def ours(self, kind, which, at, length):
        vfs, fh = self.mounts.vfs, self.fhs[which]
        if kind == "write":
            await vfs.write(fh, at, bytes([self.stamp]) * length)
        elif kind == "truncate":
            await vfs.setattr(self.inos[which], SetattrRequest(size=at), ROOT)
        elif kind == "copy":
            return await vfs.copy_file_range(fh, at, self.fhs[0], at // 2, length)
        else:
            await vfs.fallocate(fh, kind, at, length)

    async def theirs(self, kind, which, at, length):
        fd = self.real[which]
        if kind == "write":
            os.pwrite(fd, bytes([self.stamp]) * length, at)
        elif kind == "truncate":
            os.truncate(fd, at)
        elif kind == "copy":
            return os.copy_file_range(fd, self.real[0], length, at, at // 2)
        elif libc.fallocate(fd, kind, ctypes.c_long(at), ctypes.c_long(length)):
            raise OSError(ctypes.get_errno(), "fallocate")

    async def compare(self, seeks: bool) -> None:
        for ino, fh, fd in zip(self.inos, self.fhs, self.real, strict=True):
            size = os.fstat(fd).st_size
            assert await content_of(self.mounts.vfs, ino) == os.pread(fd, size + 1, 0)
            for at in range(0, size + BLOCK, BLOCK) if seeks else ():
                for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                    ours = await told(self.mounts.vfs.lseek(fh, at, whence))
                    assert ours == await told(seek(fd, at, whence)), (at, whence)


async def seek(fd, at, whence):
    return os.lseek(fd, at, whence)


async def told(doing):
    try:
        return await doing
    except CloudVergeError as error:
        return f"errno {errno.errorcode[errno_of(error)]}"
    except OSError as error:
        return f"errno {errno.errorcode[error.errno]}"


async def compared(program, seeks: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(Path(folder))
        await pair.start()
        for step in program:
            await pair.step(*step)
            await pair.compare(seeks)
        await pair.mounts.settle()
        await assert_same(pair.mounts.vfs, pair.mounts.server, pair.mounts.disk)
        pair.mounts.kill()
        for fd in pair.real:
            os.close(fd)


@pytest.fixture(scope="module")
def linux(tmp_path_factory) -> None:
    """A file system below that can do all of it."""
    with (tmp_path_factory.mktemp("real") / "f").open("w+b") as file:
        file.write(b"x" * BLOCK)
        file.flush()
        if libc.fallocate(file.fileno(), ZERO, ctypes.c_long(0), ctypes.c_long(BLOCK)):
            pytest.skip("the temporary folder's file system has no holes to compare with")


@given(st.lists(steps, max_size=12))
@settings(deadline=None, max_examples=40)
def test_holes_and_data_are_where_linux_has_them(linux, program) -> None:
    trio.run(compared, program, True)


@given(st.lists(steps | others, max_size=12))
@settings(deadline=None, max_examples=40)
def test_copies_and_zeroes_hold_what_those_of_linux_hold(linux, program) -> None:
    trio.run(compared, program, False)
