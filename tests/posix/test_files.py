"""Files as a local program meets them, on a real mount of a real cluster."""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import random
import stat
import subprocess
import threading
import time

import pytest

pytestmark = pytest.mark.posix

MIB = 1024 * 1024


def failure(function, *arguments):
    """The errno of a call that must fail."""
    with pytest.raises(OSError) as caught:
        function(*arguments)
    return caught.value.errno


def renameat2(old, new, flags):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, bytes(old), -100, bytes(new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def test_what_is_written_is_read_back_at_once_and_after_a_sync(shared, shared_mount):
    data = os.urandom(3 * MIB + 17)
    (shared / "file").write_bytes(data)
    assert (shared / "file").read_bytes() == data
    shared_mount.sync()
    assert (shared / "file").read_bytes() == data


def test_random_writes_truncates_and_reads_agree_with_a_model(shared):
    dice = random.Random(7)
    model = bytearray()
    with (shared / "file").open("w+b", buffering=0) as file:
        for _ in range(400):
            match dice.choice(["write", "write", "write", "truncate", "read", "fsync"]):
                case "write":
                    offset, data = dice.randrange(300_000), dice.randbytes(dice.randrange(1, 40_000))
                    model.extend(bytes(max(0, offset - len(model))))
                    model[offset : offset + len(data)] = data
                    assert os.pwrite(file.fileno(), data, offset) == len(data)
                case "truncate":
                    size = dice.randrange(350_000)
                    del model[size:]
                    model.extend(bytes(size - len(model)))
                    file.truncate(size)
                case "read":
                    offset = dice.randrange(350_000)
                    assert os.pread(file.fileno(), 50_000, offset) == model[offset : offset + 50_000]
                case "fsync":
                    if dice.random() < 0.2:
                        os.fsync(file.fileno())
            assert os.fstat(file.fileno()).st_size == len(model)
    assert (shared / "file").read_bytes() == model


def test_a_sparse_file_reads_as_zeroes_where_nothing_was_written(shared):
    with (shared / "sparse").open("w+b") as file:
        file.seek(1 << 40)
        file.write(b"far")
        file.flush()
        os.fsync(file.fileno())
        assert os.fstat(file.fileno()).st_size == (1 << 40) + 3
        assert os.pread(file.fileno(), 4096, 1 << 39) == bytes(4096)
        assert os.pread(file.fileno(), 10, (1 << 40) - 2) == b"\0\0far"
        file.truncate(100)
    assert (shared / "sparse").read_bytes() == bytes(100)


def test_appends_land_at_the_end_whoever_makes_them(shared):
    path = shared / "log"

    def append(mark):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for _ in range(200):
            os.write(fd, mark * 10)
        os.close(fd)

    threads = [threading.Thread(target=append, args=(mark,)) for mark in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = path.read_bytes()
    assert len(data) == 6000
    assert all(len(set(data[at : at + 10])) == 1 for at in range(0, 6000, 10))


def test_o_trunc_empties_and_o_excl_refuses(shared):
    path = shared / "file"
    path.write_bytes(b"old content")
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert path.stat().st_size == 0
    assert failure(os.open, path, os.O_CREAT | os.O_EXCL | os.O_WRONLY) == errno.EEXIST


def test_an_unlinked_open_file_stays_readable_and_writable(shared):
    path = shared / "gone"
    with path.open("w+b", buffering=0) as file:
        file.write(b"before")
        path.unlink()
        assert not path.exists()
        file.write(b" and after")
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 100, 0) == b"before and after"
        assert os.fstat(file.fileno()).st_nlink == 0


def test_a_replaced_open_file_keeps_its_content(shared):
    (shared / "target").write_bytes(b"old")
    (shared / "source").write_bytes(b"new")
    with (shared / "target").open("rb") as old:
        os.rename(shared / "source", shared / "target")
        assert old.read() == b"old"
    assert (shared / "target").read_bytes() == b"new"
    assert os.listdir(shared) == ["target"]


def test_rename_with_noreplace_and_exchange(shared):
    first, second = shared / "first", shared / "second"
    first.write_text("1")
    second.mkdir()
    (second / "inside").touch()
    assert failure(renameat2, first, second, 1) == errno.EEXIST
    renameat2(first, second, 2)
    assert second.read_text() == "1"
    assert os.listdir(first) == ["inside"]
    renameat2(second, shared / "third", 1)
    assert (shared / "third").read_text() == "1"


def test_folders_refuse_what_folders_refuse(shared):
    folder, file = shared / "folder", shared / "file"
    folder.mkdir()
    file.touch()
    (folder / "inside").mkdir()
    assert failure(os.rmdir, folder) == errno.ENOTEMPTY
    assert failure(os.rename, folder, folder / "inside" / "deeper") == errno.EINVAL
    assert failure(os.rename, file, folder) == errno.EISDIR
    assert failure(os.rename, folder, file) == errno.ENOTDIR
    assert failure(os.unlink, folder) in (errno.EISDIR, errno.EPERM)
    assert failure(os.rmdir, file) == errno.ENOTDIR
    assert failure(os.mkdir, file / "x") == errno.ENOTDIR
    assert failure(os.link, folder, shared / "link") == errno.EPERM
    assert folder.stat().st_nlink == 3


@pytest.mark.parametrize("remove", ["rmdir", "rename"])
def test_an_open_folder_that_is_removed_can_still_be_looked_at_and_has_no_names(shared, remove):
    folder = shared / "open"
    folder.mkdir(0o750)
    fd = os.open(folder, os.O_RDONLY)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)
        if remove == "rmdir":
            folder.rmdir()
        else:
            (shared / "other").mkdir()
            (shared / "other").rename(folder)
        seen = os.fstat(fd)
        assert (seen.st_nlink, stat.S_IMODE(seen.st_mode)) == (0, 0o750)
        assert os.listdir(fd) == []
        with pytest.raises(FileNotFoundError):
            os.mkdir("new", dir_fd=fd)
    assert folder.exists() == (remove == "rename")


