"""The binding and the shim under a real kernel, over a file system in memory that can be told to fail."""

import contextlib
import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.posix

SERVE = Path(__file__).parent / "memory" / "serve.py"
PATIENCE_S = 1.0


class MemoryMount:
    """A served MemoryFiles; ``fail`` makes operations raise or hang."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
        self.path = folder / "mnt"
        self.path.mkdir()
        self._faults = folder / "faults"
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, SERVE, self.path, self._faults, str(PATIENCE_S), kind],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self.process.stdout.readline() == "ready\n", self.log.read_text()

    def fail(self, *faults: str) -> None:
        self._faults.write_text(" ".join(faults))

    def asks_for(self, operation: str) -> str:
        """The operation that comes where the other binding has this one."""
        return IN_PLACE_OF.get(operation, operation) if self.kind == "direct" else operation

    def unmount(self) -> dict:
        """What the server measured."""
        command = ["umount"] if os.getuid() == 0 else ["fusermount3", "-u"]
        subprocess.run([*command, self.path], check=True)
        said, _ = self.process.communicate(timeout=10)
        return json.loads(said)


@pytest.fixture(params=["pyfuse3", "direct"])
def mount(tmp_path, request):
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse")
    mount = MemoryMount(tmp_path, request.param)
    yield mount
    if mount.process.poll() is None:
        mount.fail()
        mount.unmount()


def renameat2(old: Path, new: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    at_cwd = -100
    if libc.renameat2(at_cwd, bytes(old), at_cwd, bytes(new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def exercise(path: Path, operation: str) -> None:
    """Make the kernel send ``operation``."""
    file, folder = path / "file", path / "folder"
    actions = {
        "lookup": lambda: os.stat(path / "never seen"),
        "mknod": lambda: os.mkfifo(path / "fifo"),
        "mkdir": lambda: os.mkdir(path / "new folder"),
        "symlink": lambda: os.symlink("x", path / "symlink"),
        "link": lambda: os.link(file, path / "link"),
        "unlink": lambda: os.unlink(file),
        "rmdir": lambda: os.rmdir(folder),
        "rename": lambda: os.rename(file, path / "new name"),
        "setattr": lambda: os.chmod(file, 0o600),
        "readlink": lambda: os.readlink(path / "a symlink"),
        "statfs": lambda: os.statvfs(path),
        "getxattr": lambda: os.getxattr(file, "user.a"),
        "setxattr": lambda: os.setxattr(file, "user.b", b"b"),
        "listxattr": lambda: os.listxattr(file),
        "removexattr": lambda: os.removexattr(file, "user.a"),
        "create": lambda: os.close(os.open(path / "new file", os.O_CREAT | os.O_WRONLY)),
        "open": lambda: os.close(os.open(file, os.O_RDONLY)),
        "opendir": lambda: os.listdir(folder),
        "readdir": lambda: os.listdir(folder),
    }
    if operation in actions:
        actions[operation]()
        return
    is_folder = operation in ("releasedir", "fsyncdir")
    fd = os.open(folder if is_folder else file, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        if operation == "read":
            os.pread(fd, 10, 0)
        elif operation == "write":
            os.write(fd, b"x")
        elif operation in ("fsync", "fsyncdir"):
            os.fsync(fd)
    finally:
        os.close(fd)


ANSWERED = [
    *("lookup", "mknod", "mkdir", "symlink", "link", "unlink", "rmdir", "rename"),
    *("setattr", "readlink", "statfs", "getxattr", "setxattr", "listxattr", "removexattr"),
    *("create", "open", "read", "write", "flush", "fsync", "opendir", "readdir", "fsyncdir"),
]
IN_PLACE_OF = {  # what the direct binding asks for, where pyfuse3's asks for the others
    "opendir": "listdir",
    "readdir": "listdir",
    "releasedir": "release",
    "read": "views",
}
UNANSWERED = ("release", "releasedir", "forget")


def furnish(path: Path) -> None:
    (path / "file").write_bytes(b"content")
    os.setxattr(path / "file", "user.a", b"a")
    (path / "folder").mkdir()
    os.symlink("target", path / "a symlink")


@pytest.mark.parametrize("operation", ANSWERED)
def test_an_operation_that_raises_gives_eio_and_a_log_line_and_the_mount_lives(mount, operation):
    furnish(mount.path)
    asked = mount.asks_for(operation)
    mount.fail(f"raise:{asked}")
    with pytest.raises(OSError) as caught:
        exercise(mount.path, operation)
    assert caught.value.errno == errno.EIO
    mount.fail()
    assert f"{asked} was told to fail" in mount.log.read_text()
    assert (mount.path / "file").read_bytes().endswith(b"ontent")


@pytest.mark.parametrize("operation", UNANSWERED)
def test_what_the_kernel_wants_no_answer_to_may_raise_too(mount, operation):
    furnish(mount.path)
    asked = mount.asks_for(operation)
    mount.fail(f"raise:{asked}")
    if operation == "forget":
        os.unlink(mount.path / "a symlink")
    else:
        exercise(mount.path, asked)
    deadline = time.monotonic() + 5
    while f"{asked} was told to fail" not in mount.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    mount.fail()
    assert (mount.path / "file").read_bytes() == b"content"


def test_an_operation_that_hangs_ends_with_an_errno_and_blocks_no_other(mount):
    furnish(mount.path)
    mount.fail("hang:setattr")
    errors = []

    def change_mode():
        try:
            os.chmod(mount.path / "file", 0o600)
        except OSError as error:
            errors.append(error.errno)

    threads = [threading.Thread(target=change_mode) for _ in range(5)]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    assert (mount.path / "file").read_bytes() == b"content"
    (mount.path / "other").write_bytes(b"other")
    assert time.monotonic() - started < PATIENCE_S / 2
    for thread in threads:
        thread.join(timeout=PATIENCE_S * 10)
    assert errors == [errno.ETIMEDOUT] * 5
    mount.fail()
    os.chmod(mount.path / "file", 0o640)
    assert (mount.path / "file").stat().st_mode & 0o777 == 0o640


def test_a_process_killed_while_it_waits_for_us_does_no_harm(mount):
    furnish(mount.path)
    mount.fail("hang:setattr")
    victims = [subprocess.Popen(["chmod", "600", mount.path / "file"]) for _ in range(3)]
    time.sleep(0.2)
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
    mount.fail()
    for victim in victims:
        victim.wait(timeout=PATIENCE_S * 10)
    assert (mount.path / "file").read_bytes() == b"content"


def test_the_loop_gives_other_tasks_their_turn_under_load(mount):
    until = time.monotonic() + 1.0
    number = 0
    while time.monotonic() < until:
        (mount.path / f"{number}").write_bytes(b"x")
        number += 1
    assert mount.unmount()["longest_pause_s"] < 0.2
    assert number > 100


def test_names_may_be_any_bytes_up_to_255_and_not_longer(mount):
    root = bytes(mount.path)
    for name in (b"\xff\xfe\x01 \n", b"n" * 255, "ü".encode("latin-1") * 255):
        Path(os.fsdecode(root + b"/" + name)).write_bytes(name)
        assert name in os.listdir(root)
    for operation in (os.stat, os.mkdir, os.unlink, os.listdir):
        with pytest.raises(OSError) as caught:
            operation(root + b"/" + b"n" * 256)
        assert caught.value.errno == errno.ENAMETOOLONG


def test_rename_flags_reach_the_file_system(mount):
    first, second = mount.path / "first", mount.path / "second"
    first.write_text("1")
    second.write_text("2")
    with pytest.raises(FileExistsError):
        renameat2(first, second, 1)
    renameat2(first, second, 2)
    assert (first.read_text(), second.read_text()) == ("2", "1")


def test_a_large_folder_lists_each_name_once(mount):
    names = {f"{number:05}" for number in range(3000)}
    for name in names:
        (mount.path / name).touch()
    listed = os.listdir(mount.path)
    assert len(listed) == len(names)
    assert set(listed) == names
    shown = subprocess.run(
        ["ls", "-fa", mount.path], capture_output=True, text=True, check=True
    ).stdout.split()
    assert shown.count(".") == shown.count("..") == 1


def test_a_folder_nobody_changed_is_listed_again_without_a_request(mount):
    for number in range(300):
        (mount.path / f"{number}").touch()
    listings = [sorted(os.listdir(mount.path)) for _ in range(20)]
    (mount.path / "another").touch()
    assert "another" in os.listdir(mount.path)
    (mount.path / "another").unlink()
    assert sorted(os.listdir(mount.path)) == listings[0] == listings[-1]
    asked = mount.unmount()["asked"]
    assert asked[mount.asks_for("readdir")] < 40


def test_a_listing_costs_two_requests_where_folders_need_not_be_opened(mount):
    for number in range(20):
        (mount.path / f"{number}").mkdir()
        (mount.path / f"{number}" / "file").touch()
    for number in range(20):
        assert os.listdir(mount.path / f"{number}") == ["file"]
    asked = mount.unmount()["asked"]
    if mount.kind == "direct":
        assert asked["listdir"] == 40
        assert not {"opendir", "readdir", "releasedir"} & set(asked)
    else:
        assert asked["opendir"] == asked["releasedir"] == 20


def test_a_small_write_costs_one_request(mount):
    fd = os.open(mount.path / "file", os.O_CREAT | os.O_WRONLY)
    for number in range(200):
        os.pwrite(fd, b"x" * 100, number * 100)
    os.close(fd)
    asked = mount.unmount()["asked"]
    assert asked["write"] < 210
    assert asked["getxattr"] <= 2


def test_a_name_that_did_not_exist_is_found_once_it_does(mount):
    path = mount.path / "later"
    with contextlib.suppress(FileNotFoundError):
        path.stat()
    path.touch()
    assert path.stat().st_size == 0
