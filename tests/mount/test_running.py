"""What a running mount shows of itself: control socket, registry, cache folder, daemon, log."""

import json
import os
import socket
import subprocess
import sys
import threading

import pytest
import structlog
import trio

from cloudverge_mount import logs
from cloudverge_mount.cachefolder import CacheFolder, Home, default_cache_folder
from cloudverge_mount.control import ControlServer, ask
from cloudverge_mount.idrange import IdRange
from cloudverge_mount.progress import pending_in_words, show
from cloudverge_mount.registry import (
    MountRecord,
    all_mounts,
    mount_at,
    registered,
    runtime_folder,
    start_time,
)
from cloudverge_protocol.errors import Code, NoRoom, Refused, Unavailable

STATUS = {"pending_files": 2, "pending_bytes": 3 << 20, "pending_entries": 5}


class Served:
    """A control server in a thread of its own."""

    def __init__(self, path, sync):
        self.path, self.sync = path, sync
        self.ready = threading.Event()
        self.thread = threading.Thread(target=trio.run, args=(self.run,))

    async def run(self):
        self.token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            self.scope = nursery.cancel_scope
            await nursery.start(
                ControlServer(self.path, full_status, lambda: dict(STATUS), self.sync, still_mounted).run
            )
            self.ready.set()

    def __enter__(self):
        self.thread.start()
        assert self.ready.wait(5)
        return self

    def __exit__(self, *_):
        trio.from_thread.run_sync(self.scope.cancel, trio_token=self.token)
        self.thread.join(5)


async def full_status():
    return STATUS | {"servers": []}


def still_mounted():
    raise Refused(Code.BUSY, "still mounted")


async def quick():
    await trio.sleep(0.3)


async def full():
    raise NoRoom(Code.NO_SPACE, "the disks are full")


def test_status_is_one_answer_and_sync_shows_progress_to_its_end(tmp_path):
    with Served(tmp_path / "c.sock", quick) as served:
        assert list(ask(served.path, "status")) == [STATUS | {"servers": []}]
        answers = list(ask(served.path, "sync"))
        assert len(answers) >= 2
        assert answers[0] == STATUS
        assert answers[-1]["done"]
        assert (tmp_path / "c.sock").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "c.sock").exists()


def test_a_sync_that_fails_says_why(tmp_path):
    with Served(tmp_path / "c.sock", full) as served, pytest.raises(NoRoom, match="disks are full"):
        show(ask(served.path, "sync"))


def test_a_mount_that_is_mounted_does_not_end_on_request(tmp_path):
    with Served(tmp_path / "c.sock", quick) as served, pytest.raises(Refused, match="still mounted"):
        list(ask(served.path, "end"))


def test_nonsense_on_the_control_socket_harms_nobody(tmp_path):
    with Served(tmp_path / "c.sock", quick) as served:
        with pytest.raises(Exception, match="unknown request"):
            list(ask(served.path, "dance"))
        for noise in (b"\n", b"[1]\n", b"\xff\xfe\n", b"x" * 100_000):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(served.path))
                client.sendall(noise)
        assert list(ask(served.path, "status")) == [STATUS | {"servers": []}]


def test_a_mount_that_does_not_answer_is_told_apart(tmp_path):
    with pytest.raises(Unavailable, match="does not answer"):
        list(ask(tmp_path / "none.sock", "status"))


def test_pending_is_told_in_words():
    assert pending_in_words(STATUS) == "2 files (3.0 MiB) and 5 changes to go"


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    folder = tmp_path / "cloudverge"
    monkeypatch.setattr("cloudverge_mount.registry._candidates", lambda: iter([folder]))
    return folder


def record_of(pid, folder, mountpoint="/mnt/x"):
    return MountRecord(mountpoint, pid, start_time(pid), "ann", "/cache", str(folder / f"{pid}.sock"))


def test_a_mount_is_known_as_long_as_it_lasts(runtime):
    assert runtime_folder() == runtime
    with registered(record_of(os.getpid(), runtime)) as _:
        assert [record.mountpoint for record in all_mounts()] == ["/mnt/x"]
        assert mount_at("/mnt/x").pid == os.getpid()
        assert mount_at("/mnt/y") is None
    assert all_mounts() == []


def test_what_a_killed_mount_left_is_cleaned_away(runtime):
    runtime_folder()
    child = subprocess.Popen(["sleep", "60"])
    record = record_of(child.pid, runtime)
    file = runtime / f"{child.pid}.json"
    file.write_text(json.dumps({name: getattr(record, name) for name in record.__struct_fields__}))
    (runtime / f"{child.pid}.sock").touch()
    assert len(all_mounts()) == 1
    child.kill()
    child.wait()
    assert all_mounts() == []
    assert list(runtime.iterdir()) == []


