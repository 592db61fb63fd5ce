"""Whose files are: the mounting user's, or with preserve_owner as they were given away."""

import os
import stat
import subprocess

import pytest

pytestmark = pytest.mark.posix

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
SOMEBODY, GROUP = 1234, 2345


def as_somebody(code, *arguments):
    """Run Python as an ordinary user; whether it went well."""
    script = f"import os, sys; os.setgroups([]); os.setgid({GROUP}); os.setuid({SOMEBODY}); {code}"
    return (
        subprocess.run(
            ["python3", "-c", script, *map(str, arguments)], capture_output=True, check=False
        ).returncode
        == 0
    )


@needs_root
def test_without_preserve_owner_chown_is_taken_and_not_shown(shared):
    path = shared / "file"
    path.touch()
    os.chown(path, SOMEBODY, GROUP)
    assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), os.getgid())


@needs_root
def test_with_preserve_owner_owners_are_kept_and_shown(owned):
    path = owned / "file"
    path.touch()
    os.chown(path, SOMEBODY, GROUP)
    assert (path.stat().st_uid, path.stat().st_gid) == (SOMEBODY, GROUP)
    os.chown(path, -1, 7)
    assert (path.stat().st_uid, path.stat().st_gid) == (SOMEBODY, 7)
    os.symlink("x", owned / "link")
    os.lchown(owned / "link", SOMEBODY, GROUP)
    assert (owned / "link").lstat().st_uid == SOMEBODY


@needs_root
def test_who_makes_a_file_owns_it(owned):
    assert as_somebody("open(sys.argv[1], 'w').write('x')", owned / "file")
    assert (owned / "file").stat().st_uid == SOMEBODY
    folder = owned / "group folder"
    folder.mkdir()
    os.chown(folder, 0, 77)
    folder.chmod(0o2777)
    assert as_somebody("open(sys.argv[1] + '/f', 'w'); os.mkdir(sys.argv[1] + '/d')", folder)
    assert (folder / "f").stat().st_gid == 77
    assert (folder / "d").stat().st_gid == 77
    assert (folder / "d").stat().st_mode & stat.S_ISGID


@needs_root
def test_permissions_and_the_sticky_bit_hold(owned):
    secret = owned / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    assert not as_somebody("open(sys.argv[1])", secret)
    owned.chmod(0o1777)
    assert not as_somebody("os.unlink(sys.argv[1])", secret)
    owned.chmod(0o777)
    assert as_somebody("os.unlink(sys.argv[1])", secret)


@needs_root
@pytest.mark.parametrize(
    "change",
    [
        "open(sys.argv[1], 'r+b', buffering=0).write(b'x')",
        "os.truncate(sys.argv[1], 3)",
        "open(sys.argv[1], 'wb')",
    ],
)
def test_setuid_and_setgid_fall_when_somebody_else_changes_the_content(owned, change):
    path = owned / "program"
    path.write_bytes(b"content")
    path.chmod(0o6777)
    assert as_somebody(change, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


@needs_root
def test_setuid_falls_when_the_file_is_given_away(owned):
    path = owned / "program"
    path.touch()
    os.chown(path, SOMEBODY, GROUP)
    path.chmod(0o6755)
    assert as_somebody(f"os.chown(sys.argv[1], -1, {GROUP})", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


@needs_root
def test_a_mount_of_roots_own_lets_root_do_all_but_run_what_nobody_may_and_nobody_else_in(
    new_mount, monkeypatch
):
    mount = new_mount("preserve_owner")
    file = mount.path / "file"
    file.write_text("#!/bin/sh\n")
    file.chmod(0)
    assert file.read_text() == "#!/bin/sh\n"
    assert os.access(file, os.R_OK | os.W_OK)
    assert not os.access(file, os.X_OK)
    with pytest.raises(PermissionError):
        subprocess.run([file], check=False)
    file.chmod(0o001)
    assert os.access(file, os.X_OK)
    subprocess.run([file], check=True)
    (mount.path / "folder").mkdir(mode=0)
    (mount.path / "folder/in it").write_text("x")
    assert os.listdir(mount.path / "folder") == ["in it"]
    mount.path.chmod(0o777)
    file.chmod(0o666)
    monkeypatch.chdir(mount.path.parent)  # the folders above it are root's alone too
    mount.path.parent.chmod(0o755)
    assert as_somebody("os.listdir('.')")
    assert not as_somebody(f"open('{mount.path.name}/file').read()")
