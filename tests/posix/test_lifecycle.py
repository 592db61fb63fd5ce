"""Mounts begin and end: unmounting, remounting, taking over, crashing, and what the commands say."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from tests.fixtures.mounts import BIN, command, wait_until

pytestmark = pytest.mark.posix


def furnish(path: Path) -> dict[str, bytes]:
    files = {
        f"folder-{number % 5}/file-{number}": os.urandom(1 + number * 997 % 30_000) for number in range(60)
    }
    for number in range(5):
        (path / f"folder-{number}").mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    return files


def content_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_what_was_written_is_there_after_a_remount_with_an_empty_cache(new_mount):
    mount = new_mount()
    files = furnish(mount.path)
    mount.cvumount()
    assert not mount.is_mounted
    mount.wipe_cache()
    mount.mount()
    assert content_of(mount.path) == files


def test_a_plain_umount_loses_nothing_the_next_mount_ships_it(new_mount):
    mount = new_mount()
    files = furnish(mount.path)
    mount.umount()
    mount.mount()
    assert content_of(mount.path) == files
    mount.cvumount()
    mount.wipe_cache()
    mount.mount()
    assert content_of(mount.path) == files


def test_a_killed_mount_is_repaired_and_has_every_closed_file(new_mount):
    mount = new_mount()
    files = furnish(mount.path)
    mount.kill()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mount.path)
    started = time.monotonic()
    mount.mount()
    assert time.monotonic() - started < 5
    assert content_of(mount.path) == files
    mount.cvumount()
    mount.wipe_cache()
    mount.mount()
    assert content_of(mount.path) == files


def test_sigterm_ships_and_unmounts(new_mount):
    mount = new_mount()
    files = furnish(mount.path)
    pid = mount.pid
    os.kill(pid, 15)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), within_s=30)
    assert not mount.is_mounted
    mount.wipe_cache()
    mount.mount()
    assert content_of(mount.path) == files


def test_sync_makes_everything_independent_of_this_machine(new_mount):
    mount = new_mount()
    files = furnish(mount.path)
    mount.sync()
    status = mount.status()
    assert (status["pending_files"], status["pending_bytes"]) == (0, 0)
    mount.kill()
    mount.end()
    mount.wipe_cache()
    mount.mount()
    assert content_of(mount.path) == files


def test_status_names_every_mount_and_what_matters(new_mount):
    mount = new_mount()
    (mount.path / "file").write_bytes(b"x")
    status = mount.status()
    assert status["mountpoint"] == str(mount.path)
    assert status["space"] == mount.user
    assert status["lease"] == "EXCLUSIVE"
    assert status["degraded"] == []
    assert {"pending_files", "pending_bytes", "cache_bytes", "pid"} <= set(status)
    words = command("cv", "status")
    assert str(mount.path) in words
    assert "EXCLUSIVE" in words


def test_a_second_mount_of_a_space_in_use_is_refused_naming_the_device(new_mount):
    mount = new_mount()
    other = new_mount(of=mount, mounted=False)
    with pytest.raises(AssertionError, match=os.uname().nodename):
        other.mount()
    assert not other.is_mounted
    mount.cvumount()
    other.mount()
    other.cvumount()


def test_a_crashed_devices_space_is_taken_over_after_its_lease(new_mount):
    mount = new_mount()
    (mount.path / "file").write_bytes(b"content")
    mount.sync()
    mount.kill()
    other = new_mount(of=mount, mounted=False)
    started = time.monotonic()
    other.mount()
    assert time.monotonic() - started < 20
    assert (other.path / "file").read_bytes() == b"content"


def test_a_mountpoint_in_use_is_not_unmounted_and_says_so(new_mount):
    mount = new_mount()
    with (mount.path / "file").open("w"), pytest.raises(AssertionError, match="busy"):
        mount.cvumount()
    assert mount.is_mounted
    mount.cvumount()


def test_force_takes_the_mountpoint_away_and_loses_nothing(new_mount):
    mount = new_mount()
    files = furnish(mount.path)
    open_file = os.open(mount.path / "open", os.O_CREAT | os.O_WRONLY)
    mount.cvumount("--force")
    assert not mount.is_mounted
    with contextlib.suppress(OSError):  # its last close finds nobody
        os.close(open_file)
    mount.mount()
    assert {name: data for name, data in content_of(mount.path).items() if name != "open"} == files


@pytest.mark.skipif(os.getuid() != 0, reason="unshare is for root")
def test_a_copy_in_another_mount_namespace_keeps_nobody_waiting(new_mount):
    apart = ["unshare", "-m", "--propagation", "private"]
    if subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces to be had, as in a chroot")
    mount = new_mount()
    files = furnish(mount.path)
    with subprocess.Popen([*apart, "sleep", "60"]) as holder:
        wait_until(lambda: str(mount.path) in Path(f"/proc/{holder.pid}/mountinfo").read_text())
        time.sleep(0.2)
        started = time.monotonic()
        mount.cvumount()
        mount.mount()
        assert content_of(mount.path) == files
        mount.umount()
        mount.mount()
        assert time.monotonic() - started < 20
        assert content_of(mount.path) == files
        holder.kill()


def test_a_mountpoint_is_created_and_a_mounted_one_refused(new_mount):
    mount = new_mount()
    with pytest.raises(AssertionError, match="mountpoint already"):
        mount.mount()


def test_a_second_device_is_told_in_one_line_who_has_the_space(new_mount):
    first = new_mount()
    with pytest.raises(
        AssertionError, match=r"ended with 1: cvmount: this space is in use on the device '[^\n]*\n$"
    ):
        new_mount(of=first)


def test_two_processes_never_share_a_cache_folder(new_mount, tmp_path):
    mount = new_mount()
    other = new_mount(of=mount, mounted=False)
    other.cache = mount.cache
    with pytest.raises(AssertionError, match="in use by another mount"):
        other.mount()


def test_nothing_that_called_cvmount_waits_for_the_mount(new_mount):
    mount = new_mount(mounted=False)
    started = time.monotonic()
    said = subprocess.run(
        f"{BIN}/cvmount --cluster {mount.cluster.folder} --user {mount.user} "
        f"--cache-dir {mount.cache} {mount.path} | cat; echo ended",
        shell=True, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert said.stdout == "ended\n"
    assert time.monotonic() - started < 15
    assert os.readlink(f"/proc/{mount.pid}/fd/1") == os.devnull


@pytest.mark.skipif(os.getuid() != 0, reason="mount(8) is for root")
def test_mount_8_and_fstab_find_the_helper(new_mount):
    mount = new_mount(mounted=False)
    mount.path.mkdir()
    helper = Path("/sbin/mount.fuse.cloudverge")
    existed = helper.exists() or helper.is_symlink()
    command("cv", "install-helper")
    try:
        subprocess.run(
            ["mount", "-t", "fuse.cloudverge", f"{mount.cluster.folder}", mount.path, "-o",
             f"login={mount.user},cache-dir={mount.cache},noatime"],
            check=True, timeout=60,
        )  # fmt: skip
        table = Path("/proc/self/mountinfo").read_text()
        line = next(line for line in table.splitlines() if f" {mount.path} " in line)
        assert f" - fuse {mount.cluster.folder} " in line
        (mount.path / "file").write_bytes(b"x")
        mount.cvumount()
    finally:
        if not existed:
            helper.unlink()


def test_in_the_foreground_an_interrupt_ends_the_mount_in_order(new_mount):
    mount = new_mount(mounted=False)
    with subprocess.Popen(
        [BIN / "cvmount", "--cluster", mount.cluster.folder, "--user", mount.user, "--cache-dir", mount.cache,
         "--foreground", mount.path],
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        wait_until(lambda: mount.is_mounted)
        files = furnish(mount.path)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == b""
    assert not mount.is_mounted
    mount.wipe_cache()
    mount.mount()
    assert content_of(mount.path) == files


def test_without_a_cluster_named_the_one_of_the_data_folder_is_started(tmp_path):
    folder = Path(tempfile.mkdtemp(prefix="cv-data-"))
    folder.chmod(0o755)
    settings = {
        "CLOUDVERGE_DATA_DIR": str(folder / "cluster"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    path = tmp_path / "cloud"
    try:
        assert command("cvmount", path, **settings) == ""
        (path / "file").write_bytes(b"content")
        command("cvumount", path, **settings)
        assert list((tmp_path / "cache" / "cloudverge").glob("*/replica.sqlite3"))
        secrets = list((folder / "cluster" / "secrets").glob("user-*.json"))
        assert len(secrets) == 1
        assert secrets[0].stat().st_mode & 0o077 == 0
        command("cvmount", path, **settings)
        assert (path / "file").read_bytes() == b"content"
        command("cvumount", path, **settings)
    finally:
        command("cv", "down", **settings)
        shutil.rmtree(folder)


def test_a_cluster_elsewhere_is_mounted_with_a_password_once_and_then_without(cluster, tmp_path):
    user, password = f"elsewhere{os.getpid()}", "a password nobody guesses"
    request = urllib.request.Request(
        f"{cluster.report['auth_url']}/v1/signup",
        json.dumps({"user": user, "password": password, "device": "test"}).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request).close()
    words = ["--server", cluster.report["auth_url"], "--metaserver", cluster.report["metaserver_frames"]]
    words += ["--user", user, "--cache-dir", tmp_path / "cache", tmp_path / "cloud"]
    settings = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    with pytest.raises(AssertionError, match="not signed in"):
        command("cvmount", *words, **settings)
    command("cvmount", *words, CLOUDVERGE_PASSWORD=password, **settings)
    (tmp_path / "cloud" / "file").write_bytes(b"content")
    command("cvumount", tmp_path / "cloud")
    kept = list((tmp_path / "config").rglob("*.json"))
    assert len(kept) == 1
    assert password not in kept[0].read_text()
    assert kept[0].stat().st_mode & 0o077 == 0
    command("cvmount", *words, **settings)
    assert (tmp_path / "cloud" / "file").read_bytes() == b"content"
    command("cvumount", tmp_path / "cloud")


def test_the_status_of_no_mount_is_an_empty_list(tmp_path):
    said = command("cv", "status", "--json", XDG_RUNTIME_DIR=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert isinstance(json.loads(said)["mounts"], list)


def test_a_mount_that_was_away_while_another_took_over_refuses_changes_and_never_hangs(new_mount):
    away = new_mount()
    files = furnish(away.path)
    away.sync()
    pid = away.pid
    os.kill(pid, signal.SIGSTOP)
    other = new_mount(of=away, mounted=False)
    other.mount()
    assert content_of(other.path) == files
    (other.path / "new").write_bytes(b"from the other device")
    other.sync()
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: away.status()["degraded"], within_s=20)
    assert any(os.uname().nodename in reason for reason in away.status()["degraded"])
    started = time.monotonic()
    with pytest.raises(OSError, match="Read-only"):
        (away.path / "refused").write_bytes(b"x")
    assert len(os.listdir(away.path / "folder-0")) == 12
    assert time.monotonic() - started < 5
    other.cvumount()
    wait_until(lambda: not away.status()["degraded"], within_s=20)
    assert (away.path / "new").read_bytes() == b"from the other device"
    (away.path / "accepted").write_bytes(b"x")
    away.cvumount()


def test_with_auto_unmount_a_killed_mount_leaves_no_dead_folder(new_mount):
    mount = new_mount("auto_unmount")
    (mount.path / "file").write_text("kept")
    mount.kill()
    wait_until(lambda: not mount.is_mounted, 10)
    assert list(mount.path.iterdir()) == []
    mount.mount()
    assert (mount.path / "file").read_text() == "kept"
    mount.cvumount()
    assert not mount.is_mounted
