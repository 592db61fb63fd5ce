import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudverge_embedded.fleet import Fleet
from cloudverge_embedded.folder import Folder
from cloudverge_embedded.plan import ChildSpec, Finished, ReadyFile

READY = """
import json, os, sys, time
def ready():
    with open(sys.argv[1] + ".new", "w") as file:
        json.dump({"pid": os.getpid()}, file)
    os.rename(sys.argv[1] + ".new", sys.argv[1])
"""
SCRIPTS = {
    "serve": READY + "ready(); time.sleep(600)",
    "task": "pass",
    "fail": "import sys; sys.exit('the stand-in says no')",
    "stubborn": READY
    + "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); ready(); time.sleep(600)",
    "silent": "import time; time.sleep(600)",
}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "cluster")
    made.make()
    return made


@pytest.fixture
def stand_in(folder: Folder) -> Callable[..., ChildSpec]:
    """Builds specs of tiny children that behave as named in SCRIPTS."""

    def build(
        name: str, behaviour: str = "serve", needs: tuple[str, ...] = (), limit_s: float = 10
    ) -> ChildSpec:
        ready_file = folder.ready_file(name)
        return ChildSpec(
            name,
            (sys.executable, "-c", SCRIPTS[behaviour], str(ready_file)),
            Finished() if behaviour == "task" else ReadyFile(ready_file),
            folder.log_file(name),
            folder.home_of(name),
            needs,
            start_limit_s=limit_s,
        )

    return build


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    made = Fleet()
    yield made
    made.stop(grace_s=1)


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """Ticks a fleet until a condition holds."""

    def wait(fleet: Fleet, condition: Callable[[], object], limit_s: float = 15) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            fleet.tick(time.monotonic())
            time.sleep(0.01)

    return wait