ANNS = Home("abc", 7, "ann")


def test_a_cache_folder_serves_one_process_and_one_user_of_one_space(tmp_path):
    first, second = CacheFolder(tmp_path / "cache"), CacheFolder(tmp_path / "cache")
    assert first.lock()
    assert not second.lock()
    made = first.cache_id()
    first.belong_to(ANNS)
    first.unlock()
    assert second.lock()
    assert second.cache_id() == made
    second.belong_to(ANNS)
    for other in (ANNS._replace(space=8), ANNS._replace(user="bob"), ANNS._replace(grant=3)):
        with pytest.raises(Refused, match="another space or user"):
            second.belong_to(other)
    second.unlock()


def test_a_cache_folder_of_before_users_were_told_apart_goes_to_whom_it_is_used_by(tmp_path):
    folder = CacheFolder(tmp_path)
    (tmp_path / "home").write_text("abc 7\n")
    folder.belong_to(ANNS)
    with pytest.raises(Refused):
        folder.belong_to(ANNS._replace(user="bob"))


def test_every_user_space_and_grant_has_a_cache_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    homes = [ANNS, ANNS._replace(space=8), ANNS._replace(user="bob"), ANNS._replace(grant=3)]
    assert len({default_cache_folder(home, owned=True) for home in homes}) == 4
    before = tmp_path / "cloudverge" / "abc-7"
    before.mkdir(parents=True)
    assert default_cache_folder(ANNS, owned=True) == before
    assert default_cache_folder(ANNS._replace(user="bob"), owned=False) != before
    assert default_cache_folder(ANNS._replace(grant=3), owned=True) != before


def test_ids_are_given_once_and_in_order():
    ids = IdRange()
    ids.add(10, 2)
    ids.add(100, 1)
    assert [ids.take() for _ in range(3)] == [10, 11, 100]
    with pytest.raises(Unavailable):
        ids.take()
    ids.add(200, 5)
    ids.clear()
    assert ids.left == 0


DAEMON = """
import os, sys, time
from cloudverge_mount.daemon import in_background
from cloudverge_protocol.errors import Code, NoRoom

def serve(announcer):
    if sys.argv[1] == "fail":
        raise NoRoom(Code.NO_SPACE, "the disk is full")
    if sys.argv[1] == "die":
        os._exit(3)
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    held = sorted(os.readlink(link) for link in links if os.path.lexists(link))
    open(sys.argv[2], "w").write("\\n".join([str(os.getpid()), *held]))
    announcer.mounted()
    time.sleep(30)

try:
    in_background(serve)
except Exception as error:
    print(type(error).__name__, error)
else:
    print("mounted")
"""


def run_daemon(kind, note):
    kept, _ = os.pipe()
    os.set_inheritable(kept, True)
    try:
        return subprocess.run(
            [sys.executable, "-c", DAEMON, kind, note],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20, close_fds=False, check=False,
        ).stdout  # fmt: skip
    finally:
        os.close(kept)
        os.close(_)


def test_the_background_process_keeps_nothing_of_its_caller(tmp_path):
    note = tmp_path / "note"
    assert run_daemon("live", note) == "mounted\n"  # and did not wait for the child to close our pipe
    pid, *held = note.read_text().splitlines()
    assert all(path == "/dev/null" or path.startswith(("pipe:", "/proc")) for path in held), held
    assert sum(path.startswith("pipe:") for path in held) == 1
    assert os.getsid(int(pid)) == int(pid)
    os.kill(int(pid), 9)


def test_what_goes_wrong_in_the_background_is_told_in_the_foreground(tmp_path):
    assert run_daemon("fail", tmp_path / "note") == "NoRoom the disk is full\n"
    assert "died while starting" in run_daemon("die", tmp_path / "note")


def test_the_log_is_bounded(tmp_path):
    path = tmp_path / "mount.log"
    fd = os.open(os.devnull, os.O_WRONLY)
    try:
        file = logs.BoundedFile(path, bytes_max=1000, fd=fd)
        for number in range(100):
            file.write(f"line {number} {'x' * 40}\n")
        assert path.stat().st_size < 1100
        assert (tmp_path / "mount.log.1").stat().st_size < 1100
        assert "line 99" in path.read_text()
    finally:
        os.close(fd)


def test_log_lines_are_json_and_carry_the_exception(capsys):
    before = structlog.get_config()
    try:
        logs.set_up()
        try:
            raise ValueError("odd")
        except ValueError as error:
            structlog.get_logger().error("it failed", exc_info=error)
        structlog.get_logger().info("not shown")
        line = capsys.readouterr().err
    finally:
        structlog.configure(**before)
    said = json.loads(line)
    assert (said["event"], said["level"]) == ("it failed", "error")
    assert "ValueError: odd" in said["exception"]
