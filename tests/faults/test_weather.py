"""Bad lines between the mount and its servers: every call ends in time, rightly or with an errno; later all ships."""

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fixtures.cluster import Cluster, Mount
from tests.fixtures.flakyproxy import CALM, FlakyProxy, Weather
from tests.fixtures.trees import make_tree
from tests.fixtures.wanderer import Wanderer, compare

SLOWEST_CALL_S = 32.0
SETTLED_WITHIN_S = 90.0
STORM_S = 2.5
STORM_IN_SOAK_S = 35.0
CALM_S = 1.0

WEATHERS = {
    "cut": Weather(cut=0.05),
    "delayed": Weather(delay_s=0.15),
    "silent": Weather(silent=True),
    "refused": Weather(refuse=True, cut=0.2),
    "corrupted": Weather(corrupt=0.05),
    "all at once": Weather(delay_s=0.02, corrupt=0.02, cut=0.02),
}


class Front:
    """Proxies before the metaserver's and the chunkservers' frame ports."""

    def __init__(self, cluster: Cluster, stack: contextlib.ExitStack) -> None:
        self._cluster = cluster
        names = ["metaserver-1", *cluster.chunkservers()]
        self.proxies = {
            name: stack.enter_context(FlakyProxy(cluster.address(name), seed))
            for seed, name in enumerate(names)
        }
        self._file = cluster.home / "cluster.json"
        self._lead(lambda name: self.proxies[name].port, lambda name: cluster.address(name)[1])
        stack.callback(
            self._lead, lambda name: cluster.address(name)[1], lambda name: self.proxies[name].port
        )

    def _lead(self, there: Callable[[str], int], from_here: Callable[[str], int]) -> None:
        """Have mounts connect to other ports, in ``cluster.json`` and in the metaserver's table."""
        report = json.loads(self._file.read_text())
        changed = report | {"metaserver_frames": f"127.0.0.1:{there('metaserver-1')}"}
        self._file.write_text(json.dumps(changed))
        query = "update meta.servers set frame_port = $1 where frame_port = $2"
        for name in self._cluster.chunkservers():
            self._cluster.sql(query, there(name), from_here(name))

    def be(self, weather: Weather, *names: str) -> None:
        """Weather before the named servers, or before all."""
        for name in names or tuple(self.proxies):
            self.proxies[name].weather = weather
            if weather.refuse or weather.silent:
                self.proxies[name].cut_all()


@pytest.fixture
def front(cluster: Cluster) -> Iterator[tuple[Cluster, Front]]:
    with contextlib.ExitStack() as stack:
        yield cluster, Front(cluster, stack)
        cluster.end_mounts()


def _furnish(cluster: Cluster, shadow: Path) -> Mount:
    """A mount with a tree in it that is not cached on this machine, and the same tree in the shadow."""
    make_tree(shadow, files=120, large=4, seed=5)
    mount = cluster.mount()
    shutil.copytree(shadow, mount.path, symlinks=True, dirs_exist_ok=True)
    return cluster.remount_cold(mount)


def _storm(front: Front, seconds: float, *names: str) -> None:
    for weather in WEATHERS.values():
        front.be(weather, *names)
        time.sleep(seconds)
        front.be(CALM)
        time.sleep(CALM_S)


def _assert_it_went_well(wanderer: Wanderer) -> None:
    assert [step for step in wanderer.steps if step.wrong] == []
    assert [step for step in wanderer.steps if step.took_s > SLOWEST_CALL_S] == []
    good = sum(step.error is None for step in wanderer.steps)
    assert good > 50


def _assert_all_ships(cluster: Cluster, mount: Mount, shadow: Path, wanderer: Wanderer) -> None:
    mount.sync(within_s=SETTLED_WITHIN_S)
    status = mount.status()
    assert (status["pending_files"], status["pending_bytes"], status["pending_entries"]) == (0, 0, 0)
    assert status["set_aside"] == 0
    assert compare(mount.path, shadow, wanderer.uncertain) == {}
    cold = cluster.remount_cold(mount)
    assert compare(cold.path, shadow, wanderer.uncertain) == {}


def _live_through(front: tuple[Cluster, Front], shadow: Path, seed: int, storm: Callable[[], None]) -> None:
    cluster, proxies = front
    mount = _furnish(cluster, shadow)
    wanderer = Wanderer(mount.path, shadow, cluster.new_path("stop"), seed)
    try:
        storm()
        proxies.be(CALM)
        time.sleep(2 * CALM_S)
        wanderer.finish(SLOWEST_CALL_S)
    finally:
        proxies.be(CALM)
        wanderer.kill()
    _assert_it_went_well(wanderer)
    _assert_all_ships(cluster, mount, shadow, wanderer)


def test_a_random_workload_lives_through_all_weathers(front, tmp_path):
    _live_through(front, tmp_path / "shadow", 1, lambda: _storm(front[1], STORM_S))


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2, 4))
@pytest.mark.parametrize("before", ["all", "metaserver-1", "chunkserver-2"])
def test_a_random_workload_lives_through_long_storms(front, tmp_path, seed, before):
    names = () if before == "all" else (before,)
    _live_through(front, tmp_path / "shadow", seed, lambda: _storm(front[1], STORM_IN_SOAK_S, *names))


def test_a_line_that_goes_dead_in_the_middle_of_a_read_gives_the_right_bytes_or_an_errno(front, tmp_path):
    cluster, proxies = front
    shadow = tmp_path / "shadow"
    mount = _furnish(cluster, shadow)
    results: list[str] = []

    def read_all() -> None:
        for path in sorted(path for path in shadow.rglob("large-*")):
            started = time.monotonic()
            try:
                right = (mount / str(path.relative_to(shadow))).read_bytes() == path.read_bytes()
                results.append("right" if right else "wrong")
            except OSError:
                results.append("errno")
            if time.monotonic() - started > SLOWEST_CALL_S:
                results.append("late")

    reading = threading.Thread(target=read_all, daemon=True)
    proxies.be(Weather(delay_s=0.05))
    reading.start()
    time.sleep(0.3)
    proxies.be(Weather(silent=True), *cluster.chunkservers())
    time.sleep(8)
    proxies.be(CALM)
    reading.join(4 * SLOWEST_CALL_S)
    assert not reading.is_alive()
    assert set(results) <= {"right", "errno"}
    assert compare(mount.path, shadow, set()) == {}
