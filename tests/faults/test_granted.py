"""What a grantee or a reader can do with a real mount of a part of somebody's space, and what he cannot."""

import errno
import os
import subprocess
import time

import pytest

from tests.fixtures.cluster import Cluster, Mount, wait_until
from tests.fixtures.sharing import Sharer

SHOWN_WITHIN_S = 15.0  # a reader asks once a second; the rest is for a busy machine
SMALL_FILES = 40


@pytest.fixture
def ann(cluster):
    return Sharer(cluster, "ann")


@pytest.fixture
def bob(cluster):
    return Sharer(cluster, "bob")


@pytest.fixture
def mine(ann):
    """Ann's mount: folder ``given`` is to be shared, the rest is nobody's business."""
    mount = ann.mount()
    (mount / "given" / "sub").mkdir(parents=True)
    (mount / "private").mkdir()
    for number in range(SMALL_FILES):  # side by side in the same blocks
        (mount / "given" / f"file{number}").write_text(f"for bob {number}" * 50)
        (mount / "private" / f"file{number}").write_text(f"secret {number}" * 50)
    (mount / "given" / "large").write_bytes(os.urandom(3 << 20))
    mount.sync()
    return mount


def run(*command: object, at: object = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=at, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def refused(action, *codes: int) -> None:
    with pytest.raises(OSError) as caught:
        action()
    assert caught.value.errno in codes, caught.value


def contents(folder) -> dict[str, bytes | str]:
    """What lies below a folder: bytes of files, targets of symlinks."""
    found: dict[str, bytes | str] = {}
    for at, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(at, name)
            key = os.path.relpath(path, folder)
            if os.path.islink(path):
                found[key] = os.readlink(path)
            elif name in files:
                with open(path, "rb") as file:
                    found[key] = file.read()
    return found


def test_a_grantee_with_both_rights_works_as_in_any_folder(cluster: Cluster, ann, bob, mine):
    grant = ann.give(mine, "given", bob, rw=True)
    given_before = contents(mine / "given")
    mine.umount()
    theirs = bob.mount("--grant", grant)
    assert contents(theirs.path) == given_before
    source = cluster.new_path("tree")
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / "data").write_bytes(os.urandom(300_000))
    (source / "empty").touch()
    run("cp", "-r", source, theirs / "copy")
    repository = theirs / "repo"
    git = ("git", "-c", "user.name=bob", "-c", "user.email=bob@example.org", "-c", "init.defaultBranch=main")
    repository.mkdir()
    run(*git, "init", "-q", at=repository)
    for number in range(20):
        (repository / f"page{number}").write_text(f"page {number}\n" * number)
    run(*git, "add", ".", at=repository)
    run(*git, "commit", "-q", "-m", "first", at=repository)
    (repository / "page1").write_text("other\n")
    run(*git, "commit", "-q", "-a", "-m", "second", at=repository)
    run(*git, "fsck", "--strict", at=repository)
    run("cp", "-r", source, theirs / "gone")
    run("rm", "-rf", theirs / "gone")
    os.rename(theirs / "file0", theirs / "sub" / "moved")
    os.link(theirs / "file1", theirs / "sub" / "second name")
    os.symlink("../file2", theirs / "sub" / "pointer")
    with open(theirs / "file3", "ab") as file:
        file.write(b"more")
        file.flush()
        os.fsync(file.fileno())
    with open(theirs / "file4", "r+b") as file:
        file.truncate(10)
        file.seek(20)
        file.write(b"after a hole")
    assert (theirs / "file4").read_bytes() == b"for bob 4f" + bytes(10) + b"after a hole"
    assert (theirs / "file3").read_bytes() == b"for bob 3" * 50 + b"more"
    there = contents(theirs.path)
    theirs.umount()
    theirs = bob.mount_again(theirs, "--grant", grant, cold=True)
    assert contents(theirs.path) == there
    run(*git, "fsck", "--strict", at=theirs / "repo")
    theirs.umount()
    mine = ann.mount_again(mine)
    assert contents(mine / "given") == there
    assert len(contents(mine / "private")) == SMALL_FILES
    assert (mine / "given" / "sub" / "second name").stat().st_nlink == 2


