"""What people run in a home folder, run in a mount: rsync, git, tar, cp, editors' ways of saving."""

import os
import random
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.posix

GIT_NOBODY = {
    "GIT_AUTHOR_NAME": "n", "GIT_AUTHOR_EMAIL": "n@x", "GIT_COMMITTER_NAME": "n", "GIT_COMMITTER_EMAIL": "n@x",
    "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null",
}  # fmt: skip


def run(*words, **settings):
    ended = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=100, check=False, **settings
    )
    assert ended.returncode == 0, f"{words}: {ended.stderr}{ended.stdout}"
    return ended.stdout


@pytest.fixture
def tree(tmp_path) -> Path:
    """Some hundred files of all kinds, sizes and names."""
    root, dice = tmp_path / "tree", random.Random(3)
    root.mkdir()
    for folder_number in range(12):
        folder = root / f"folder {folder_number}" / "deeper"
        folder.mkdir(parents=True)
        for number in range(25):
            path = folder / f"file-{number}"
            path.write_bytes(dice.randbytes(dice.choice([0, 1, 100, 4096, 5000, 70_000])))
            os.utime(path, ns=(1_500_000_000_000_000_000 + number, 1_400_000_000_123_456_789 + number))
            path.chmod(dice.choice([0o644, 0o600, 0o755]))
        (folder / "link").symlink_to("../elsewhere")
        os.link(folder / "file-1", folder / "hard")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "folder 1", "user.colour", b"blue")
    with (root / "sparse").open("wb") as file:
        file.truncate(3_000_000)
    (root / "big").write_bytes(dice.randbytes(5_000_000))
    return root


def same(left: Path, right: Path) -> None:
    run("diff", "-r", "--no-dereference", "--exclude=fifo", left, right)


def test_cp_and_tar_and_rm(shared, tree):
    run("cp", "-a", tree, shared / "copy")
    same(tree, shared / "copy")
    run("tar", "-C", tree, "-cf", shared / "tree.tar", ".")
    (shared / "untarred").mkdir()
    run("tar", "-C", shared / "untarred", "-xf", shared / "tree.tar")
    same(tree, shared / "untarred")
    run("rm", "-rf", shared / "copy", shared / "untarred")
    assert os.listdir(shared) == ["tree.tar"]


def test_an_rsync_with_everything_finds_nothing_left_to_do(owned, tree):
    for path in list(tree.rglob("*"))[::3]:
        os.chown(path, 1234, 2345, follow_symlinks=False)
    run("rsync", "-aHAX", f"{tree}/", owned / "copy")
    assert run("rsync", "-aHAX", "-n", "-i", f"{tree}/", owned / "copy") == ""
    assert run("rsync", "-aHAX", "-c", "-n", "-i", f"{tree}/", owned / "copy") == ""
    hard = owned / "copy" / "folder 1" / "deeper" / "hard"
    assert hard.stat().st_nlink == 2


def test_an_rsync_by_an_ordinary_mount_finds_nothing_left_to_do(shared, tree):
    run("rsync", "-rlptDHX", f"{tree}/", shared / "copy")
    assert run("rsync", "-rlptDHX", "-n", "-i", f"{tree}/", shared / "copy") == ""


def test_git_from_init_to_fsck_and_back(shared, tree):
    repository = shared / "repository"
    shutil.copytree(tree, repository, symlinks=True, ignore=shutil.ignore_patterns("fifo"))
    environment = os.environ | GIT_NOBODY
    run("git", "init", "-q", repository, env=environment)
    git = ("git", "-c", "gc.auto=0", "-C", repository)
    run(*git, "add", "-A", env=environment)
    run(*git, "commit", "-qm", "all", env=environment)
    assert run(*git, "status", "--porcelain", env=environment) == ""
    run(*git, "checkout", "-qb", "side", env=environment)
    run(*git, "rm", "-rqf", "folder 1", env=environment)
    run(*git, "commit", "-qm", "less", env=environment)
    run(*git, "checkout", "-q", "-", env=environment)
    run(*git, "repack", "-adq", env=environment)
    run(*git, "fsck", "--strict", env=environment)
    run("git", "clone", "-q", repository, shared / "clone", env=environment)
    same(repository / "folder 1", shared / "clone" / "folder 1")


def test_saving_as_editors_do_leaves_one_whole_file(shared):
    path = shared / "document"
    path.write_text("first")
    for number in range(30):
        scratch = shared / ".document.swp"
        with scratch.open("w") as file:
            file.write(f"version {number}")
            file.flush()
            os.fsync(file.fileno())
        os.rename(path, shared / "document~")
        os.rename(scratch, path)
    assert path.read_text() == "version 29"
    assert (shared / "document~").read_text() == "version 28"


def test_sqlite_keeps_a_database_here(shared):
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('pragma journal_mode=delete');"
        "c.execute('create table t(a)');"
        "[c.execute('insert into t values(?)', (i,)) or c.commit() for i in range(20)];"
        "print(c.execute('select sum(a) from t').fetchone()[0], c.execute('pragma integrity_check').fetchone()[0])"
    )
    assert run("python3", "-c", script, shared / "db").split() == ["190", "ok"]


def test_a_program_may_be_run_from_here(shared):
    program = shared / "program"
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    assert run(program) == "ran\n"
    shutil.copy("/bin/true", shared / "true")
    run(shared / "true")
    assert stat.S_IMODE((shared / "true").stat().st_mode) & 0o111
