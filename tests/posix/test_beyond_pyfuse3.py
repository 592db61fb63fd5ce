"""What the direct binding carries and pyfuse3 cannot, on a real mount: as a local file system does it."""

import ctypes
import errno
import fcntl
import os
import signal
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

MIB = 1 << 20
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
F_OFD_SETLK = 37
AT_FDCWD, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = -100, 0x400, 0x1000
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="session")
def fuse() -> str:
    return "direct"


def called(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    called(libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    return os.open(path, flags, 0o644)


def python(*lines: str) -> subprocess.Popen:
    """Another process; it says so when it has come to a point."""
    return subprocess.Popen([sys.executable, "-c", "\n".join(lines)], stdout=subprocess.PIPE, text=True)


# --- ranges ---------------------------------------------------------------------------------------------------


def test_holes_can_be_punched_and_found(shared):
    data = os.urandom(4 * MIB)
    fd = opened(shared / "holes")
    os.write(fd, data)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, MIB, MIB)
    fallocate(fd, ZERO_RANGE, 3 * MIB, 100)
    expected = data[:MIB] + bytes(MIB) + data[2 * MIB : 3 * MIB] + bytes(100) + data[3 * MIB + 100 :]
    assert os.pread(fd, 4 * MIB, 0) == expected
    assert os.lseek(fd, 0, os.SEEK_HOLE) == MIB
    assert os.lseek(fd, MIB, os.SEEK_DATA) == 2 * MIB
    os.fsync(fd)
    assert os.pread(fd, 4 * MIB, 0) == expected
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
        os.lseek(fd, 4 * MIB, os.SEEK_DATA)
    os.close(fd)


def test_room_asked_for_reads_as_zeroes_and_counts_only_if_it_is_to(shared):
    fd = opened(shared / "room")
    fallocate(fd, 0, 0, 3 * MIB)
    assert os.fstat(fd).st_size == 3 * MIB
    assert os.pread(fd, 10, 2 * MIB) == bytes(10)
    fallocate(fd, KEEP_SIZE, 3 * MIB, MIB)
    assert os.fstat(fd).st_size == 3 * MIB
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        fallocate(fd, 8, 0, MIB)  # FALLOC_FL_COLLAPSE_RANGE
    os.close(fd)


def test_a_range_is_copied_without_its_bytes_and_both_stay_apart(shared):
    data = os.urandom(3 * MIB)
    (shared / "source").write_bytes(data)
    source, copy = opened(shared / "source"), opened(shared / "copy")
    done = 0
    while done < 2 * MIB:
        done += os.copy_file_range(source, copy, 2 * MIB - done, MIB // 2 + done, 77 + done)
    os.pwrite(source, b"changed", MIB)
    assert os.pread(copy, 3 * MIB, 77) == data[MIB // 2 : MIB // 2 + 2 * MIB]
    os.close(source)
    os.close(copy)


def test_cp_makes_a_reflink_of_a_large_file_at_once(shared_mount, shared):
    (shared / "large").write_bytes(os.urandom(64 * MIB))
    shared_mount.sync()
    started = time.monotonic()
    subprocess.run(["cp", "--reflink=auto", shared / "large", shared / "twin"], check=True)
    took = time.monotonic() - started
    assert (shared / "twin").read_bytes() == (shared / "large").read_bytes()
    print(f"\ncp of 64 MiB took {took * 1000:.0f} ms")


def test_a_file_written_in_pieces_that_end_within_pages_is_read_in_large_ones(shared):
    path = shared / "ragged"
    data = os.urandom(8 * MIB)
    with path.open("wb", buffering=0) as file:
        for at in range(0, len(data), 10_240):
            file.write(data[at : at + 10_240])
    started = time.monotonic()
    assert path.read_bytes() == data
    first = time.monotonic() - started
    assert path.read_bytes() == data
    print(f"\nread after it was written in {first * 1000:.0f} ms")


# --- files without a name, attributes -------------------------------------------------------------------------


def test_a_file_without_a_name_can_be_given_one_or_is_gone(shared):
    fd = os.open(shared, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"born nameless")
    assert os.fstat(fd).st_nlink == 0
    assert os.listdir(shared) == []
    own = f"/proc/self/fd/{fd}".encode()
    called(libc.linkat(AT_FDCWD, own, AT_FDCWD, bytes(shared / "named"), AT_SYMLINK_FOLLOW))
    os.close(fd)
    assert (shared / "named").read_bytes() == b"born nameless"
    assert stat.S_IMODE((shared / "named").stat().st_mode) == 0o640
    secret = os.open(shared, os.O_TMPFILE | os.O_WRONLY | os.O_EXCL, 0o600)
    own = f"/proc/self/fd/{secret}".encode()
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        called(libc.linkat(AT_FDCWD, own, AT_FDCWD, bytes(shared / "no"), AT_SYMLINK_FOLLOW))
    os.close(secret)


def test_the_time_of_birth_is_told(shared):
    before = time.time() - 1
    (shared / "born").touch()
    told = subprocess.run(["stat", "-c", "%W", shared / "born"], capture_output=True, text=True, check=True)
    assert before <= float(told.stdout) + 1 <= time.time() + 2


def test_extended_attributes_are_created_or_replaced_as_asked(shared):
    path = shared / "tagged"
    path.touch()
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        os.setxattr(path, "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr(path, "user.a", b"1", os.XATTR_CREATE)
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.a", b"2", os.XATTR_CREATE)
    os.setxattr(path, "user.a", b"3", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.a") == b"3"


def test_access_control_lists_are_kept_shown_and_handed_on(shared):
    folder, file = shared / "folder", shared / "file"
    folder.mkdir()
    file.touch()
    file.chmod(0o640)
    subprocess.run(["setfacl", "-m", "u:1234:rw", file], check=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o660, "the group's bits show the mask"
    file.chmod(0o600)
    assert "user:1234:rw-\t#effective:---" in listed(file).replace("\t\t", "\t")
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx", folder], check=True)
    (folder / "child").touch()
    assert "user:1234:rwx" in listed(folder / "child")
    subprocess.run(["setfacl", "-b", file], check=True)
    assert "1234" not in listed(file)


def listed(path: Path) -> str:
    return subprocess.run(
        ["getfacl", "-cpn", path], capture_output=True, text=True, check=True
    ).stdout.replace("\t\t\t", "\t")


@pytest.mark.skipif(os.getuid() != 0, reason="plays other users")
def test_access_control_lists_are_enforced(owned):
    file = owned / "file"
    file.write_text("for 1234 only")
    file.chmod(0o600)
    subprocess.run(["setfacl", "-m", "u:1234:r", file], check=True)
    for uid, may in ((1234, True), (1235, False)):
        ended = subprocess.run(["cat", file], capture_output=True, user=uid, group=uid, extra_groups=[])
        assert (ended.returncode == 0) == may, uid


# --- locks ----------------------------------------------------------------------------------------------------


def test_ranges_are_locked_against_other_processes_and_freed_by_close_and_death(shared):
    path = shared / "locked"
    fd = opened(path)
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 0)
    wanting = (
        "import fcntl, os",
        f"fd = os.open({str(path)!r}, os.O_RDWR)",
        "fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)",
        "print('beside', flush=True)",
        "fcntl.lockf(fd, fcntl.LOCK_EX, 10, 0)",
        "print('mine', flush=True)",
        "import time; time.sleep(60)",
    )
    other = python(*wanting)
    assert other.stdout.readline() == "beside\n"
    time.sleep(0.3)
    os.close(os.open(path, os.O_RDWR))  # closing any descriptor of the file gives up the locks of its process
    assert other.stdout.readline() == "mine\n"
    with pytest.raises(BlockingIOError):
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
    whose = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 10, 0))
    assert struct.unpack("hhqqi4x", whose)[4] == other.pid
    other.kill()
    other.wait(5)
    other.stdout.close()
    fcntl.lockf(fd, fcntl.LOCK_EX, 0, 0)
    os.close(fd)


def test_a_lock_that_is_waited_for_can_be_given_up_on_by_any_signal(shared):
    path = shared / "contended"
    fd = opened(path)
    fcntl.flock(fd, fcntl.LOCK_EX)
    other = python(
        "import fcntl, os, signal",
        "def alarm(*_): raise TimeoutError",
        "signal.signal(signal.SIGALRM, alarm); signal.setitimer(signal.ITIMER_REAL, 0.5)",
        f"fd = os.open({str(path)!r}, os.O_RDWR)",
        "try: fcntl.flock(fd, fcntl.LOCK_EX)",
        "except TimeoutError: print('gave up', flush=True)",
    )
    assert other.communicate(timeout=5)[0] == "gave up\n"
    os.close(fd)


def test_open_file_descriptions_have_locks_of_their_own(shared):
    path = shared / "described"
    first, second = opened(path), opened(path)
    whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
    fcntl.fcntl(first, F_OFD_SETLK, whole)
    with pytest.raises(BlockingIOError):
        fcntl.fcntl(second, F_OFD_SETLK, whole)
    os.close(os.open(path, os.O_RDWR))  # unlike those of a process, they stay
    with pytest.raises(BlockingIOError):
        fcntl.fcntl(second, F_OFD_SETLK, whole)
    os.close(first)
    for _ in range(50):  # the kernel tells of the end of an open file a moment later
        try:
            fcntl.fcntl(second, F_OFD_SETLK, whole)
            break
        except BlockingIOError:
            time.sleep(0.1)
    else:
        raise AssertionError("the lock outlived its open file")
    os.close(second)


def test_two_processes_that_wait_for_each_other_are_told(shared):
    path = shared / "deadlock"
    fd = opened(path)
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, 0)
    other = python(
        "import fcntl, os",
        f"fd = os.open({str(path)!r}, os.O_RDWR)",
        "fcntl.lockf(fd, fcntl.LOCK_EX, 1, 1)",
        "print('second', flush=True)",
        "fcntl.lockf(fd, fcntl.LOCK_EX, 1, 0)",
        "print('both', flush=True)",
    )
    assert other.stdout.readline() == "second\n"
    time.sleep(0.5)
    with pytest.raises(OSError, match=os.strerror(errno.EDEADLK)):
        fcntl.lockf(fd, fcntl.LOCK_EX, 1, 1)
    fcntl.lockf(fd, fcntl.LOCK_UN, 1, 0)
    assert other.communicate(timeout=5)[0] == "both\n"
    os.close(fd)


# --- signals --------------------------------------------------------------------------------------------------


def test_who_is_killed_while_he_waits_for_stopped_servers_ends_at_once(new_mount, cluster):
    mount = new_mount()
    (mount.path / "cold").write_bytes(os.urandom(4 * MIB))
    mount.cvumount()
    mount.wipe_cache()
    mount.mount()
    pids = [cluster.server(f"chunkserver-{number}")["pid"] for number in (1, 2, 3)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        reader = subprocess.Popen(["cat", mount.path / "cold"], stdout=subprocess.DEVNULL)
        writer = python(
            f"import os; fd = os.open({str(mount.path / 'new')!r}, os.O_CREAT | os.O_WRONLY)",
            "os.write(fd, b'x' * 1000); print('written', flush=True); os.fsync(fd)",
        )
        assert writer.stdout.readline() == "written\n"
        time.sleep(1)
        for process in (reader, writer):
            process.send_signal(signal.SIGCHLD)  # which is nothing to them
            time.sleep(0.3)
            assert process.poll() is None
            process.kill()
            assert process.wait(1) == -signal.SIGKILL
        writer.stdout.close()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert (mount.path / "cold").read_bytes()
