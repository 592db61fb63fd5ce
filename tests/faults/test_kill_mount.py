"""kill -9 of the process that serves a mount: what was closed is there again, what was fsynced is on the servers."""

import errno
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.cluster import Cluster, Mount, is_mounted
from tests.fixtures.copier import Copier, Outcome
from tests.fixtures.trees import difference, is_beginning, make_archive, make_tree, names_of
from tests.fixtures.untar import Untar

TAKE_OVER_WITHIN_S = 20.0
ROUNDS = [pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 21)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("source") / "tree"
    make_tree(folder)
    make_archive(folder, folder.with_suffix(".tar"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def small_tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("source") / "small"
    make_tree(folder, files=60, large=1, seed=2)
    yield folder
    shutil.rmtree(folder)


class Crash:
    """A mount killed while tar was unpacking an archive and a copy fsynced each of its files."""

    def __init__(self, cluster: Cluster, tree: Path, small_tree: Path, seed: int) -> None:
        self.tree, self.small_tree = tree, small_tree
        self.mount = cluster.mount()
        (self.mount / "untar").mkdir()
        (self.mount / "synced").mkdir()
        copier = Copier(small_tree, self.mount / "synced", cluster.new_path("stop"), fsync_every=1)
        copier.wait_for(5)
        tar = Untar(tree.with_suffix(".tar"), self.mount / "untar")
        self.killed_at = random.Random(seed).uniform(0.05, 0.95)
        try:
            tar.wait_for(self.killed_at)
        finally:
            self.mount.kill()
            assert tar.finish(60) == 2
            self.outcomes = copier.finish(60)
        self.closed = names_of(tree) - tar.failed
        self.synced = [outcome for outcome in self.outcomes if outcome.synced]

    def lost_of_closed(self, mount: Mount) -> dict[str, str]:
        """What is wrong with members that had been closed."""
        pairs = {name: (self.tree / name, mount / "untar" / name) for name in self.closed}
        wrong = {name: difference(*pair, times=True) for name, pair in pairs.items() if not pair[0].is_dir()}
        return {name: what for name, what in wrong.items() if what}

    def lost_of_synced(self, mount: Mount) -> dict[str, str]:
        """What is wrong with files whose fsync had returned."""
        return lost(self.synced, self.small_tree, mount / "synced")

    def halves(self, mount: Mount) -> list[str]:
        """Members that are there with anything but the first bytes of what they should hold."""
        there = [name for name in names_of(mount / "untar") if (self.tree / name).is_file()]
        pairs = {name: (mount / "untar" / name, self.tree / name) for name in there}
        return [name for name, pair in pairs.items() if not is_beginning(*pair)]


def lost(outcomes: list[Outcome], source: Path, target: Path) -> dict[str, str]:
    """What is wrong with copies that ended well."""
    wrong = {each.path: difference(source / each.source, target / each.path) for each in outcomes}
    return {name: what for name, what in wrong.items() if what}


def mount_patiently(cluster: Cluster, mount: Mount, within_s: float, cache: Path | None = None) -> Mount:
    """Mount a space that a dead device still holds, trying again until its lease has run out."""
    cache, path = cache or mount.cache, mount.path
    deadline = time.monotonic() + within_s
    while (done := cluster.try_mount(mount.user, cache, path)).returncode:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.2)
    assert time.monotonic() < deadline
    return cluster.adopt(Mount(path, cache, mount.user))


@pytest.mark.parametrize("seed", [1, *ROUNDS])
def test_what_was_closed_is_there_after_the_mount_is_killed_in_the_middle_of_untar(
    cluster, tree, small_tree, seed
):
    crash = Crash(cluster, tree, small_tree, seed)
    assert 0 < len(crash.closed) < len(names_of(tree))
    assert crash.synced
    again = cluster.mount_again(crash.mount)
    assert crash.lost_of_closed(again) == {}
    assert crash.lost_of_synced(again) == {}
    assert crash.halves(again) == []
    again.sync()
    assert again.status()["degraded"] == []
    assert again.status()["pending_files"] == again.status()["pending_entries"] == 0
    cold = cluster.remount_cold(again)
    assert crash.lost_of_closed(cold) == {}
    assert crash.halves(cold) == []


@pytest.mark.parametrize("seed", [1, *ROUNDS])
def test_what_was_fsynced_is_on_the_servers_after_mount_and_cache_are_gone(cluster, tree, small_tree, seed):
    crash = Crash(cluster, tree, small_tree, seed + 100)
    assert crash.synced
    shutil.rmtree(crash.mount.cache)
    again = mount_patiently(cluster, crash.mount, TAKE_OVER_WITHIN_S)
    assert crash.lost_of_synced(again) == {}
    assert crash.halves(again) == []
    assert again.status()["degraded"] == []


def test_what_was_fsynced_outlives_mount_cache_chunkservers_and_database(cluster, small_tree):
    mount = cluster.mount()
    shutil.copytree(small_tree, mount / "folder", symlinks=True)
    _fsync_folder(mount / "folder")
    copier = Copier(small_tree, mount.path, cluster.new_path("stop"), fsync_every=1)
    copier.wait_for(40)
    mount.kill()
    for name in (*cluster.chunkservers(), "postgres", "metaserver-1"):
        cluster.kill(name)
    outcomes = copier.finish(60)
    shutil.rmtree(mount.cache)
    cluster.up()
    again = mount_patiently(cluster, mount, 2 * TAKE_OVER_WITHIN_S)
    assert len([each for each in outcomes if each.synced]) >= 40
    assert lost([each for each in outcomes if each.synced], small_tree, again.path) == {}
    wrong = {name: difference(small_tree / name, again / "folder" / name) for name in names_of(small_tree)}
    assert {name: what for name, what in wrong.items() if what} == {}


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def test_another_device_is_refused_until_the_holder_is_gone_and_then_replaces_it_for_good(cluster):
    mount = cluster.mount()
    (mount / "file").write_bytes(b"content")
    mount.sync()
    cache = cluster.new_path("cache")
    refused = cluster.try_mount(mount.user, cache, cluster.new_path("m"))
    assert refused.returncode != 0
    assert os.uname().nodename in refused.stderr
    assert "in use" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    (mount / "late").write_bytes(b"closed, not shipped")
    mount.kill()
    other = mount_patiently(cluster, mount, TAKE_OVER_WITHIN_S, cache=cache)
    assert (other / "file").read_bytes() == b"content"
    (other / "file").write_bytes(b"new content")
    other.umount()
    again = cluster.mount_again(mount)
    again.sync()
    assert (again / "file").read_bytes() == b"new content"


def test_the_same_cache_gets_in_at_once_after_it_was_killed(cluster):
    mount = cluster.mount()
    (mount / "file").write_bytes(b"content")
    mount.kill()
    started = time.monotonic()
    again = cluster.mount_again(mount)
    assert time.monotonic() - started < 5
    assert (again / "file").read_bytes() == b"content"


def test_a_dead_mountpoint_can_be_unmounted_and_mounted_again(cluster):
    mount = cluster.mount()
    mount.kill()
    with pytest.raises(OSError) as caught:
        os.listdir(mount.path)
    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    assert is_mounted(mount.path)
    subprocess.run(["umount", str(mount.path)], check=True)
    again = cluster.mount_again(mount)
    assert os.listdir(again.path) == []
