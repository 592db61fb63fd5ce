"""Whoever watches over a mount unmounts it when the tie ends, and never what is somebody else's."""

import os

import pytest

from cloudverge_mount import autounmount
from cloudverge_mount.mountpoints import MountedThere


@pytest.fixture
def unmounted(monkeypatch):
    asked = []
    monkeypatch.setattr(autounmount, "unmount", lambda path, *, lazy: asked.append((path, lazy)))
    return asked


@pytest.mark.parametrize(
    ("there", "is_unmounted"),
    [("0:42", True), ("0:43", False), (None, False)],
    ids=["ours", "somebody else's", "nothing"],
)
def test_only_the_mount_with_our_device_number_is_unmounted(
    monkeypatch, tmp_path, unmounted, there, is_unmounted
):
    table = there and MountedThere(there, "fuse", "cloudverge")
    monkeypatch.setattr(autounmount, "mounted_at", lambda path: table)
    ours, theirs = os.pipe()
    os.write(theirs, b"still here")
    os.close(theirs)
    autounmount.watch(tmp_path, "0:42", ours)
    os.close(ours)
    assert unmounted == ([(tmp_path, True)] if is_unmounted else [])


def test_a_tie_that_is_released_leaves_no_process(tmp_path):
    tie = autounmount.Tie(tmp_path, "0:42")
    pid = tie._watcher.pid
    assert os.path.exists(f"/proc/{pid}")
    tie.release()
    assert not os.path.exists(f"/proc/{pid}")