def test_nothing_leads_out_of_what_was_given(cluster: Cluster, ann, bob, mine):
    private = mine / "private"
    numbers = (private.stat().st_ino, (private / "file0").stat().st_ino)
    grant = ann.give(mine, "given", bob, rw=True)
    mine.umount()
    theirs = bob.mount("--grant", grant)
    assert os.path.samefile(theirs / "..", theirs.path.parent)
    root = os.open(theirs.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert os.stat("sub/..", dir_fd=root).st_ino == os.stat(theirs.path).st_ino == 1
        listed = run("ls", "-lai", theirs.path)
        assert "private" not in listed
        assert not {str(number) for number in numbers} & set(listed.split())
        for name in ("private", "given", "../private/file0", "sub/../../private/file0"):
            refused(lambda name=name: os.stat(name, dir_fd=root), errno.ENOENT)
    finally:
        os.close(root)
    outside = theirs.path.parent / "outside"
    refused(lambda: os.link(theirs / "file0", outside), errno.EXDEV)
    refused(lambda: os.rename(theirs / "file0", outside), errno.EXDEV)
    (theirs / "pointer").symlink_to("../../private/file0")
    refused(lambda: (theirs / "pointer").read_bytes(), errno.ENOENT)


@pytest.fixture(params=["grant", "member"])
def reader(request, ann, bob, mine) -> Mount:
    """Bob's mount of what he may only read."""
    if request.param == "grant":
        mount = bob.mount("--grant", ann.give(mine, "given", bob))
        mount.shared = mount.path
    else:
        ann.ask("POST", f"/v1/spaces/{ann.space}/members", user=bob.name, role="reader")
        mount = bob.mount("--space", ann.space)
        mount.shared = mount.path / "given"
    return mount


def test_who_may_only_read_reads_all_and_changes_nothing(reader, mine):
    shared = reader.shared
    assert contents(shared) == contents(mine / "given")
    no = (errno.EROFS, errno.EACCES)
    refused((shared / "new").touch, *no)
    refused((shared / "new").mkdir, *no)
    refused(lambda: (shared / "file0").write_text("x"), *no)
    refused(lambda: os.truncate(shared / "file0", 3), *no)
    refused(lambda: os.rename(shared / "file0", shared / "other"), *no)
    refused(lambda: os.link(shared / "file0", shared / "other"), *no)
    refused(lambda: os.symlink("x", shared / "other"), *no)
    refused((shared / "file0").unlink, *no)
    refused((shared / "sub").rmdir, *no)
    refused(lambda: (shared / "file0").chmod(0o600), *no)
    refused(lambda: os.setxattr(shared / "file0", "user.a", b"1"), *no)
    run("df", shared)
    run("df", "-i", shared)
    assert contents(shared) == contents(mine / "given")
    assert reader.status()["degraded"] == []
    reader.umount(within_s=20)


def test_who_only_reads_sees_what_others_ship(reader, mine):
    shared = reader.shared
    assert (shared / "file0").read_text() == "for bob 0" * 50
    (mine / "given" / "file0").write_text("changed")
    (mine / "given" / "new").write_text("brand new")
    (mine / "given" / "file1").unlink()
    os.rename(mine / "given" / "file2", mine / "given" / "sub" / "moved")
    with open(mine / "given" / "large", "r+b") as file:
        file.seek(1 << 20)
        file.write(b"middle")
    mine.sync()
    shipped_at = time.monotonic()

    def seen() -> bool:
        try:
            moved = (shared / "sub" / "moved").read_text() == "for bob 2" * 50
            fresh = (shared / "file0").read_text() == "changed" and (
                shared / "new"
            ).read_text() == "brand new"
        except FileNotFoundError:
            return False
        with open(shared / "large", "rb") as file:
            file.seek(1 << 20)
            middle = file.read(6) == b"middle"
        return moved and fresh and middle and not {"file1", "file2"} & set(os.listdir(shared))

    wait_until(seen, SHOWN_WITHIN_S, "a reader sees what was shipped")
    print(f"seen after {time.monotonic() - shipped_at:.2f} s")
    assert contents(shared) == contents(mine / "given")


def test_what_is_moved_out_of_what_was_given_is_gone_for_the_grantee(ann, bob, mine):
    (mine / "given" / "sub" / "paper").write_text("draft")
    mine.sync()
    theirs = bob.mount("--grant", ann.give(mine, "given", bob))
    assert (theirs / "sub" / "paper").read_text() == "draft"
    os.rename(mine / "given" / "sub", mine / "private" / "sub")
    (mine / "private" / "sub" / "paper").write_text("final, and secret")
    mine.sync()
    wait_until(lambda: not (theirs / "sub").exists(), SHOWN_WITHIN_S, "the folder is gone for the grantee")
    refused(lambda: (theirs / "sub" / "paper").read_text(), errno.ENOENT)
    os.rename(mine / "private" / "sub", mine / "given" / "back")
    mine.sync()
    wait_until(
        lambda: (
            (theirs / "back" / "paper").exists()
            and (theirs / "back" / "paper").read_text() == "final, and secret"
        ),
        SHOWN_WITHIN_S,
        "it is there again",
    )


def test_two_people_mount_a_space_in_turn(ann, bob):
    team = ann.team(editor=bob)
    for turn in range(3):
        first = ann.mount("--space", team)
        (first / f"ann{turn}").write_text(f"ann {turn}")
        if turn:
            assert (first / f"bob{turn - 1}").read_text() == f"bob {turn - 1}"
        first.umount()
        second = bob.mount("--space", team)
        assert (second / f"ann{turn}").read_text() == f"ann {turn}"
        (second / f"bob{turn}").write_text(f"bob {turn}")
        second.umount()
