"""Damaged chunk files: right bytes from another replica and a word about it, or EIO; never wrong bytes."""

import errno
import os
import random
import signal
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fixtures.cluster import Cluster, Mount, wait_until

BLOCK = 64 * 1024
SEALED_WITHIN_S = 30.0
TOLD_WITHIN_S = 10.0
SLOW_S = 1.5
STEP_BYTES = 50_000


class Spot(NamedTuple):
    """A byte of a file in the chunk files of its replicas, the one that is asked first before the others."""

    paths: list[Path]
    servers: list[str]
    offset: int


class Stored:
    """A space with some files, unmounted, all its chunks sealed: ready to be damaged behind everybody's back."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        rng = random.Random(7)
        self.files = {f"small-{number}": rng.randbytes(rng.randrange(1, 40_000)) for number in range(30)}
        self.files |= {"large": rng.randbytes(3 * (1 << 20) + 12345)}
        self.mount = cluster.mount()
        for name, data in self.files.items():
            (self.mount / name).write_bytes(data)
        self.mount.sync()
        query = "select space from meta.sessions where mountpoint = $1 order by opened_at desc limit 1"
        self.space = cluster.sql(query, str(self.mount.path))[0]["space"]
        self.mount.umount()
        wait_until(self._is_sealed, SEALED_WITHIN_S, "the chunks of a closed session are sealed")

    def _is_sealed(self) -> bool:
        query = "select count(*) from meta.chunks where space = $1 and live_bytes > 0 and state <> 2"
        return bool(self.cluster.sql(query, self.space)[0]["count"] == 0)

    def spot(self, name: str, offset: int = 0) -> Spot:
        """Where the byte at ``offset`` of a file is kept."""
        query = """select chunk, array_agg(frame_port order by position) as ports from meta.chunks
            join meta.replicas using (chunk) join meta.servers using (server)
            where space = $1 and live_bytes > 0 group by chunk"""
        probe = self.files[name][offset : offset + 4096]
        for row in self.cluster.sql(query, self.space):
            homes = [self._home(port) for port in row["ports"]]
            chunk = row["chunk"]
            paths = [home / "chunks" / f"{chunk % 256:02x}" / f"{chunk:016x}.data" for home in homes]
            place = paths[0].read_bytes().find(probe)
            if place >= 0:
                return Spot(paths, [home.name for home in homes], place)
        raise AssertionError(f"{name} is in no chunk")

    def _home(self, frame_port: int) -> Path:
        servers = self.cluster.report["servers"]
        (data_dir,) = [each["data_dir"] for each in servers if each["frames"] == f"127.0.0.1:{frame_port}"]
        return Path(data_dir)

    def read(self, name: str) -> bytes:
        """What the mount gives for a file; raises OSError."""
        return (self.mount / name).read_bytes()

    def mount_cold(self) -> Mount:
        """Nothing is cached on this machine any more."""
        self.mount = self.cluster.mount_again(self.mount, cold=True)
        return self.mount

    def read_while_others_are_slow(self, name: str, spot: Spot) -> None:
        """Read a file while only the server of its first replica answers at once."""
        slow = [self.cluster.server(each)["pid"] for each in spot.servers[1:]]
        for pid in slow:
            os.kill(pid, signal.SIGSTOP)
        waking = threading.Timer(SLOW_S, lambda: [os.kill(pid, signal.SIGCONT) for pid in slow])
        waking.start()
        try:
            assert self.read(name) == self.files[name]
        finally:
            waking.join()

    def assert_all_is_right(self) -> None:
        """Every file, by its bytes."""
        wrong = [name for name, data in self.files.items() if self.read(name) != data]
        assert wrong == []

    def assert_damage_is_told(self, server: str) -> None:
        """In ``cv status`` and in the log."""
        wait_until(lambda: self.mount.status()["degraded"], TOLD_WITHIN_S, "cv status tells of the damage")
        number = self.cluster.address(server)[1]
        server_id = self.cluster.sql("select server from meta.servers where frame_port = $1", number)[0][0]
        told = " ".join(self.mount.status()["degraded"])
        assert f"chunkserver {server_id}" in told
        assert "a replica gave no good bytes" in self.mount.log or "bad" in self.mount.log


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def _damage(how: str, path: Path, offset: int) -> None:
    if how == "one flipped byte":
        _flip(path, offset)
    elif how == "truncated":
        os.truncate(path, offset)
    elif how == "overwritten by zeroes":
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
    else:
        path.unlink()


def _soak(how: str) -> object:
    return pytest.param(how, marks=pytest.mark.soak)


@pytest.fixture
def stored(cluster: Cluster) -> Stored:
    return Stored(cluster)


@pytest.mark.parametrize("how", ["one flipped byte", _soak("truncated"), _soak("overwritten by zeroes")])
def test_a_replica_damaged_under_a_running_server_is_passed_over_and_told(stored, how):
    spot = stored.spot("large", 1000)
    _damage(how, spot.paths[0], spot.offset)
    stored.mount_cold()
    stored.read_while_others_are_slow("large", spot)
    stored.assert_damage_is_told(spot.servers[0])
    stored.assert_all_is_right()


@pytest.mark.parametrize("how", [_soak("one flipped byte"), "truncated", "deleted"])
def test_a_replica_damaged_while_its_server_was_down_is_passed_over_and_told(stored, how):
    spot = stored.spot("large", 1000)
    stored.cluster.kill(spot.servers[0])
    _damage(how, spot.paths[0], spot.offset)
    stored.cluster.up()
    stored.mount_cold()
    stored.read_while_others_are_slow("large", spot)
    stored.assert_damage_is_told(spot.servers[0])
    stored.assert_all_is_right()


def test_each_replica_may_have_bad_blocks_as_long_as_no_block_is_bad_on_all(stored):
    for number in range(0, 40, 2):
        spot = stored.spot("large", number * BLOCK)
        _flip(spot.paths[number // 2 % 2], spot.offset)
    stored.mount_cold()
    stored.assert_all_is_right()


@pytest.mark.parametrize("how", ["one flipped byte", _soak("overwritten by zeroes")])
def test_a_block_that_is_bad_on_all_replicas_gives_eio_and_never_wrong_bytes(stored, how):
    spot = stored.spot("large", 1 << 20)
    for path in spot.paths:
        _damage(how, path, spot.offset)
    stored.mount_cold()
    with pytest.raises(OSError) as caught:
        stored.read("large")
    assert caught.value.errno == errno.EIO
    assert stored.mount.status()["degraded"]
    good, refused = _pieces(stored, "large")
    assert refused == {errno.EIO}
    if how == "one flipped byte":
        assert good > 0.9
        stored.files.pop("large")
        stored.assert_all_is_right()


def _pieces(stored: Stored, name: str) -> tuple[float, set[int]]:
    """The part of a file that can be read, all of it rightly, and the errnos of the rest."""
    data, offset, good, refused = stored.files[name], 0, 0, set()
    descriptor = os.open(stored.mount / name, os.O_RDONLY)
    while offset < len(data):
        try:
            piece = os.pread(descriptor, STEP_BYTES, offset)
        except OSError as error:
            refused.add(error.errno)
            offset += STEP_BYTES
            continue
        assert piece
        assert piece == data[offset : offset + len(piece)]
        good += len(piece)
        offset += len(piece)
    os.close(descriptor)
    return good / len(data), refused


@pytest.mark.soak
def test_a_checksum_file_that_is_gone_counts_as_damage(stored):
    spot = stored.spot("large")
    stored.cluster.kill(spot.servers[0])
    spot.paths[0].with_suffix(".crc").unlink()
    stored.cluster.up()
    stored.mount_cold()
    stored.assert_all_is_right()


def test_the_disk_cache_of_the_mount_may_be_damaged_too(cluster):
    stored = Stored(cluster)
    stored.mount_cold()
    stored.assert_all_is_right()
    stored.mount.umount()
    rng = random.Random(3)
    for path in (stored.mount.cache / "blocks").rglob("*"):
        if path.is_file():
            for _ in range(20):
                _flip(path, rng.randrange(path.stat().st_size))
    stored.mount = cluster.mount_again(stored.mount)
    stored.assert_all_is_right()