def test_links_share_content_and_count(shared):
    first, second = shared / "first", shared / "second"
    first.write_bytes(b"shared")
    os.link(first, second)
    assert first.stat().st_nlink == second.stat().st_nlink == 2
    assert first.stat().st_ino == second.stat().st_ino
    second.write_bytes(b"changed")
    assert first.read_bytes() == b"changed"
    first.unlink()
    assert (second.read_bytes(), second.stat().st_nlink) == (b"changed", 1)


def test_symlinks_keep_any_target_and_are_not_followed_by_lstat(shared):
    target = b"/nowhere/\xff" + b"x" * 4000
    os.symlink(target, bytes(shared / "link"))
    assert os.readlink(bytes(shared / "link")) == target
    assert stat.S_ISLNK((shared / "link").lstat().st_mode)
    assert (shared / "link").lstat().st_size == len(target)


def test_fifos_sockets_and_devices_are_kept(shared):
    os.mkfifo(shared / "fifo", 0o640)
    os.mknod(shared / "socket", stat.S_IFSOCK | 0o600)
    assert stat.S_ISFIFO((shared / "fifo").stat().st_mode)
    assert stat.S_ISSOCK((shared / "socket").stat().st_mode)
    if os.getuid() == 0:
        os.mknod(shared / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        assert (shared / "null").stat().st_rdev == os.makedev(1, 3)
        assert (shared / "null").read_bytes() == b""


def test_names_may_be_any_bytes_up_to_255(shared):
    root = bytes(shared)
    names = {b"\xff\xfe\x01 \n", b"n" * 255, "ü€".encode(), b"...", b"-rf", b"a\\040b"}
    for name in names:
        os.close(os.open(root + b"/" + name, os.O_CREAT | os.O_WRONLY))
    assert set(os.listdir(root)) == names
    assert failure(os.stat, root + b"/" + b"n" * 256) == errno.ENAMETOOLONG
    assert failure(os.mkdir, root + b"/" + b"n" * 256) == errno.ENAMETOOLONG


def test_a_listing_has_dot_and_dotdot_and_each_name_once(shared):
    names = {f"{number:04}" for number in range(2000)}
    for name in names:
        (shared / name).touch()
    shown = subprocess.run(["ls", "-1fa", shared], capture_output=True, text=True, check=True).stdout.split()
    assert sorted(shown) == sorted(names | {".", ".."})


def test_a_listing_is_stable_while_entries_come_and_go(shared):
    lasting = {f"stays-{number:04}" for number in range(1000)}
    for number in range(1000):
        (shared / f"stays-{number:04}").touch()
        (shared / f"goes-{number:04}").touch()
    seen = []
    with os.scandir(shared) as entries:
        for number, entry in enumerate(entries):
            seen.append(entry.name)
            if number % 2 == 0:
                with contextlib.suppress(FileNotFoundError):
                    (shared / f"goes-{number // 2:04}").unlink()
                (shared / f"comes-{number:04}").touch()
    stays = [name for name in seen if name.startswith("stays")]
    assert len(stays) == len(set(stays))
    assert set(stays) == lasting
    assert len(seen) == len(set(seen))


def test_times_are_kept_to_the_nanosecond_and_move_as_they_should(shared):
    path = shared / "file"
    path.write_bytes(b"x")
    os.utime(path, ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
    found = path.stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_234_567_890_123_456_789, 987_654_321_987_654_321)
    assert abs(found.st_ctime_ns - time.time_ns()) < 5e9
    before = shared.stat().st_mtime_ns
    time.sleep(0.01)
    (shared / "another").touch()
    assert shared.stat().st_mtime_ns > before
    time.sleep(0.01)
    with path.open("ab") as file:
        file.write(b"y")
    assert abs(path.stat().st_mtime_ns - time.time_ns()) < 5e9
    os.utime(path, ns=(-5, -1_000_000_001))
    assert path.stat().st_mtime_ns == -1_000_000_001


def test_extended_attributes_of_all_sizes(shared):
    path = shared / "file"
    path.touch()
    assert failure(os.getxattr, path, "user.none") == errno.ENODATA
    os.setxattr(path, "user.small", b"1")
    os.setxattr(path, "user.empty", b"")
    os.setxattr(path, "user.large", b"x" * 60_000)
    assert set(os.listxattr(path)) == {"user.small", "user.empty", "user.large"}
    assert os.getxattr(path, "user.large") == b"x" * 60_000
    assert failure(os.setxattr, path, "user.small", b"2", os.XATTR_CREATE) == errno.EEXIST
    assert failure(os.setxattr, path, "user.none", b"2", os.XATTR_REPLACE) == errno.ENODATA
    os.setxattr(path, "user.small", b"2", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.small") == b"2"
    os.removexattr(path, "user.small")
    assert failure(os.removexattr, path, "user.small") == errno.ENODATA
    os.setxattr(shared, "user.folder", b"f")
    assert os.getxattr(shared, "user.folder") == b"f"


def test_modes_are_kept_and_the_umask_is_heeded(shared):
    before = os.umask(0o027)
    try:
        (shared / "file").touch(0o666)
        (shared / "folder").mkdir(0o777)
    finally:
        os.umask(before)
    assert (shared / "file").stat().st_mode & 0o7777 == 0o640
    assert (shared / "folder").stat().st_mode & 0o7777 == 0o750
    os.chmod(shared / "file", 0o4711)
    assert (shared / "file").stat().st_mode & 0o7777 == 0o4711
    os.chmod(shared / "folder", 0o3777)
    assert (shared / "folder").stat().st_mode & 0o7777 == 0o3777


def test_memory_maps_read_and_write(shared):
    path = shared / "mapped"
    path.write_bytes(bytes(100_000))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[50_000:50_005] = b"hello"
        mapped.flush()
    assert path.read_bytes()[50_000:50_005] == b"hello"


def test_locks_hold_between_processes_of_one_mount(shared):
    path = shared / "locked"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        tried = subprocess.run(["flock", "-n", path, "true"], check=False)
        assert tried.returncode == 1
    assert subprocess.run(["flock", "-n", path, "true"], check=False).returncode == 0


def test_statfs_tells_room_and_name_length(shared):
    room = os.statvfs(shared)
    assert room.f_namemax == 255
    assert 0 < room.f_bavail <= room.f_blocks
    assert room.f_bavail * room.f_frsize > MIB
    assert room.f_ffree > 0


def test_fsync_of_a_file_and_of_a_folder_return_when_all_is_committed(shared, shared_mount):
    (shared / "a").write_bytes(os.urandom(200_000))
    (shared / "folder").mkdir()
    (shared / "folder" / "b").write_bytes(b"b")
    for path in (shared / "a", shared / "folder", shared):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    shared_mount.sync()
    status = shared_mount.status()
    assert (status["pending_files"], status["pending_bytes"], status["pending_entries"]) == (0, 0, 0)


def test_a_large_file_written_and_read_by_dd_is_the_same(shared):
    source = os.urandom(MIB) * 1
    digest = hashlib.sha256()
    with (shared / "big").open("wb", buffering=0) as file:
        for number in range(96):
            piece = number.to_bytes(8, "little") + source[8:]
            digest.update(piece)
            file.write(piece)
    found = subprocess.run(["sha256sum", shared / "big"], capture_output=True, text=True, check=True).stdout
    assert found.split()[0] == digest.hexdigest()
