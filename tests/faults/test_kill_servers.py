"""kill -9 of a server in the middle of a copy: the mount lives on, nothing hangs, nothing fsynced is lost."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.cluster import Cluster, Mount, is_mounted, is_running, wait_until
from tests.fixtures.copier import Copier, Outcome
from tests.fixtures.trees import difference, is_beginning, make_tree

SERVERS = ["auth", "metaserver-1", "chunkserver-1", "postgres"]
SLOWEST_CALL_S = 30.0
SLACK_S = 2.0
AWAY_S = 3.0
AWAY_IN_SOAK_S = 10.0
SETTLED_WITHIN_S = 90.0


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("source") / "tree"
    make_tree(folder, files=150, large=3)
    yield folder
    shutil.rmtree(folder)


class Watch:
    """Sees to it that the mount is there all the time and answers a question about it within the limit."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._over = threading.Event()
        self.slowest_s = 0.0
        self.missed: list[str] = []
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(2 * SLOWEST_CALL_S)
        assert not self._thread.is_alive(), "a stat hangs"

    def _look(self) -> None:
        while not self._over.wait(0.1):
            started = time.monotonic()
            if not (is_running(self._mount.pid) and is_mounted(self._mount.path)):
                self.missed.append("the mount has disappeared")
                return
            try:
                os.statvfs(self._mount.path)
                os.listdir(self._mount.path)
            except OSError as error:
                self.missed.append(str(error))
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)


def _copy_while_away(
    cluster: Cluster, mount: Mount, tree: Path, names: list[str], away_s: float
) -> list[Outcome]:
    """Copy; kill the servers in the middle; bring them back; copy a little more."""
    copier = Copier(tree, mount.path, cluster.new_path("stop"))
    try:
        with Watch(mount) as watch:
            copier.wait_for(40)
            for name in names:
                cluster.kill(name)
            time.sleep(away_s)
            cluster.up()
            seen = len(copier.outcomes)
            wait_until(
                lambda: len(copier.outcomes) > seen + 40,
                SLOWEST_CALL_S + 30,
                "the copy goes on once the server is back",
            )
            outcomes = copier.finish(SLOWEST_CALL_S + SLACK_S)
    finally:
        copier.kill()
    assert watch.missed == []
    assert watch.slowest_s < SLOWEST_CALL_S + SLACK_S
    return outcomes


def _assert_nothing_is_lost(outcomes: list[Outcome], source: Path, target: Path) -> None:
    """Whole where the copy said so; elsewhere nothing, or a beginning."""
    wrong = {}
    for each in outcomes:
        ours, theirs = source / each.source, target / each.path
        if each.error is None or each.synced:
            wrong[each.path] = difference(ours, theirs)
        elif theirs.exists() and not is_beginning(theirs, ours):
            wrong[each.path] = "holds what was never written there"
    assert {path: what for path, what in wrong.items() if what} == {}


def _assert_it_ends_well(cluster: Cluster, mount: Mount, tree: Path, outcomes: list[Outcome]) -> None:
    slow = [each for each in outcomes if each.slowest_s > SLOWEST_CALL_S + SLACK_S]
    assert slow == []
    assert sum(each.error is None for each in outcomes) > 80
    mount.sync(within_s=SETTLED_WITHIN_S)
    status = mount.status()
    assert (status["pending_files"], status["pending_bytes"], status["pending_entries"]) == (0, 0, 0)
    _assert_nothing_is_lost(outcomes, tree, mount.path)
    cold = cluster.remount_cold(mount)
    _assert_nothing_is_lost(outcomes, tree, cold.path)


@pytest.mark.parametrize("name", SERVERS)
def test_a_copy_survives_the_death_of_a_server(cluster, tree, name):
    mount = cluster.mount()
    outcomes = _copy_while_away(cluster, mount, tree, [name], AWAY_S)
    _assert_it_ends_well(cluster, mount, tree, outcomes)


@pytest.mark.soak
@pytest.mark.parametrize("round_number", range(10))
@pytest.mark.parametrize("name", SERVERS)
def test_a_copy_survives_the_death_of_a_server_for_longer(cluster, tree, name, round_number):
    mount = cluster.mount()
    if name.startswith("chunkserver"):
        name = cluster.chunkservers()[round_number % 3]
    outcomes = _copy_while_away(cluster, mount, tree, [name], AWAY_IN_SOAK_S)
    _assert_it_ends_well(cluster, mount, tree, outcomes)


@pytest.mark.soak
def test_a_copy_survives_the_death_of_everything(cluster, tree):
    mount = cluster.mount()
    outcomes = _copy_while_away(cluster, mount, tree, [*SERVERS, *cluster.chunkservers()[1:]], AWAY_IN_SOAK_S)
    _assert_it_ends_well(cluster, mount, tree, outcomes)


@pytest.mark.soak
def test_a_mount_whose_chunkservers_have_all_died_fails_fsync_instead_of_lying(cluster):
    mount = cluster.mount()
    (mount / "before").write_bytes(b"before")
    mount.sync()
    for name in cluster.chunkservers():
        cluster.kill(name)
    path = mount / "during"
    started = time.monotonic()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.write(descriptor, b"during")
        with pytest.raises(OSError):
            os.fsync(descriptor)
        assert time.monotonic() - started < SLOWEST_CALL_S + SLACK_S
        assert path.read_bytes() == b"during"
        assert mount.status()["pending_files"] > 0
        cluster.up()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    assert mount.status()["pending_files"] == 0
    cold = cluster.remount_cold(mount)
    assert (cold / "during").read_bytes() == b"during"
    assert (cold / "before").read_bytes() == b"before"


@pytest.mark.soak
def test_a_mount_that_cannot_start_because_auth_is_away_says_so_in_words(cluster):
    cluster.kill("auth")
    started = time.monotonic()
    refused = cluster.try_mount("nobody-yet", cluster.new_path("cache"), cluster.new_path("m"))
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    assert refused.stderr.strip()
    assert time.monotonic() - started < 2 * SLOWEST_CALL_S
