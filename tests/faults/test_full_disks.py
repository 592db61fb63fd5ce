"""Chunkservers on small disks fill up: bytes go elsewhere or the writer is told; after rm there is room again."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudverge_protocol.ids import CHUNK_BYTES
from tests.fixtures.cluster import Cluster, Mount, wait_until

DISK_BYTES = 200 << 20
PIECE = os.urandom(1 << 20)
MARGIN_BYTES = 8 << 20
FREED_WITHIN_S = 60.0
QUICK = {"CLOUDVERGE_METASERVER_DELETE_GRACE_S": "1"}


@pytest.fixture
def small_disks(make_cluster: Callable[..., Cluster]) -> Iterator[Callable[..., Cluster]]:
    """Makes a running cluster whose chunkservers have disks of these sizes."""
    mounted: list[Path] = []

    def make(*sizes: int) -> Cluster:
        cluster = make_cluster(environment=QUICK)
        cluster.home.mkdir(mode=0o711)
        for number, size in enumerate(sizes, 1):
            folder = cluster.home / f"chunkserver-{number}"
            folder.mkdir(mode=0o700)
            options = f"size={size},mode=0700"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", str(folder)], check=True)
            mounted.append(folder)
        cluster.up()
        return cluster

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(mount: Mount, megabytes: int, sync: bool = True) -> tuple[list[Path], int | None]:
    """Write files of 10 MiB until there is an error or there are enough; the whole ones and the errno."""
    whole: list[Path] = []
    for number in range(megabytes // 10):
        path = mount / f"file-{number}"
        try:
            with path.open("wb") as file:
                for _ in range(10):
                    file.write(PIECE)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
        except OSError as error:
            return whole, error.errno
        whole.append(path)
    return whole, None


def _assert_whole(mount: Mount, paths: list[Path]) -> None:
    for path in paths:
        with (mount / path.name).open("rb") as file:
            assert all(file.read(len(PIECE)) == PIECE for _ in range(10))
            assert file.read() == b""


def _free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def test_when_one_disk_is_full_bytes_go_elsewhere(small_disks):
    cluster = small_disks(DISK_BYTES, 3 * DISK_BYTES, 3 * DISK_BYTES)
    mount = cluster.mount()
    whole, error = _fill(mount, 450)
    assert error is None
    assert len(whole) == 45
    assert _used(cluster, "chunkserver-1") > CHUNK_BYTES
    cold = cluster.remount_cold(mount)
    _assert_whole(cold, whole)
    assert cold.status()["degraded"] == []


def _used(cluster: Cluster, name: str) -> int:
    return shutil.disk_usage(cluster.server(name)["data_dir"]).used


def _fill_at_last(mount: Mount, megabytes: int) -> list[Path]:
    """Fill again until nothing is refused: room given back is known only with the next heartbeats."""
    attempts: list[tuple[list[Path], int | None]] = []

    def is_written() -> bool:
        attempts.append(_fill(mount, megabytes))
        return attempts[-1][1] is None

    wait_until(is_written, FREED_WITHIN_S, "what df promised can be written", every_s=1.0)
    print(f"written at attempt {len(attempts)}")
    return attempts[-1][0]


def test_when_all_disks_are_full_the_writer_is_told_and_rm_makes_room(small_disks):
    cluster = small_disks(DISK_BYTES, DISK_BYTES, DISK_BYTES)
    mount = cluster.mount()
    (mount / "kept").write_bytes(PIECE)
    whole, error = _fill(mount, 600)
    assert error == errno.ENOSPC
    assert 10 <= len(whole) < 30
    assert (mount / "kept").read_bytes() == PIECE
    _assert_whole(mount, whole)
    for path in mount.path.glob("file-*"):
        path.unlink()
    mount.sync(within_s=90)
    assert mount.status()["pending_bytes"] == 0
    wait_until(
        lambda: sum(_used(cluster, name) for name in cluster.chunkservers()) < 2 * CHUNK_BYTES + MARGIN_BYTES,
        FREED_WITHIN_S,
        "only the chunk with the file that was kept stays, on two servers",
    )
    wait_until(lambda: _free_bytes(mount.path) > len(PIECE) * 150, FREED_WITHIN_S, "df shows room again")
    again = _fill_at_last(mount, 100)
    cold = cluster.remount_cold(mount)
    _assert_whole(cold, again)
    assert (cold / "kept").read_bytes() == PIECE


@pytest.mark.soak
def test_a_full_cluster_loses_nothing_that_was_closed_and_says_what_it_could_not_store(small_disks):
    cluster = small_disks(DISK_BYTES, DISK_BYTES, DISK_BYTES)
    mount = cluster.mount()
    whole, error = _fill(mount, 600, sync=False)
    assert error in (None, errno.ENOSPC)
    _assert_whole(mount, whole)
    status = mount.status()
    assert error == errno.ENOSPC or status["pending_bytes"] > 0
    if status["pending_bytes"]:
        assert status["degraded"]
    for path in mount.path.glob("file-*"):
        path.unlink()
    mount.sync(within_s=90)
    wait_until(lambda: _free_bytes(mount.path) > DISK_BYTES, FREED_WITHIN_S, "df shows room again")
